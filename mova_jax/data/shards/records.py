"""The record of a video: its frames, captions and times, and its bytes in a shard.

    data = serialize(VideoRecord(id="a", frames=..., captions=(Caption("A cat sits.", 0, 4),), ...))
    parse(data).captions

The bytes are a `tf.train.Example`, as TFDS would write it; neither TensorFlow nor TFDS is needed.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from mova_jax.data.shards.example_proto import Example

SCHEMA_VERSION = 1
LONGEST_TEXT = 1_000_000  # characters of the captions of a video: a film's dialogue has 100,000

# The features of an example, by the names that TFDS gives the fields of a record.
_KINDS = {
    "id": "bytes_list",
    "frames": "bytes_list",
    "height": "int64_list",
    "width": "int64_list",
    "timestamps": "float_list",
    "duration": "float_list",
    "captions/text": "bytes_list",
    "captions/start": "float_list",
    "captions/end": "float_list",
    "alternatives": "bytes_list",
    "source": "bytes_list",
    "truth": "bytes_list",
}
# Windows of captions after the first: start and end of each, and the index of its caption. Only in
# records that have some, so that all others keep their bytes; older readers pass it over.
_OTHERS, _OTHERS_OF = "captions/others", "captions/others_of"


@dataclasses.dataclass(frozen=True)
class Caption:
    """A sentence, and when it holds: start and end in seconds, both -1 when not known.

    It may hold in further windows, `others`, each with start and end.
    """

    text: str
    start: float = -1.0
    end: float = -1.0
    others: tuple[tuple[float, float], ...] = ()

    @property
    def timed(self) -> bool:
        """Whether start and end are known."""
        return self.end >= 0

    @property
    def windows(self) -> tuple[tuple[float, float], ...]:
        """Start and end of all windows; none when they are not known."""
        return ((self.start, self.end), *self.others) if self.timed else ()


@dataclasses.dataclass(frozen=True)
class VideoRecord:
    """A video as it is stored.

    Attributes:
        id: unique in the split.
        frames: f JPEG or PPM images, all height x width.
        height: of the frames, pixels.
        width: of the frames, pixels.
        timestamps: float32[f], seconds from the start of the video, ascending.
        duration: seconds.
        captions: sentences in order; joined by a space they are the video's caption.
        alternatives: further captions of the whole video, may be empty.
        source: where the frames come from (a file name, a generator).
        truth: JSON text: the planted truth of generated videos, the `domain` of others; or ''.
    """

    id: str
    frames: tuple[bytes, ...]
    height: int
    width: int
    timestamps: np.ndarray
    duration: float
    captions: tuple[Caption, ...]
    alternatives: tuple[str, ...] = ()
    source: str = ""
    truth: str = ""

    def __post_init__(self):
        """Checks the length of the texts, see `check_texts`."""
        check_texts(self.captions, self.alternatives)

    @property
    def caption(self) -> str:
        """All sentences as one text."""
        return " ".join(caption.text for caption in self.captions)


def check_texts(captions: Sequence[Caption], alternatives: Sequence[str]) -> None:
    """Refuses captions of a size that nobody wrote, on which cleaning and tokens would take hours.

    Raises:
        ValueError: together they have more than `LONGEST_TEXT` characters.
    """
    length = sum(len(caption.text) for caption in captions) + sum(map(len, alternatives))
    if length > LONGEST_TEXT:
        raise ValueError(
            f"its captions have {length:,} characters together, expected {LONGEST_TEXT:,} at most"
        )


def serialize(record: VideoRecord) -> bytes:
    """Turns a record into the bytes of a tf.train.Example; equal records give equal bytes.

    Raises:
        ValueError: when the record has no id, no frames or no captions, or when frames and
            timestamps differ in number.
    """
    if not record.id or not record.frames or not record.captions:
        raise ValueError(f"Record {record.id!r} must have an id, frames and captions.")
    if len(record.frames) != len(record.timestamps):
        raise ValueError(
            f"Record {record.id!r} has {len(record.frames)} frames but "
            f"{len(record.timestamps)} timestamps; every frame needs one."
        )
    captions = record.captions
    columns = {
        "id": [record.id.encode()],
        "frames": list(record.frames),
        "height": [record.height],
        "width": [record.width],
        "timestamps": np.asarray(record.timestamps, np.float32).tolist(),
        "duration": [record.duration],
        "captions/text": [caption.text.encode() for caption in captions],
        "captions/start": [caption.start for caption in captions],
        "captions/end": [caption.end for caption in captions],
        "alternatives": [text.encode() for text in record.alternatives],
        "source": [record.source.encode()],
        "truth": [record.truth.encode()],
    }
    features = {name: {kind: {"value": columns[name]}} for name, kind in _KINDS.items()}
    if others := [(i, *w) for i, caption in enumerate(captions) for w in caption.others]:
        features[_OTHERS_OF] = {"int64_list": {"value": [i for i, *_ in others]}}
        features[_OTHERS] = {"float_list": {"value": [t for _, *window in others for t in window]}}
    # Without `deterministic`, each process writes the map of features in an order of its own.
    return Example(features={"feature": features}).SerializeToString(deterministic=True)


def parse(data: bytes) -> VideoRecord:
    """Turns the bytes of `serialize` back into the record.

    Raises:
        ValueError: when the bytes are not a record of this schema.
    """
    try:
        features = Example.FromString(data).features.feature
        columns = {}
        for name, kind in _KINDS.items():
            if name not in features:
                raise ValueError(f"it has no field {name!r}")
            columns[name] = getattr(features[name], kind).value

        def text(name: str) -> str:
            (value,) = columns[name]
            return value.decode()

        (height,), (width,), (duration,) = map(columns.get, ("height", "width", "duration"))
        captions = [columns[f"captions/{part}"] for part in ("text", "start", "end")]
        captions.append(_other_windows(features, len(captions[0])))
        return VideoRecord(
            id=text("id"),
            frames=tuple(columns["frames"]),
            height=height,
            width=width,
            timestamps=np.array(columns["timestamps"], np.float32),
            duration=duration,
            captions=tuple(
                Caption(words.decode(), start, end, others)
                for words, start, end, others in zip(*captions, strict=True)
            ),
            alternatives=tuple(words.decode() for words in columns["alternatives"]),
            source=text("source"),
            truth=text("truth"),
        )
    except Exception as error:  # protobuf raises a dozen kinds
        raise ValueError(f"not a video record of schema {SCHEMA_VERSION}: {error}") from error


def _other_windows(features, captions: int) -> list[tuple[tuple[float, float], ...]]:
    """The windows of each caption after its first one."""
    found = [[] for _ in range(captions)]
    if _OTHERS_OF in features:
        times = list(features[_OTHERS].float_list.value)
        windows = zip(times[::2], times[1::2], strict=True)
        for caption, window in zip(features[_OTHERS_OF].int64_list.value, windows, strict=True):
            found[caption].append(window)
    return [tuple(windows) for windows in found]
