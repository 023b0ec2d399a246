"""Tests of a record's bytes: as TFDS writes them, without TFDS, from any thread."""

import concurrent.futures
import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from mova_jax.data.shards import Caption, VideoRecord, parse, serialize
from mova_jax.data.shards.tfds_info import features_dict
from mova_jax.data.storyboard.generate import ensure


def record(index=0, frames=3, size=500):
    rng = np.random.default_rng(index)
    return VideoRecord(
        id=f"video {index} é",
        frames=tuple(rng.bytes(size + i) for i in range(frames)),
        height=4,
        width=6,
        timestamps=np.arange(frames, dtype=np.float32) / 3,
        duration=frames / 4,
        captions=(Caption("A cat sits.", 0.25, 1.5), Caption("Untimed ☂.")),
        alternatives=("short", ""),
        source="a/b.mp4",
        truth='{"events": []}',
    )


def same(one, two):
    fields = {field.name for field in dataclasses.fields(VideoRecord)} - {"timestamps"}
    np.testing.assert_array_equal(one.timestamps, two.timestamps)
    return all(getattr(one, name) == getattr(two, name) for name in fields)


@pytest.mark.parametrize("frames", [1, 7])
def test_a_record_comes_back_as_it_was(frames):
    one = record(frames=frames)
    again = parse(serialize(one))
    assert same(again, one)
    assert again.timestamps.dtype == np.float32
    assert again.caption == "A cat sits. Untimed ☂."
    assert [caption.timed for caption in again.captions] == [True, False]


def test_further_windows_of_a_sentence_come_back():
    plain = record()
    often = Caption("Often.", 0.5, 1.0, ((0.0, 0.25), (1.25, 1.5)))
    one = dataclasses.replace(plain, captions=(*plain.captions, often, Caption("Again.", 1, 2)))
    assert same(parse(serialize(one)), one)
    assert often.windows == ((0.5, 1.0), (0.0, 0.25), (1.25, 1.5))
    # Records without further windows have the bytes that they always had.
    assert b"captions/others" in serialize(one) and b"captions/others" not in serialize(plain)


def test_a_record_without_extras_comes_back():
    one = VideoRecord("a", (b"",), 1, 1, np.zeros(1), 1.0, (Caption("x"),))
    assert same(parse(serialize(one)), one)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": ""}, "must have an id"),
        ({"frames": ()}, "must have an id, frames and captions"),
        ({"captions": ()}, "must have an id, frames and captions"),
        ({"timestamps": np.zeros(2)}, "3 frames but 2 timestamps"),
    ],
)
def test_a_record_that_cannot_be_used_is_not_written(change, message):
    with pytest.raises(ValueError, match=message):
        serialize(dataclasses.replace(record(), **change))


@pytest.mark.parametrize("data", [b"", b"\x00garbage", serialize(record())[:-40]])
def test_other_bytes_are_norecord(data):
    with pytest.raises(ValueError, match="not a video record of schema 1"):
        parse(data)


def test_the_bytes_are_those_that_tfds_writes():
    from tensorflow_datasets.core.example_serializer import ExampleSerializer

    serializer = ExampleSerializer(features_dict().get_serialized_info())
    for one in (record(), dataclasses.replace(record(1), duration=1 / 3, alternatives=())):
        parts = ("text", "start", "end")
        captions = {part: [getattr(caption, part) for caption in one.captions] for part in parts}
        example = features_dict().encode_example(vars(one) | {"captions": captions})
        written = serializer.get_tf_example(example).SerializeToString(deterministic=True)
        assert serialize(one) == written


def test_threads_parse_at_once():
    records = [record(index, frames=1 + index % 5) for index in range(40)]
    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        data = list(threads.map(serialize, records * 5))
        assert all(map(same, threads.map(parse, data), records * 5))


_TRAIN = """
import sys
from mova_jax.data.pipeline.batching import PipelineSettings
from mova_jax.data.pipeline.dataset import train_dataset
from mova_jax.data.tokenizer import Tokenizer
settings = PipelineSettings(4, 16, threads=2)
tokenizer = Tokenizer(sys.argv[1] + "/tokenizer")
batches = iter(train_dataset(sys.argv[1], "train", tokenizer, settings, seed=0, batch_size=2))
batches.start_prefetch()
loaded = set(sys.modules)
assert next(batches)["frame_mask"].any()
late = [name for name in set(sys.modules) - loaded if name.startswith("google")]
print(late, [name for name in sys.modules if name.startswith("tensorflow")])
"""


def test_training_on_shards_imports_no_tfds(tmp_path):
    """Its import replaces Python's own for a while, in all threads, and takes a second."""
    folder = ensure(tmp_path / "story", 0, {"train": 4}, workers=0, image_size=16)
    command = [sys.executable, "-c", _TRAIN, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[] []\n"
