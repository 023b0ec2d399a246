"""The leak of identity, by hand and in a loop."""

import numpy as np
import pytest

from mova_jax.evaluation.leak import leak_auc

TRUE_VIDEO = np.array([2, 3, 0, 1])


def test_leak_worked_by_hand():
    # Caption 0 was given to video 0 and written for 2, which wins and is left out: of 1 and 3, one
    # is below. Caption 1: both below. Caption 2: a tie, and one above. Caption 3: both above.
    scores = [
        [0.5, 0.1, 0.9, 0.6],
        [0.4, 0.3, 0.2, 0.9],
        [0.9, 0.2, 0.2, 0.7],
        [0.6, 0.9, 0.8, 0.1],
    ]
    assert leak_auc(np.array(scores), TRUE_VIDEO) == pytest.approx((0.5 + 1 + 0.25 + 0) / 4)


def test_the_leak_is_that_of_a_loop_over_captions_and_videos():
    rng = np.random.default_rng(0)
    count = 9
    true_video = np.roll(np.arange(count), count // 2)
    scores = rng.integers(0, 4, (count, count)).astype(np.float32)  # many ties
    shares = []
    for c in range(count):
        others = [v for v in range(count) if v not in (c, true_video[c])]
        wins = [float(scores[v, c] < scores[c, c]) for v in others]
        ties = [0.5 * float(scores[v, c] == scores[c, c]) for v in others]
        shares.append(np.mean(np.add(wins, ties)))
    assert leak_auc(scores, true_video) == pytest.approx(np.mean(shares))


def test_equal_scores_are_at_chance_and_the_true_video_hides_no_leak():
    assert leak_auc(np.full((4, 4), 0.3), TRUE_VIDEO) == 0.5
    leaking = np.eye(4)
    assert leak_auc(leaking, TRUE_VIDEO) == 1.0
    leaking[TRUE_VIDEO, np.arange(4)] = 2.0  # the caption's true video scores highest
    assert leak_auc(leaking, TRUE_VIDEO) == 1.0
