"""Which features of a TFDS data set are the frames, the captions and their times.

In:  features.json of any data set, and what the user says of it.
Out: the feature of every field that a record needs, each in the form in which it is stored, which
     TFDS can read without TensorFlow:

    leaves = leaves_of(json.loads(text))              # {"video": Leaf(...), "cap/text": Leaf(...)}
    fields = choose_fields(leaves, {"captions": "cap"})
    fields["frames"], fields["captions"]              # "video", "cap/text"

Images are left as the bytes that are stored: nothing is decoded to look at a caption. A `Video` is
stored as a sequence of images and read as one; TFDS itself needs TensorFlow for it.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from tensorflow_datasets import features as tfds

from mova_jax.data.shards import ShardError
from mova_jax.data.tfds.names import FIELDS

# What a field is called where nobody says so; for the frames and the captions, the only feature
# that can be them is taken, whatever its name.
_NAMES = {
    "frames": ("frames", "video", "images", "image"),
    "captions": ("captions", "caption", "sentences", "sentence", "text", "description"),
    "alternatives": ("alternatives",),
    "timestamps": ("timestamps",),
    "duration": ("duration",),
    "id": ("id", "video_id"),
}


class Leaf(NamedTuple):
    """A feature that holds no others.

    Attributes:
        kind: "text", "bytes", "image" (encoded), "uint8", "number" or "other".
        shape: with a None in front for every sequence that it is in.
        shown: what it is, for a person.
        feature: as TFDS reads it, flat and undecoded; None where it cannot.
    """

    kind: str
    shape: tuple[int | None, ...]
    shown: str
    feature: Any


def leaves_of(features: Mapping[str, Any]) -> dict[str, Leaf]:
    """The features that hold no others, by their paths.

    Args:
        features: what features.json holds, in any of the forms that TFDS has written.

    Raises:
        ShardError: when it is of none of them.
    """
    leaves: dict[str, Leaf] = {}
    try:
        _collect(features, "", (), leaves)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ShardError(f"features.json is not as TFDS writes it ({error!r}).") from error
    return leaves


def _collect(node: Mapping[str, Any], path: str, outer: tuple, leaves: dict) -> None:
    """Adds the leaves below a node; `outer` are the lengths of the sequences around it."""
    name, content = _name_and_content(node)
    if name == "FeaturesDict":
        for key, inner in content.get("features", content).items():
            _collect(inner, f"{path}/{key}".strip("/"), outer, leaves)
    elif name == "Sequence":
        length = int(content.get("length") or -1)
        around = (*outer, None if length < 0 else length)
        _collect(content["feature"], path, around, leaves)
    else:
        leaves[path] = _leaf(node, name, content, outer)


def _name_and_content(node: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The class of a feature, '' when it is not one of TFDS's own, and what is in it."""
    if "type" in node:  # TFDS up to 4.5, and the outermost feature of some later ones
        class_name, content = node["type"], node["content"]
    else:
        class_name = node["pythonClassName"]
        [content] = [value for key, value in node.items() if key != "pythonClassName"] or [{}]
    module, _, name = class_name.rpartition(".")
    return (name if module.startswith("tensorflow_datasets.") else ""), content


def _leaf(node, name: str, content: Mapping[str, Any], outer: tuple) -> Leaf:
    shape, dtype = _shape(content), str(content.get("dtype", ""))
    encoded = tfds.Tensor(shape=(), dtype=np.bytes_)
    kind, feature, shown = "other", None, name or "a feature of its own making"
    if name == "Text":
        kind, feature, shape = "text", tfds.Text(), ()
    elif name == "Image" and dtype in ("", "uint8") and len(shape) in (0, 3):
        kind, feature, shape = "image", encoded, ()
    elif name == "Video" and dtype in ("", "uint8"):
        kind, feature, shape = "image", tfds.Sequence(encoded), (None,)
    elif name in ("Tensor", "Scalar"):
        feature = tfds.FeatureConnector.from_json(dict(node))
        shape, dtype = feature.shape, np.dtype(feature.np_dtype)
        kind = {"O": "bytes", "S": "bytes", "i": "number", "u": "number", "f": "number"}.get(
            dtype.kind, "other"
        )
        kind = "uint8" if dtype == np.uint8 else kind
        shown = f"{name} {'bytes' if kind == 'bytes' else dtype}{list(shape) if shape else ''}"
    elif dtype and dtype != "uint8":
        shown = f"{name} {dtype}"
    for length in reversed(outer):
        shown = f"Sequence({shown})"
        feature = None if feature is None else tfds.Sequence(feature, length=length)
    return Leaf(kind, (*outer, *shape), shown, feature)


def _shape(content: Mapping[str, Any]) -> tuple[int | None, ...]:
    shape = content.get("shape") or ()
    shape = shape.get("dimensions", ()) if isinstance(shape, Mapping) else shape
    sizes = [-1 if size is None else int(size) for size in shape]
    return tuple(None if size < 0 else size for size in sizes)


# ------------------------------------------------------------------------------ fields of a record


def _is_frames(leaf: Leaf) -> bool:
    rank = len(leaf.shape)
    if leaf.kind == "uint8":
        return rank == 4 and leaf.shape[-1] == 3
    return (leaf.kind, rank) in (("image", 0), ("image", 1), ("bytes", 1))


def _is_text(leaf: Leaf) -> bool:
    return leaf.kind in ("text", "bytes") and len(leaf.shape) <= 1


def _is_number(leaf: Leaf, ranks: tuple[int, ...]) -> bool:
    return leaf.kind in ("number", "uint8") and len(leaf.shape) in ranks


class _Form(NamedTuple):
    """What a feature has to be for a field."""

    fits: Callable[[Leaf], bool]
    shown: str


_TEXTS = _Form(_is_text, "a Text or a Sequence of Text")
_TIMES = _Form(lambda leaf: _is_number(leaf, (0, 1)), "a number of seconds for each caption")
_FORMS = {
    "frames": _Form(
        _is_frames,
        "an Image, a Sequence of Image or of encoded images, a Video, or uint8 [frames, H, W, 3]",
    ),
    "captions": _TEXTS,
    "alternatives": _TEXTS,
    "start": _TIMES,
    "end": _TIMES,
    "timestamps": _Form(lambda leaf: _is_number(leaf, (1,)), "a Sequence of seconds"),
    "duration": _Form(lambda leaf: _is_number(leaf, (0,)), "a number of seconds"),
    "id": _Form(
        lambda leaf: not leaf.shape and leaf.kind in ("text", "bytes", "number"),
        "a Text or a number",
    ),
}


def choose_fields(leaves: Mapping[str, Leaf], asked: Mapping[str, str]) -> dict[str, str]:
    """The path of the feature that each field is read from; fields without one are left out.

    Args:
        leaves: of the data set.
        asked: what the user said, by field; the path of a group stands for the text in it.

    Raises:
        ShardError: frames or captions are not found, or something that was asked for is not there
            or of another form; says all that is wrong, and what there is.
    """
    wrong: list[str] = []
    fields: dict[str, str] = {}
    for field in FIELDS:
        if field in asked:
            _ask(field, asked[field], leaves, fields, wrong)
        elif field in ("start", "end"):
            group = fields.get("captions", "").rpartition("/")[0]
            beside = f"{group}/{field}"
            if group and beside in leaves and _FORMS[field].fits(leaves[beside]):
                fields[field] = beside
        elif not (field == "captions" and "alternatives" in asked):
            _look(field, leaves, asked, fields, wrong)
    times = [field for field in ("start", "end") if field in fields]
    if len(times) == 1:
        wrong.append(f"there is {times[0]} but not the other of start and end")
    for field in times:
        if "captions" in fields and _ranks_differ(leaves, fields, field):
            wrong.append(f"{field}={fields[field]} has not one value for each caption")
    if wrong:
        there = "; ".join(f"{path}: {leaf.shown}" for path, leaf in sorted(leaves.items()))
        raise ShardError(
            f"{'; '.join(wrong)}. Its features: {there}. Say which is what: "
            "?frames=FEATURE&captions=FEATURE&..."
        )
    return fields


def _ask(field: str, path: str, leaves, fields: dict[str, str], wrong: list[str]) -> None:
    path = path.strip("/")
    inside = [inner for inner in leaves if inner.startswith(f"{path}/")]
    if path not in leaves and inside and _FORMS[field] is _TEXTS:
        texts = [inner for inner in inside if leaves[inner].kind == "text"]
        path = f"{path}/text" if f"{path}/text" in texts or len(texts) != 1 else texts[0]
    if path not in leaves:
        wrong.append(f"{field}={path}: there is no such feature")
    elif not _FORMS[field].fits(leaves[path]):
        wrong.append(f"{field}={path} is {leaves[path].shown}, not {_FORMS[field].shown}")
    else:
        fields[field] = path


def _look(field: str, leaves, asked, fields: dict[str, str], wrong: list[str]) -> None:
    """Finds a field that nobody named."""
    form, taken = _FORMS[field], {*asked.values(), *fields.values()}
    known = [path for name in _NAMES[field] for path in (name, f"{name}/text")]
    for path in known:
        if path in leaves and path not in taken and form.fits(leaves[path]):
            fields[field] = path
            return
    if field not in ("frames", "captions"):
        return
    kinds = ("text",) if field == "captions" else ("image", "bytes", "uint8")
    others = {*taken, *_NAMES["id"]}
    found = [p for p, leaf in leaves.items() if leaf.kind in kinds and form.fits(leaf)]
    found = [path for path in found if path not in others]
    if len(found) == 1:
        fields[field] = found[0]
    else:
        what = f"{len(found)} features could be" if found else "no feature is"
        wrong.append(f"{what} the {field} ({form.shown})")


def _ranks_differ(leaves, fields: dict[str, str], field: str) -> bool:
    return len(leaves[fields[field]].shape) != len(leaves[fields["captions"]].shape)
