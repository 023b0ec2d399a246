"""Maps the features of a TFDS data set to the fields of a record.

    leaves = leaves_of(json.loads(text))                      # of features.json
    fields = choose_fields(leaves, {"captions": "cap/text"})  # the others by their own names
    fields["frames"], fields["captions"]                      # "frames", "cap/text"

Each feature comes in the form in which it is stored, which TFDS can read without TensorFlow: images
stay the bytes that they are, and a `Video`, for which TFDS itself needs TensorFlow, is stored and
read as a sequence of images.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from tensorflow_datasets import features as tfds

from mova_jax.data.shards import ShardError
from mova_jax.data.tfds.names import FIELDS

_TEXTS = ("a Text or a Sequence of Text", {("text", 0), ("text", 1), ("bytes", 0), ("bytes", 1)})
_TIMES = ("a number of seconds for each caption", {("number", 0), ("number", 1)})
# The features that a field takes: in words, and as (kind, rank) of a `Leaf`.
_FORMS = {
    "frames": (
        "an Image, a Sequence of Image or of encoded images, a Video, or uint8 [frames, H, W, 3]",
        {("image", 0), ("image", 1), ("bytes", 1), ("pixels", 4)},
    ),
    "captions": _TEXTS,
    "alternatives": _TEXTS,
    "start": _TIMES,
    "end": _TIMES,
    "timestamps": ("a Sequence of seconds", {("number", 1)}),
    "duration": ("a number of seconds", {("number", 0)}),
    "id": ("a Text or a number", {("text", 0), ("bytes", 0), ("number", 0)}),
}
# Paths of fields that are not asked for, where they are not the field's name: as in our own shards.
_PATHS = {
    "captions": ("captions", "captions/text"),
    "start": ("captions/start",),
    "end": ("captions/end",),
}


class Leaf(NamedTuple):
    """A feature that holds no others.

    Attributes:
        kind: "text", "bytes", "image" (encoded), "pixels" (uint8[... 3]), "number" or "other".
        shape: with a None in front for every sequence that it is in.
        shown: its type, for messages.
        feature: as TFDS reads it, flat and undecoded; None where it cannot.
    """

    kind: str
    shape: tuple[int | None, ...]
    shown: str
    feature: Any


def leaves_of(features: Mapping[str, Any]) -> dict[str, Leaf]:
    """The features that hold no others, by their paths ("captions/text").

    Args:
        features: the contents of features.json, in any of the forms that TFDS has written.

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
    """The class of a feature, '' when it is not one of TFDS's own, and its description."""
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
        kind = "pixels" if dtype == np.uint8 and shape[-1:] == (3,) else kind
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


def choose_fields(leaves: Mapping[str, Leaf], asked: Mapping[str, str]) -> dict[str, str]:
    """The path of the feature that each field is read from; fields without one are left out.

    A field that is not asked for is the feature of its own name, if there is one of its form.

    Args:
        leaves: of the data set.
        asked: paths by field, from the data set's name.

    Raises:
        ShardError: there are no frames or no captions, or a feature that was asked for is missing
            or of another form; lists all that is wrong, and the features that there are.
    """
    wrong: list[str] = []
    fields: dict[str, str] = {}
    for field in FIELDS:
        shown, _ = _FORMS[field]
        path = asked.get(field, "").strip("/")
        if not path:
            if own := _own_feature(field, leaves, asked):
                fields[field] = own
        elif path not in leaves:
            wrong.append(f"{field}={path}: there is no such feature")
        elif not _fits(field, leaves[path]):
            wrong.append(f"{field}={path} is {leaves[path].shown}, not {shown}")
        else:
            fields[field] = path
    for field, others in (("frames", ()), ("captions", ("alternatives",))):
        if not {field, *others} & {*fields, *asked}:
            wrong.append(f"no feature {field!r} is {_FORMS[field][0]}")
    wrong += _wrong_times(leaves, fields)
    if wrong:
        there = "; ".join(f"{path}: {leaf.shown}" for path, leaf in sorted(leaves.items()))
        raise ShardError(
            f"{'; '.join(wrong)}. Its features: {there}. Say which is what: "
            "?frames=FEATURE&captions=FEATURE&..."
        )
    return fields


def _fits(field: str, leaf: Leaf) -> bool:
    return (leaf.kind, len(leaf.shape)) in _FORMS[field][1]


def _own_feature(field: str, leaves: Mapping[str, Leaf], asked: Mapping[str, str]) -> str:
    """The feature that has a field's name and form, '' when there is none."""
    if field in ("start", "end") and "captions" in asked:
        return ""  # they belong to other captions
    for path in _PATHS.get(field, (field,)):
        if path in leaves and path not in asked.values() and _fits(field, leaves[path]):
            return path
    return ""


def _wrong_times(leaves: Mapping[str, Leaf], fields: Mapping[str, str]) -> list[str]:
    times = [field for field in ("start", "end") if field in fields]
    if len(times) == 1:
        return [f"there is {times[0]} but not the other of start and end"]
    rank = len(leaves[fields["captions"]].shape) if "captions" in fields else None
    return [
        f"{field}={fields[field]} has not one value for each caption"
        for field in times
        if rank not in (None, len(leaves[fields[field]].shape))
    ]
