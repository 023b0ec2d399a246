"""A split of 23 small videos, and the pipeline over it."""

import dataclasses
import itertools

import numpy as np

from mova_jax.data.images import encode_jpeg
from mova_jax.data.pipeline.batching import PipelineSettings
from mova_jax.data.pipeline.dataset import eval_batches, train_dataset
from tests.clips import video_record, write_shards

RECORDS, FRAMES, SIZE, BATCH = 23, 6, 16, 5
STEPS = RECORDS // BATCH
SETTINGS = PipelineSettings(
    frames=FRAMES, image_size=SIZE, max_tokens=64, token_buckets=(16, 32, 64), threads=0
)
FIELDS = {"frames", "frame_mask", "timestamps", "tokens", "token_mask", "video_id"}
PART_FIELDS = {"part_tokens", "part_token_mask"}


def frame_of(record, frame):
    """A JPEG whose red is the number of the record and whose green that of the frame."""
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[:] = (record * 10, frame * 10, 0)
    return encode_jpeg(image, 100, "444")


def record_of(index):
    frames = 3 + index % 20
    words = " ".join(["red", "dog"] * (1 + index))
    return video_record(
        f"video-{index}",
        [(f"{words}.", 0.0, 1.0), "a cat sits.", ("it leaps.", 1, 2)],
        (f"short {index}",),
        [frame_of(index, i) for i in range(frames)],
        timestamps=np.arange(frames, dtype=np.float32) / 2,
        duration=frames / 2,
    )


def write(folder, records):
    write_shards(folder, {"train": records}, {"shard_records": 8})
    return folder


def train(folder, tokenizer, seed=0, batch_size=BATCH, process=(0, 1), images=(0, 0), **changes):
    return train_dataset(
        folder,
        "train",
        tokenizer,
        dataclasses.replace(SETTINGS, **changes),
        seed=seed,
        batch_size=batch_size,
        image_steps=images[0],
        image_batch_size=images[1],
        process_index=process[0],
        process_count=process[1],
    )


def take(iterator, count):
    return list(itertools.islice(iterator, count))


def evaluate(folder, tokenizer, batch_size=BATCH, limit=0, **changes):
    settings = dataclasses.replace(SETTINGS, **changes)
    return list(eval_batches(folder, "train", tokenizer, settings, batch_size, limit))


def said(batch, row):
    """The ids of a row's caption."""
    return batch["tokens"][row][batch["token_mask"][row]].tolist()


def assert_same(got, expected):
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)
            assert one[name].dtype == other[name].dtype
