"""Captioned pictures and clips: what a montage is made of.

    items, skipped = read_items("flickr8k/captions.jsonl")
    frames = Frames(size=224, count=8)
    frames(items[0])            # JPEG bytes, each 224 x 224 pixels

A picture is one frame; a clip is a video file, or a folder of pictures.
"""

import functools
import os
import posixpath
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from mova_jax.data.annotations import InputError
from mova_jax.data.annotations.items import clean, noted, split_name
from mova_jax.data.annotations.videos import IMAGE_EXTENSIONS
from mova_jax.data.images import encode_jpeg, image_size, is_ppm, is_stored_format
from mova_jax.data.ingest.frame_converter import exif_matrix
from mova_jax.data.ingest.video_reader import DecodeError, VideoReader
from mova_jax.data.pipeline.sampling import even_numbers
from mova_jax.data.storage import Folder, escapes
from mova_jax.utils.text_files import parse_json

FIELDS = """\
  image     path of a picture, relative to the folder of the JSONL, inside of it; or
  video     path of a video, or of a folder with the frames of one
  frames    optional, for such a folder: the paths of its frames in order (by name)
  caption   what is seen, a sentence; or
  captions  several, each a caption of the whole picture or clip
  split     optional; otherwise assigned by --splits
  id        optional, unique; otherwise the path
Other fields are ignored."""

_KEPT = 4096  # items whose frames stay in memory
_UPRIGHT = (1, 0, 0, 1)


class CaptionedItem(NamedTuple):
    """A picture or a clip; the names of `annotations.assign_splits` where these are the same."""

    id: str
    video: str  # normalised path of the picture, the video or the folder of frames
    files: tuple[Path, ...]  # pictures in order, or one video
    captions: tuple[str, ...]  # sentences, each about all of it
    split: str  # '' when it is assigned later


def read_items(path: str | os.PathLike) -> tuple[list[CaptionedItem], list[dict[str, str]]]:
    """Reads a JSONL of captioned pictures or clips, see `FIELDS`.

    Returns:
        The usable lines in order, and {"id", "reason"} of the others.

    Raises:
        InputError: there is no such file, or no line of it can be used.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no file {path}; --input is a JSONL, one picture or clip a line")
    folder, seen = Folder(path.parent), set()
    items, skipped = [], []
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                item = _item(line, folder)
                if item.id in seen:
                    raise ValueError(f"the id {item.id!r} was already used")
            except (ValueError, OSError, RecursionError) as error:
                skipped.append(noted(f"line {number}", error))
                continue
            seen.add(item.id)
            items.append(item)
    if not items:
        first = f": {skipped[0]['id']}: {skipped[0]['reason']}" if skipped else ""
        raise InputError(
            f"No line of {path} could be used ({len(skipped)} skipped{first}); they must look like "
            '{"image": "a.jpg", "captions": ["A cat sits."]}'
        )
    return items, skipped


def _item(line: bytes, folder: Folder) -> CaptionedItem:
    fields = parse_json(line)
    if not isinstance(fields, dict):
        raise ValueError(f"not a JSON object but {type(fields).__name__}")
    name = fields.get("image") or fields.get("video")
    inside = _inside(name, folder)
    listed = fields.get("frames")
    if listed is not None and (not isinstance(listed, list) or not listed):
        raise ValueError(f"`frames` must be a list of paths, got {listed!r}")
    if listed:
        files = [_inside(frame, folder) for frame in listed]
    elif (Path(folder.path) / inside).is_dir():
        found = [frame for frame in folder.names(inside) if _is_picture(frame)]
        files = [_inside(posixpath.join(inside, frame), folder) for frame in found]
    else:
        files = [inside]
    paths = tuple(Path(folder.path) / file for file in files)
    if missing := [file for file, at in zip(files, paths, strict=True) if not at.is_file()]:
        raise ValueError(f"there is no file {missing[0]}")
    if not paths:
        raise ValueError(f"there are no pictures in the folder {inside}")
    identity = fields.get("id")
    identity = clean(str(inside if identity is None else identity))
    return CaptionedItem(
        identity, inside, paths, _captions(fields), split_name(fields.get("split"))
    )


def _inside(name: Any, folder: Folder) -> str:
    """The normalised path of a file in the folder of the JSONL.

    Raises:
        ValueError: it is no path, or leads out of the folder.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"`image` or `video` must be a path, got {name!r}")
    if escapes(name) or folder.links_outside(name):
        raise ValueError(f"the path {name!r} leaves the folder of the JSONL")
    return posixpath.normpath(name)


def _captions(fields: dict[str, Any]) -> tuple[str, ...]:
    found = fields.get("captions") or [fields.get("caption")]
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise ValueError("it has no `caption`, a text, and no `captions`, a list of texts")
    sentences = dict.fromkeys(sentence for text in found if (sentence := as_sentence(text)))
    if not sentences:
        raise ValueError("its captions are empty")
    return tuple(sentences)


def as_sentence(text: str) -> str:
    """The text as a sentence with its end, so that a paragraph of several can be divided again.

    Captions are often written without a full stop, or with a space before it.
    """
    text = clean(text).rstrip(" .")
    end = "" if text.endswith(("!", "?", "…")) else "."
    return f"{text[:1].upper()}{text[1:]}{end}" if text else ""


def _is_picture(name: str) -> bool:
    return name.lower().endswith(IMAGE_EXTENSIONS) and not name.startswith(".")


class Frames:
    """Frames of items as JPEG bytes, square, all of one size; those used last stay in memory."""

    def __init__(self, size: int, count: int, fps: float = 1.0):
        """Takes what all items share.

        Args:
            size: pixels a side; the centre square of a frame is scaled to it.
            count: frames of an item at most: the first ones of a video, even ones of a folder.
            fps: frames a second that are read of a video.
        """
        self._size, self._count, self._fps = size, count, fps
        self._of = functools.lru_cache(_KEPT)(self._read)

    def __call__(self, item: CaptionedItem) -> tuple[bytes, ...]:
        """The frames of an item, at least one.

        Raises:
            InputError: a file cannot be decoded.
        """
        return self._of(item)

    def _read(self, item: CaptionedItem) -> tuple[bytes, ...]:
        file = item.files[0]
        try:
            if _is_picture(file.name):
                picked = even_numbers(len(item.files), self._count)
                return tuple(self._picture(item.files[index]) for index in picked)
            frames: Iterator[np.ndarray] = iter(VideoReader(file, self._fps, short_side=0))
            return tuple(encode_jpeg(self._square(frame)) for frame in islice(frames, self._count))
        except (DecodeError, OSError, ValueError) as error:
            raise InputError(
                f"{item.id} cannot be decoded ({error}): remove its line from the JSONL, or repair "
                f"{file}."
            ) from error

    def _picture(self, file: Path) -> bytes:
        """A picture; the bytes of its file where they fit as they are."""
        data = file.read_bytes()
        if is_stored_format(data) and not is_ppm(data):
            fits = image_size(data) == (self._size, self._size)
            if fits and exif_matrix(str(file)) == _UPRIGHT:
                return data
        (image,) = islice(VideoReader(file, 1.0, short_side=0), 1)
        return encode_jpeg(self._square(image))

    def _square(self, image: np.ndarray) -> np.ndarray:
        side = (self._size, self._size)
        return np.asarray(ImageOps.fit(Image.fromarray(image), side, Image.Resampling.BICUBIC))
