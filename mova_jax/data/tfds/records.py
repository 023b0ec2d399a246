"""The values of a TFDS example to a `VideoRecord`.

    record_of({"frames": [png, png], "captions": b"A cat sits."}, "train/0", fps=1.0, source="...")

JPEG frames stay as they are. Others become PPM (`images.py`), each when it is asked for: a PNG, in
which TFDS stores a `Video`, takes ten times as long as a JPEG, and few frames of a video go into a
batch. This file needs neither TensorFlow nor TFDS.
"""

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from mova_jax.data.annotations.items import clean, sentence_of
from mova_jax.data.images import encode_ppm, is_stored_format
from mova_jax.data.shards import Caption, ShardError, VideoRecord


def record_of(values: Mapping[str, Any], fallback: str, fps: float, source: str) -> VideoRecord:
    """Makes a record of the values of a TFDS example.

    Args:
        values: by field, see `names.FIELDS`; images are encoded, or uint8[f H W 3].
        fallback: the id, where there is none.
        fps: of the frames, where there are no timestamps.
        source: the `source` of the record.

    Raises:
        ValueError: there are no frames or no captions, the first image does not open, or the
            timestamps do not ascend or are not one for each frame.
    """
    name = _id(values.get("id")) or fallback
    frames = _frames(values["frames"], f"record {name!r} of {source}")
    if not frames:
        raise ValueError("it has no frames")
    captions, alternatives = _captions(values)
    timestamps = _timestamps(values.get("timestamps"), len(frames), fps)
    step = float(timestamps[-1] - timestamps[-2]) if len(frames) > 1 else 1 / fps
    height, width = frames.size if isinstance(frames, Frames) else _size(frames[0])
    return VideoRecord(
        id=name,
        frames=frames,
        height=height,
        width=width,
        timestamps=timestamps,
        duration=float(values.get("duration", timestamps[-1] + step)),
        captions=captions,
        alternatives=alternatives,
        source=source,
    )


class Frames(Sequence):
    """A tuple of frames, of which each becomes JPEG or PPM when it is asked for."""

    def __init__(self, stored: Sequence[bytes | np.ndarray], place: str):
        """Takes encoded images, or pixels u8[H W 3], and their name in error messages."""
        self._stored, self._place = stored, place

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the first frame; ValueError when it is no image."""
        return _size(self._stored[0])

    def __len__(self) -> int:
        return len(self._stored)

    def __getitem__(self, index):
        """A frame, or a tuple of them.

        Raises:
            ShardError: when it is not an image, or damaged.
        """
        if isinstance(index, slice):
            return tuple(self[i] for i in range(len(self))[index])
        try:
            return _readable(self._stored[index])
        except ValueError as error:
            raise ShardError(
                f"Frame {index} of {self._place} cannot be used: {error}. Make the data set "
                "without it."
            ) from error


def _frames(value: Any, place: str) -> tuple[bytes, ...] | Frames:
    stored = (value,) if isinstance(value, bytes) else tuple(value)
    ready = all(isinstance(frame, bytes) and is_stored_format(frame) for frame in stored)
    return stored if ready else Frames(stored, place)


def _readable(frame: bytes | np.ndarray) -> bytes:
    """An image as JPEG or PPM."""
    if isinstance(frame, np.ndarray):
        return encode_ppm(frame)
    if is_stored_format(frame):
        return frame
    with _reraise_as_value_error(frame), Image.open(io.BytesIO(frame)) as image:
        if image.mode.startswith(("I", "F")):
            raise ValueError(f"it has pixels of {image.mode}, not of 8 bits")
        return encode_ppm(np.asarray(image.convert("RGB")))


def _size(frame: bytes | np.ndarray) -> tuple[int, int]:
    """Height and width; of an encoded image, from its header."""
    if isinstance(frame, np.ndarray):
        return frame.shape[:2]
    with _reraise_as_value_error(frame), Image.open(io.BytesIO(frame)) as image:
        return image.height, image.width


@contextlib.contextmanager
def _reraise_as_value_error(frame: bytes) -> Iterator[None]:
    try:
        yield
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"it does not open as an image: {frame[:16]!r}...") from error


def _captions(values: Mapping[str, Any]) -> tuple[tuple[Caption, ...], tuple[str, ...]]:
    """Sentences with their times, and alternatives; the first of them where no sentence is left."""
    texts = _texts(values.get("captions", ()))
    starts, ends = (_numbers(values.get(key), len(texts)) for key in ("start", "end"))
    sentences = [sentence_of(*sentence)[0] for sentence in zip(texts, starts, ends, strict=True)]
    sentences = [sentence for sentence in sentences if sentence.text]
    others = [text for text in map(clean, _texts(values.get("alternatives", ()))) if text]
    if not sentences and others:
        sentences = [Caption(others.pop(0))]
    if not sentences:
        raise ValueError("it has no caption")
    return tuple(sentences), tuple(others)


def _texts(value: Any) -> list[str]:
    texts = [value] if isinstance(value, bytes) else value
    return [text.decode("utf-8", "replace") for text in texts]


def _numbers(value: Any, count: int) -> list[float | None]:
    if value is None:
        return [None] * count
    numbers = np.atleast_1d(np.asarray(value, np.float64)).tolist()
    if len(numbers) != count:
        raise ValueError(f"it has {count} captions, but {len(numbers)} of their times")
    return numbers


def _timestamps(value: Any, count: int, fps: float) -> np.ndarray:
    if value is None:
        return np.arange(count, dtype=np.float32) / np.float32(fps)
    times = np.asarray(value, np.float32)
    if len(times) != count or not (np.diff(times) >= 0).all() or not np.isfinite(times).all():
        raise ValueError(f"its {count} frames need as many timestamps, ascending: {times.tolist()}")
    return times


def _id(value: Any) -> str:
    if value is None:
        return ""
    return clean(value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value))
