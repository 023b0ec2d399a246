"""The leak of identity, by hand."""

import jax
import jax.numpy as jnp
from pytest import approx

from mova_jax.evaluation.leak import identity_leak

B = 4
SOME = jnp.array([True, False, True, True])


def test_leak_worked_by_hand():
    # Caption 0 finds its video; 1 is beaten; 2 shares the top with one other; 3 is padded, and its
    # video, which would beat caption 0's, does not count.
    scores = jnp.array(
        [
            [0.9, 0.8, 0.1, 0.0],
            [0.1, 0.7, 0.5, 0.0],
            [0.2, 0.1, 0.5, 0.0],
            [1.0, 0.0, 0.9, 1.0],
        ]
    )
    got = identity_leak(scores, jnp.array([True, True, True, False]))
    assert tuple(got) == (1.5, 3.0)


def test_equal_scores_leak_at_chance():
    assert identity_leak(jnp.full((B, B), 0.3), SOME).mean == approx(1 / 3)
    assert identity_leak(jnp.eye(B), SOME).mean == 1.0


def test_leak_passes_no_gradient_and_ignores_padding():
    scores = jnp.tanh(jax.random.normal(jax.random.key(9), (B, B)))
    dirty = jnp.where(SOME[:, None] & SOME, scores, jnp.nan)
    assert identity_leak(dirty, SOME) == identity_leak(scores, SOME)
    assert not jax.grad(lambda x: identity_leak(x, SOME).sum)(scores).any()
