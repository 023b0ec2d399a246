"""Frame policies by hand-worked cases, and what all of them keep to."""

import numpy as np
import pytest

from mova_jax.evaluation.frame_policies import POLICIES, change_frames, window_frames


def directions(*degrees):
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def test_change_takes_the_frame_farthest_from_all_taken():
    vectors = directions(0, 1, 2, 90, 2, 1, 40, 0)
    times = np.arange(8.0)
    assert change_frames(vectors, times, 1).tolist() == [0]
    assert change_frames(vectors, times, 2).tolist() == [0, 3]
    # 40 degrees is 40 from the first and 50 from the other; all else is within 2 of the first
    assert change_frames(vectors, times, 3).tolist() == [0, 3, 6]
    assert change_frames(vectors, times, 4).tolist() == [0, 2, 3, 6]  # the earlier of two at 2


def test_change_finds_a_short_event_that_even_frames_miss():
    rng = np.random.default_rng(0)
    vectors = np.eye(8)[np.arange(900) % 3] + 0.05 * rng.normal(size=(900, 8))  # scenes that return
    vectors[437:440] = np.eye(8)[7]
    times = 2.0 * np.arange(900)
    event = {437, 438, 439}
    assert event & set(POLICIES["change"](vectors, times, 4).tolist())
    assert not event & set(POLICIES["even"](vectors, times, 64).tolist())


def test_the_length_of_vectors_and_vectors_of_zero_do_not_matter_to_change():
    vectors = directions(0, 3, 90, 5, 50)
    longer = vectors * np.array([[9], [1], [0.5], [100], [2]])
    times = np.arange(5.0)
    assert change_frames(vectors, times, 3).tolist() == change_frames(longer, times, 3).tolist()
    assert change_frames(np.zeros((5, 2)), times, 3).tolist() == [0, 1, 2]


def test_windows_lie_in_the_middle_of_their_segments():
    assert window_frames(None, np.arange(20.0), 6, windows=2).tolist() == [3, 4, 5, 13, 14, 15]
    assert window_frames(None, np.arange(20.0), 7, windows=2).tolist() == [3, 4, 5, 13, 14, 15]
    assert window_frames(None, np.arange(6.0), 7).tolist() == [0, 1, 2, 3, 4, 5]


def test_seconds_are_counted_from_the_start_or_thinned():
    times = np.arange(0, 10, 0.5)
    assert POLICIES["first"](None, times, 4).tolist() == [0, 2, 4, 6]
    assert POLICIES["fps1"](None, times, 4).tolist() == [2, 6, 12, 18]
    assert POLICIES["fps1"](None, times, 50).tolist() == [*range(0, 20, 2), 19]
    sparse = np.arange(0.0, 60, 2)
    assert POLICIES["first"](None, sparse, 3).tolist() == [0, 1, 2]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(("frames", "budget"), [(1, 4), (7, 7), (8, 7), (100, 9), (5, 1)])
def test_policies_keep_to_the_budget_and_to_time(policy, frames, budget):
    vectors = np.random.default_rng(0).normal(size=(frames, 3))
    taken = POLICIES[policy](vectors, np.arange(frames) * 1.0, budget)
    assert (np.diff(taken) > 0).all() and taken[0] >= 0 and taken[-1] < frames
    if policy == "all" or frames <= budget:
        assert len(taken) == frames
    else:
        assert budget - 8 < len(taken) <= budget
