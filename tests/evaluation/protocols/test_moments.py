"""Proposed moments against a loop over runs, and a case worked by hand."""

import numpy as np
import pytest

from mova_jax.evaluation.protocols.moments import (
    CUTS,
    KEPT,
    OVERLAP,
    iou,
    iou_with,
    padded_edges,
    propose,
)


def moments_by_loop(scores, edges):
    """Every run above every cut; the best mean first, without those that overlap it."""
    low, high = min(scores), max(scores)
    proposals = set()
    for cut in CUTS:
        first = None
        for frame in range(len(scores) + 1):
            above = frame < len(scores) and scores[frame] >= low + cut * (high - low)
            if above and first is None:
                first = frame
            if not above and first is not None:
                proposals.add((edges[first], edges[frame], np.mean(scores[first:frame])))
                first = None
    kept = []
    for start, end, score in sorted(proposals, key=lambda p: (-p[2], p[0], p[1])):
        if all(float(iou(*map(np.array, (start, end, *k[:2])))) <= OVERLAP for k in kept):
            kept.append((start, end, score))
    return kept[:KEPT]


def test_moments_are_those_of_a_loop_and_padding_changes_none():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 20, 60)
    mask = np.arange(24) < lengths[:, None]
    times = np.cumsum(rng.uniform(0.5, 2, mask.shape), axis=1)
    scores = np.where(mask, rng.normal(size=mask.shape), np.nan)
    edges = padded_edges(times, mask)
    found = propose(scores, mask, edges)
    for row, n in enumerate(lengths):
        expected = moments_by_loop(scores[row, :n], edges[row])
        count = np.isfinite(found.score[row]).sum()
        got = np.stack([found.start[row], found.end[row], found.score[row]], -1)[:count]
        np.testing.assert_allclose(got, expected, rtol=1e-12)
        alone = propose(scores[row : row + 1, :n], mask[row : row + 1, :n], edges[row : row + 1])
        assert (np.array(alone)[:, 0] == np.array(found)[:, row]).all()


def test_a_case_by_hand():
    times = np.array([[0.5, 1.5, 2.5, 3.5, 4.5]])
    scores = np.array([[0.0, 1.0, 0.6, 0.1, 0.4]])
    found = propose(scores, np.ones((1, 5), bool), padded_edges(times, np.ones((1, 5), bool)))
    # Reach 0.7: [1, 2). 0.5: [1, 3). 0.3: [1, 3) and [4, 5). [1, 3) overlaps [1, 2) by 0.5: kept.
    assert found.start[0, :3].tolist() == [1.0, 1.0, 4.0]
    assert found.end[0, :3].tolist() == [2.0, 3.0, 5.0]
    np.testing.assert_allclose(found.score[0, :3], [1.0, 0.8, 0.4])
    assert np.isneginf(found.score[0, 3:]).all()
    overlap = iou_with(found, [np.array([[0.0, 2.0], [4.0, 5.0]])])
    np.testing.assert_allclose(overlap, [[0.5, 1 / 3, 1.0, 0.0, 0.0]])


def test_a_constant_score_proposes_the_whole_video():
    times, mask = np.array([[1.0, 3.0, 5.0]]), np.ones((1, 3), bool)
    found = propose(np.full((1, 3), 0.25), mask, padded_edges(times, mask))
    assert (found.start[0, 0], found.end[0, 0], found.score[0, 0]) == (0.0, 6.0, 0.25)
    assert np.isneginf(found.score[0, 1:]).all()


def test_a_score_that_is_not_finite_is_an_error():
    mask = np.ones((1, 2), bool)
    with pytest.raises(FloatingPointError, match="1 scores"):
        propose(np.array([[1.0, np.nan]]), mask, np.array([[0.0, 1.0, 2.0]]))
