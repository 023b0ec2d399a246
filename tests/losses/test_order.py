"""The order of time, against sums over every assignment of parts to frames."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mova_jax.losses.order import monotone_probability, ordered_score
from mova_jax.losses.pools import CosineSums, FrameLengths, pool_frames, pool_parts
from mova_jax.losses.sharpness import sharpness_for

SHARPNESS = 5.0
COSINE = np.random.default_rng(0).uniform(-1, 1, (3, 4)).astype(np.float32)
FRAMES = np.array([True, False, True, True])
PARTS = np.array([True, True, False])


def score(cosine, frames=FRAMES, parts=PARTS, order=0.5, sharpness=SHARPNESS):
    return ordered_score(
        jnp.asarray(cosine), jnp.asarray(frames), jnp.asarray(parts), sharpness, order
    )


def reference(cosine, frames, parts, order, sharpness=SHARPNESS):
    """By every assignment of a valid frame to each valid part."""
    rows, columns = np.flatnonzero(parts), np.flatnonzero(frames)
    every, monotone = [], []
    sharpness = sharpness * np.log1p(len(columns)) / np.log(33)
    for assigned in itertools.product(columns, repeat=len(rows)):
        total = sum(cosine[p, f] for p, f in zip(rows, assigned, strict=True))
        every.append(jnp.exp(sharpness * total))
        if list(assigned) == sorted(assigned):
            monotone.append(every[-1])
    mean = (1 - order) * sum(every) / len(every) + order * sum(monotone) / len(monotone)
    return jnp.log(mean) / (sharpness * len(rows))


@pytest.mark.parametrize("order", [0.3, 1.0])
@pytest.mark.parametrize("parts", [PARTS, np.ones(3, bool), np.array([False, True, False])])
def test_is_the_mean_over_assignments_in_value_and_gradient(parts, order):
    got, gradient = jax.value_and_grad(lambda c, s: score(c, FRAMES, parts, order, s), (0, 1))(
        jnp.asarray(COSINE), SHARPNESS
    )
    expected, dense = jax.value_and_grad(
        lambda c, s: reference(c, FRAMES, parts, order, s), (0, 1)
    )(jnp.asarray(COSINE), SHARPNESS)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    for a, b in zip(gradient, dense, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert not np.asarray(gradient[0])[~(FRAMES & parts[:, None])].any()


def test_probability_of_order_worked_by_hand():
    # Two parts, two frames: (0, 0), (0, 1) and (1, 1) are monotone, (1, 0) is not.
    windows = jnp.array([[0.2, 0.8], [0.6, 0.4]])
    expected = 0.2 * 0.6 + 0.2 * 0.4 + 0.8 * 0.4
    np.testing.assert_allclose(monotone_probability(windows, jnp.ones(2, bool)), expected, 1e-5)


def test_hopeless_order_is_as_good_as_no_order():
    cosine = jnp.asarray(np.eye(8, dtype=np.float32)[::-1])  # the last part holds first
    every = np.ones(8, bool), np.ones(8, bool)
    value, gradient = jax.value_and_grad(score)(cosine, *every, order=0.5, sharpness=100.0)
    free = score(cosine, *every, order=1e-12, sharpness=100.0)
    expected = free + np.log(0.5) / (8 * sharpness_for(100.0, jnp.array(8)))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    assert np.isfinite(gradient).all()


def test_without_order_is_the_mean_of_the_pool():
    ones = jnp.ones_like(COSINE)
    sums = CosineSums(jnp.asarray(COSINE), ones, ones)
    pooled = pool_frames(sums, jnp.asarray(FRAMES), "logmeanexp", SHARPNESS)
    expected = pooled[PARTS].mean()
    np.testing.assert_allclose(score(COSINE, order=1e-12), expected, rtol=1e-5)
    lengths = FrameLengths(ones[0], ones[0, 0])
    free = pool_parts(
        sums,
        jnp.asarray(FRAMES),
        jnp.asarray(PARTS),
        pool="logmeanexp",
        order=0.0,
        sharpness=SHARPNESS,
        lengths=lengths,
    )
    np.testing.assert_allclose(free, expected, rtol=1e-6)


def test_order_raises_what_is_in_order_and_hardly_lowers_what_is_not():
    forward = np.eye(4, dtype=np.float32)[:3]  # part i holds at frame i
    backward = forward[::-1].copy()
    every = np.ones(4, bool), np.ones(3, bool)
    three = 3 * sharpness_for(20.0, jnp.array(4))
    for order in (0.5, 0.9):
        free, right, wrong = (
            float(score(c, *every, order=o, sharpness=20.0))
            for c, o in [(forward, 1e-12), (forward, order), (backward, order)]
        )
        # One of 4^3 assignments counts; it is also one of the 20 monotone ones.
        np.testing.assert_allclose(right - free, np.log(1 - order + order * 64 / 20) / three, 1e-3)
        assert wrong >= free + np.log(1 - order) / three - 1e-6


@pytest.mark.parametrize("garbage", [1e30, np.inf, np.nan])
def test_padding_is_never_read(garbage):
    valid = FRAMES & PARTS[:, None]
    dirty = np.where(valid, COSINE, garbage).astype(np.float32)
    both = [jax.value_and_grad(score)(jnp.asarray(cosine)) for cosine in (dirty, COSINE)]
    jax.tree.map(np.testing.assert_array_equal, *both)
    for nothing in ((FRAMES & False, PARTS), (FRAMES, PARTS & False)):
        value, gradient = jax.value_and_grad(score)(jnp.asarray(dirty), *nothing)
        assert value == 0 and not gradient.any()


def test_long_videos_and_sharp_windows_stay_finite():
    cosine = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (8, 2000)), jnp.float32)
    every = jnp.ones(2000, bool), jnp.ones(8, bool)
    value, gradient = jax.value_and_grad(score)(cosine, *every, sharpness=100.0)
    assert np.isfinite(value) and np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient.sum(), 1.0, rtol=1e-3)  # a shift of all cosines
