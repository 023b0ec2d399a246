"""The candidates of a video: its own caption and the hardest others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mova_jax.losses.hard_sfdm import hard_candidates


def test_hard_candidates_worked_by_hand():
    scores = jnp.array([[0.9, 0.1, 0.5, 0.4], [0.3, 0.0, 0.2, 0.8], [0.1, 0.2, 0.9, 0.3]])
    got = hard_candidates(scores, 2, jnp.arange(3))
    np.testing.assert_array_equal(got, [[0, 2, 3], [1, 3, 0], [2, 3, 1]])
    got = hard_candidates(scores, 1, jnp.array([3, 0, 2]))
    np.testing.assert_array_equal(got, [[3, 0], [0, 3], [2, 3]])


def test_padding_comes_last_and_the_own_caption_once():
    scores = jnp.full((3, 3), -jnp.inf).at[:, 1].set(0.0)
    got = hard_candidates(scores, 2, jnp.arange(3))
    assert np.all(np.sort(got, axis=1) == np.arange(3))
    assert got[0].tolist() == [0, 1, 2] and got[2].tolist() == [2, 1, 0]


def test_hard_candidates_pass_no_gradient_and_refuse_too_many():
    scores = jax.random.normal(jax.random.key(0), (3, 3))

    def total(scores):
        picked = hard_candidates(scores, 1, jnp.arange(3))
        return jnp.take_along_axis(scores, picked, axis=1).sum()

    gradient = jax.grad(total)(scores)
    assert np.all((gradient == 0) | (gradient == 1)) and gradient.sum() == 6
    with pytest.raises(ValueError, match="k is 3, but 3 captions"):
        hard_candidates(scores, 3, jnp.arange(3))
