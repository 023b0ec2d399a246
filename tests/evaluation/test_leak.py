"""The leak of identity, by hand."""

import numpy as np
import pytest

from mova_jax.evaluation.leak import identity_leak


def test_leak_worked_by_hand():
    # Caption 0 finds its video; 1 is beaten; 2 shares the top with one other.
    scores = [
        [0.9, 0.8, 0.1],
        [0.1, 0.7, 0.5],
        [0.2, 0.1, 0.5],
    ]
    assert identity_leak(np.array(scores)) == 0.5


def test_equal_scores_leak_at_chance():
    assert identity_leak(np.full((3, 3), 0.3)) == pytest.approx(1 / 3)
    assert identity_leak(np.eye(3)) == 1.0
