"""The record of a video: its frames, captions and times, and its bytes in a shard.

    data = serialize(VideoRecord(id="a", frames=..., captions=(Caption("A cat sits.", 0, 4),), ...))
    parse(data).captions

The bytes are a tf.train.Example as TFDS writes it, made and read without TensorFlow.
"""

import dataclasses
import functools
import threading

import numpy as np

SCHEMA_VERSION = 1

# TFDS imports its parts when they are first named, which fails in two threads at once.
TFDS_IMPORT = threading.RLock()


@dataclasses.dataclass(frozen=True)
class Caption:
    """A sentence, and when it holds: seconds, both -1 when nobody said when."""

    text: str
    start: float = -1.0
    end: float = -1.0

    @property
    def timed(self) -> bool:
        """Whether start and end are known."""
        return self.end >= 0


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
        truth: JSON text with the planted truth of generated videos, else ''.
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

    @property
    def caption(self) -> str:
        """All sentences as one text."""
        return " ".join(caption.text for caption in self.captions)


@functools.cache
def features_dict():
    """The fields of a record as a TFDS `FeaturesDict`."""
    with TFDS_IMPORT:
        # Half a second, and not needed to import us.
        from tensorflow_datasets import features as tfds

    def texts():
        return tfds.Sequence(tfds.Text())

    return tfds.FeaturesDict(
        {
            "id": tfds.Text(),
            "frames": tfds.Sequence(tfds.Tensor(shape=(), dtype=np.bytes_)),
            "height": tfds.Scalar(np.int32),
            "width": tfds.Scalar(np.int32),
            "timestamps": tfds.Sequence(tfds.Scalar(np.float32)),
            "duration": tfds.Scalar(np.float32),
            "captions": tfds.Sequence(
                {
                    "text": tfds.Text(),
                    "start": tfds.Scalar(np.float32),
                    "end": tfds.Scalar(np.float32),
                }
            ),
            "alternatives": texts(),
            "source": tfds.Text(),
            "truth": tfds.Text(),
        }
    )


@functools.cache
def _serializer():
    from tensorflow_datasets.core.example_serializer import ExampleSerializer

    return ExampleSerializer(features_dict().get_serialized_info())


def serialize(record: VideoRecord) -> bytes:
    """Turns a record into the bytes of a tf.train.Example.

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
    example = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    example["frames"] = list(record.frames)
    example["alternatives"] = list(record.alternatives)
    example["timestamps"] = np.asarray(record.timestamps, np.float32)
    example["captions"] = {
        name: [getattr(caption, name) for caption in record.captions]
        for name in ("text", "start", "end")
    }
    example = _serializer().get_tf_example(features_dict().encode_example(example))
    # Otherwise the order of the fields is another one in each process.
    return example.SerializeToString(deterministic=True)


@functools.cache
def _example():
    """The message that TFDS writes; its own parser takes several times as long as protobuf."""
    with TFDS_IMPORT:
        from tensorflow_datasets.proto import tf_example_pb2

    return tf_example_pb2.Example


def load_parser() -> None:
    """Imports what `parse` needs; to be called before threads parse.

    While TFDS is imported it replaces Python's own import, in all threads: another thread that
    traces then gets modules of JAX that are none.
    """
    _example()


def parse(data: bytes) -> VideoRecord:
    """Turns the bytes of `serialize` back into the record.

    Raises:
        ValueError: when the bytes are not a record of this schema.
    """
    try:
        fields = _example().FromString(data).features.feature

        def values(name: str, kind: str):
            if name not in fields:
                raise ValueError(f"it has no field {name!r}")
            return getattr(fields[name], kind).value

        def text(name: str) -> str:
            (value,) = values(name, "bytes_list")
            return value.decode()

        def number(name: str, kind: str) -> float:
            (value,) = values(name, kind)
            return value

        columns = [values(f"captions/{name}", "float_list") for name in ("start", "end")]
        return VideoRecord(
            id=text("id"),
            frames=tuple(values("frames", "bytes_list")),
            height=number("height", "int64_list"),
            width=number("width", "int64_list"),
            timestamps=np.array(values("timestamps", "float_list"), np.float32),
            duration=number("duration", "float_list"),
            captions=tuple(
                Caption(words.decode(), start, end)
                for words, start, end in zip(
                    values("captions/text", "bytes_list"), *columns, strict=True
                )
            ),
            alternatives=tuple(each.decode() for each in values("alternatives", "bytes_list")),
            source=text("source"),
            truth=text("truth"),
        )
    except Exception as error:  # protobuf raises a dozen kinds
        raise ValueError(f"not a video record of schema {SCHEMA_VERSION}: {error}") from error
