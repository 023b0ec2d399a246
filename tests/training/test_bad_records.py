"""Which records are reported as bad, and when there are too many."""

import numpy as np

from mova_jax.training.bad_records import BadRecords


def batch(ids, bad=()):
    readable = ~np.isin(ids, list(bad))
    return {"video_id": np.array(ids), "frame_mask": np.repeat(readable[:, None], 3, axis=1)}


def make():
    lines = []
    return BadRecords(lambda video_id: f"record {video_id} of X", lines.append), lines


def test_each_bad_record_is_reported_and_counted_once():
    bad_records, lines = make()
    for _ in range(3):  # epochs
        bad_records.observe(batch([0, 1, 2], bad=[1]))
        bad_records.observe(batch([3, 4, 5], bad=[5]))
    assert bad_records.count == 2
    assert lines == [f"damaged, and left out: record {i} of X" for i in (1, 5)]


def test_more_than_ten_and_one_in_a_hundred_are_too_many():
    bad_records, _ = make()
    bad_records.observe(batch(range(1000), bad=range(10)))
    assert not bad_records.too_many
    bad_records.observe(batch([1000], bad=[1000]))
    assert bad_records.too_many
    assert "11 of 1001 that this process read. " in bad_records.summary()
    bad_records, _ = make()
    bad_records.observe(batch(range(2000), bad=range(20)))
    assert not bad_records.too_many
    assert "20 of 2000 that this process read, and more in another" in bad_records.summary()
    bad_records.observe(batch([2000, 0, 30], bad=[2000]))
    assert bad_records.too_many


def test_a_bad_record_in_a_batch_of_one_does_not_stop_the_run():
    bad_records, _ = make()
    bad_records.observe(batch([7], bad=[7]))
    assert not bad_records.too_many
