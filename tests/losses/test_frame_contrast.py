"""L_tv: by hand, against loops, in values and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mova_jax.losses import ring
from mova_jax.losses.batch_rows import RowKeys
from mova_jax.losses.frame_contrast import frame_contrast
from mova_jax.typing import Term

B, F, D = 4, 3, 5
ALL = jnp.ones(B, bool)
SOME = jnp.array([True, False, True, True])

# Valid frames of a video: with a hole, none, one, all.
FRAME_MASK = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]], dtype=bool)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def assert_same(got, expected, rtol=1e-4, atol=1e-5):
    compare = functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol)
    jax.tree.map(compare, got, expected)


def contrast_inputs():
    """zv and s, with one empty part among the valid frames and one zero frame."""
    parts = normal(1, B, F, D).at[3, 1].set(0.0)
    return normal(0, B, F, D).at[0, 2].set(0.0), parts


def contrast_reference(frames, parts, valid, margin, negatives):
    """By loops over frames and their negatives, in the words of the docstring."""

    def cosine(z, s):
        empty = (z == 0).all() | (s == 0).all()
        z, s = jnp.where(empty, 1.0, z), jnp.where(empty, 1.0, s)
        return jnp.where(empty, 0.0, z @ s / jnp.sqrt((z @ z) * (s @ s)))

    total, count = 0.0, 0.0
    for b, f in np.argwhere(valid):
        positive = cosine(frames[b, f], parts[b, f])
        costs = []
        for c, g in np.argwhere(valid):
            same_video = c == b and g != f
            other_video = c != b and (negatives == "all" or g == f)
            if same_video or other_video:
                negative = cosine(frames[b, f], parts[c, g])
                costs.append(jnp.maximum(negative - margin, 0.0))
        total += 1 - positive + (sum(costs) / len(costs) if costs else 0.0)
        count += 1
    return total, count


def contrast(frames, parts, frame_mask=None, example_mask=None, **kwargs):
    frame_mask = jnp.ones(frames.shape[:2], bool) if frame_mask is None else frame_mask
    example_mask = jnp.ones(len(frames), bool) if example_mask is None else example_mask
    return frame_contrast(frames, parts, frame_mask, example_mask=example_mask, **kwargs)


@pytest.mark.parametrize("negatives", ["same_index", "all"])
@pytest.mark.parametrize("example_mask", [ALL, SOME.at[0].set(False)], ids=["all", "some"])
def test_frame_contrast_equals_loops_in_values_and_gradients(negatives, example_mask):
    valid = FRAME_MASK & np.asarray(example_mask)[:, None]

    def loops(frames, parts):
        return contrast_reference(frames, parts, valid, 0.2, negatives)

    def blockwise(*args):
        options = {"margin": 0.2, "negatives": negatives}
        return tuple(contrast(*args, jnp.asarray(FRAME_MASK), example_mask, **options))

    assert_same(blockwise(*contrast_inputs()), loops(*contrast_inputs()))
    gradients = [
        jax.jit(jax.grad(lambda *args, f=f: f(*args)[0], argnums=(0, 1)))(*contrast_inputs())
        for f in (blockwise, loops)
    ]
    assert_same(*gradients)
    assert all(np.abs(g).max() > 1e-3 for g in gradients[0])


def test_frame_contrast_worked_by_hand():
    # Two videos of two frames on the axes x, y of a plane. Video 0's parts sit on its frames; video
    # 1 has its parts exchanged.
    x, y = [1.0, 0.0], [0.0, 1.0]
    frames = jnp.array([[x, y], [x, y]])
    parts = jnp.array([[x, y], [y, x]])
    # Margin 0.25: a negative of cosine 1 costs 0.75. Frame (0, 0) = x: c+ = 1; its negatives are
    # (0, 1) = y at 0 and (1, 0) = y at 0; so 0. Likewise frame (0, 1). Frame (1, 0) = x: c+ = 0;
    # negatives (1, 1) = x at 1 and (0, 0) = x at 1; so 1 + 0.75. Likewise frame (1, 1).
    assert_same(contrast(frames, parts, margin=0.25), Term(3.5, 4.0))
    # all: one more negative each. Frame (0, 0) = x also meets (1, 1) = x: 0.75 / 3. Frame (1, 0)
    # also meets (0, 1) = y: 1 + (0.75 + 0.75 + 0) / 3.
    everything = contrast(frames, parts, margin=0.25, negatives="all")
    assert_same(everything, Term(2 * 0.25 + 2 * 1.5, 4.0))


@pytest.mark.parametrize("negatives", ["same_index", "all"])
def test_rows_of_the_same_caption_are_no_negatives(negatives):
    frames, parts = contrast_inputs()
    text = jnp.array([[1, 2], [1, 3], [1, 2], [9, 2]], jnp.uint32)  # rows 0 and 2 are alike

    def cost(*rows):
        given = (x[jnp.array(rows)] for x in (frames, parts, text))
        *arrays, keys = given
        keys = RowKeys(jnp.array(rows), keys)
        return contrast(*arrays, margin=-1.0, negatives=negatives, keys=keys)

    # Each of two rows that are alike costs what it costs without the other; others do not.
    assert_same(cost(0, 2), jax.tree.map(jnp.add, cost(0), cost(2)))
    assert abs(cost(0, 3).sum - cost(0).sum - cost(3).sum) > 1e-3


def test_empty_part_counts_as_cosine_zero():
    frames = normal(0, 1, 1, D)
    empty = jnp.zeros((1, 1, D))
    assert_same(contrast(frames, empty, margin=0.2), Term(1.0, 1.0))
    # A frame without negatives costs its pull alone.
    assert_same(contrast(frames, frames, margin=0.2), Term(0.0, 1.0))


@pytest.mark.parametrize("garbage", [1e30, jnp.nan])
@pytest.mark.parametrize("negatives", ["same_index", "all"])
def test_padded_frames_and_examples_are_never_read(negatives, garbage):
    example_mask = jnp.array([True, True, True, False])
    valid = (jnp.asarray(FRAME_MASK) & example_mask[:, None])[..., None]

    def loss(frames, parts):
        return contrast(
            frames, parts, jnp.asarray(FRAME_MASK), example_mask, margin=0.2, negatives=negatives
        ).sum

    clean = contrast_inputs()
    dirty = tuple(jnp.where(valid, x, garbage) for x in clean)
    results = [jax.value_and_grad(loss, argnums=(0, 1))(*x) for x in (clean, dirty)]
    assert_same(*results, atol=0)
    assert not np.where(valid, 0.0, results[1][1][0]).any()


def test_negatives_that_do_not_fit_are_met_tile_by_tile(monkeypatch):
    def value(frames, parts):
        return contrast(frames, parts, margin=0.2, negatives="all").sum

    whole = jax.value_and_grad(value, (0, 1))(*contrast_inputs())
    monkeypatch.setattr(ring, "STORED_FLOATS", 0)
    monkeypatch.setattr(ring, "TILE_FLOATS", 12 * 4 * F * F)  # 12 pairs: 3 videos
    assert_same(jax.jit(jax.value_and_grad(value, (0, 1)))(*contrast_inputs()), whole)
    jaxpr = str(jax.make_jaxpr(jax.grad(value))(*contrast_inputs()))
    assert f"f32[2,{F},{B},{F}]" in jaxpr and f"f32[{B},{F},{B},{F}]" not in jaxpr


def test_frame_contrast_of_bfloat16_is_float32():
    small = [x.astype(jnp.bfloat16) for x in contrast_inputs()]
    got = contrast(*small, margin=0.2)
    assert got.sum.dtype == got.count.dtype == jnp.float32
    assert_same(got, contrast(*(x.astype(jnp.float32) for x in small), margin=0.2), atol=1e-6)


def test_unknown_negatives_are_refused():
    with pytest.raises(ValueError, match="choose"):
        contrast(*contrast_inputs(), margin=0.2, negatives="none")
