"""Queries by the length of their video and the share of their moment."""

import numpy as np

from mova_jax.evaluation.protocols.groups import (
    LENGTHS,
    SHARES,
    by_length,
    by_share,
    group_labels,
    grouped,
    video_seconds,
)


def test_each_query_is_in_one_group_and_a_border_belongs_to_the_longer_one():
    groups = by_length(np.array([0.5, 59.9, 60.0, 179.0, 600.0, 5000.0]))
    assert [np.flatnonzero(rows).tolist() for rows in groups.values()] == [
        [0, 1],
        [2, 3],
        [],
        [4, 5],
    ]
    shares = by_share(np.array([0.3, 0.05, 1.2, 0.1]))
    assert [np.flatnonzero(rows).tolist() for rows in shares.values()] == [[1], [3], [0, 2]]


def test_an_empty_group_has_no_metric():
    values = np.array([1.0, 3.0, 8.0])
    groups = by_length(np.array([10.0, 20.0, 700.0]))
    found = grouped(groups, lambda rows: {"mean": float(values[rows].mean())})
    assert found == {
        "under_60s/mean": 2.0,
        "under_60s/queries": 2.0,
        "600s_and_more/mean": 8.0,
        "600s_and_more/queries": 1.0,
    }
    labels = group_labels("x", {"mean": "mean"}, (*LENGTHS, *SHARES))
    assert labels["x/under_60s/mean"] == "mean, under 60 s"
    assert len(labels) == len(LENGTHS) + len(SHARES)
    assert not any(label.endswith("%") for label in labels.values())  # they would be times 100


def test_evenly_sampled_frames_give_the_duration_and_padding_none():
    times = np.array([[5.0, 15.0, 25.0, 0.0], [2.0, 0.0, 0.0, 0.0]])
    mask = np.array([[True, True, True, False], [True, False, False, False]])
    assert video_seconds(times, mask).tolist() == [30.0, 2.5]
