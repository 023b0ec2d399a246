"""What is told of damaged records, and when they are too many."""

import numpy as np

from mova_jax.training.bad_records import BadRecords


def batch(ids, damaged=()):
    whole = ~np.isin(ids, list(damaged))
    return {"video_id": np.array(ids), "frame_mask": np.repeat(whole[:, None], 3, axis=1)}


def watch():
    told = []
    return BadRecords(lambda video_id: f"record {video_id} of X", told.append), told


def test_each_damaged_record_is_told_once_and_counted_once():
    bad_records, told = watch()
    for _ in range(3):  # epochs
        bad_records.observe(batch([0, 1, 2], damaged=[1]))
        bad_records.observe(batch([3, 4, 5], damaged=[5]))
    assert bad_records.count == 2
    assert told == [f"damaged, and left out: record {i} of X" for i in (1, 5)]


def test_more_than_ten_and_one_in_a_hundred_are_too_many():
    bad_records, _ = watch()
    bad_records.observe(batch(range(1000), damaged=range(10)))
    assert not bad_records.too_many
    bad_records.observe(batch([1000], damaged=[1000]))
    assert bad_records.too_many
    assert "11 of 1001 that this process read" in bad_records.summary()
    bad_records, _ = watch()
    bad_records.observe(batch(range(2000), damaged=range(20)))
    assert not bad_records.too_many
    bad_records.observe(batch([2000, 0, 30], damaged=[2000]))
    assert bad_records.too_many


def test_one_bad_record_a_batch_of_one_is_no_reason_to_stop():
    bad_records, _ = watch()
    bad_records.observe(batch([7], damaged=[7]))
    assert not bad_records.too_many
