"""Damaged records, and splits that are too small: named, left out, or refused."""

import dataclasses

import numpy as np
import pytest

from mova_jax.data.shards import ShardError, open_split
from tests.data.pipeline.small_split import (
    evaluate,
    record_of,
    take,
    train,
    write,
)

# ---------------------------------------------------------------------------- what a batch holds


def _damaged(record):
    return dataclasses.replace(record, frames=tuple(jpeg[:40] for jpeg in record.frames))


@pytest.mark.parametrize("threads", [0, 2])
def test_a_damaged_frame_is_named_with_record_and_source(tmp_path, tokenizer, threads):
    write(tmp_path, [*map(record_of, range(9)), _damaged(record_of(9)), *map(record_of, (10, 11))])
    named = rf"'video-9'.*record 9 of SplitSource\(.*{tmp_path.name}', 'train'\)"
    with pytest.raises(ShardError, match=named):
        evaluate(tmp_path, tokenizer, 4, threads=threads)


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("images", [0, 4])
def test_training_leaves_damaged_records_out_and_the_rest_goes_on(
    tmp_path, tokenizer, threads, images
):
    """One record with half a picture, one whose bytes in the shard are no record."""
    records = [record_of(i) for i in range(12)]
    write(tmp_path / "whole", records)
    records[9] = _damaged(records[9])
    write(tmp_path / "damaged", records)
    shard = next((tmp_path / "damaged").glob("*array_record-00000*"))
    data = bytearray(shard.read_bytes())
    data[300] ^= 0xFF  # in the first record; far behind it there is padding
    shard.write_bytes(data)
    source, bad = open_split(tmp_path / "damaged", "train"), [9]
    for index in range(12):
        try:
            source[index]
        except ShardError:
            bad.append(index)
    assert len(bad) == 2
    dataset, right = (
        train(
            tmp_path / name, tokenizer, batch_size=3, images=(images, 3), threads=threads, parts=2
        )
        for name in ("damaged", "whole")
    )
    expected = take(iter(right), 4)
    for got, right in zip(take(iter(dataset), 4), expected, strict=True):
        damaged = np.isin(right["video_id"], bad)
        np.testing.assert_array_equal(got["video_id"], right["video_id"])
        for name in ("frames", "frame_mask", "timestamps", "token_mask"):
            width = got[name].shape[1]  # the longest caption may be that of a damaged record
            assert not got[name][damaged].any()
            np.testing.assert_array_equal(got[name][~damaged], right[name][:, :width][~damaged])
        assert not got["part_token_mask"][damaged].any()
        assert got["part_token_mask"][~damaged].any(-1).any(-1).all()
    found, named = dataset.record_ids([bad[1], 9])
    assert f"record {bad[1]} of SplitSource(" in found
    assert named == "video-9"


@pytest.mark.parametrize("sizes", [{"batch_size": 12, "process": (0, 2)}, {"images": (3, 24)}])
def test_a_split_smaller_than_a_batch_is_an_error(folder, other, tokenizer, sizes):
    message = r"23 records, too few for a global batch of 24.*: lower train\.batch_size"
    with pytest.raises(ValueError, match=message):
        train(folder, tokenizer, **sizes)
    with pytest.raises(ValueError, match=rf"{other.name}.* has 7 records.* takes 8 of it: lower"):
        train([(folder, 1), (other, 1)], tokenizer, batch_size=16)
