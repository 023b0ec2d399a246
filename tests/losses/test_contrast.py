"""Cross-entropies over pairs: by hand, against loops, in values and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional

from mova_jax.losses import contrast
from mova_jax.losses.batch_rows import BatchRows
from mova_jax.losses.replica_group import SingleReplica
from mova_jax.typing import Term

B, K = 4, 3
ALL = jnp.ones(B, bool)
SOME = jnp.array([True, False, True, True])


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def cosines(seed, *shape):
    return jnp.tanh(normal(seed, *shape))


def assert_same(got, expected, rtol=1e-4, atol=1e-5):
    compare = functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol)
    jax.tree.map(compare, got, expected)


def of_scores(loss):
    """The loss of given scores `(scores, scale, example_mask) -> Term`, in one tile."""

    def term(scores, scale, example_mask):
        rows, group = jnp.arange(len(scores)), SingleReplica()
        logits = contrast.logit_stats(
            group, lambda x, *_: x, scores, rows, rows, scale, BatchRows.of(group, example_mask)
        )
        return loss(logits, example_mask)

    return term


LOSSES = {
    "global": of_scores(contrast.global_contrast),
    "sfdm": of_scores(contrast.same_frame_different_masks),
    "dfsm": of_scores(contrast.different_frames_same_mask),
}


def loop_reference(name, scores, scale, example_mask):
    """The same by loops over the valid examples, and what is left out is never touched."""
    valid = [i for i in range(len(scores)) if example_mask[i]]
    total = 0.0
    for i in valid:
        row = sum(jnp.exp(scale * scores[i, j]) for j in valid)
        column = sum(jnp.exp(scale * scores[j, i]) for j in valid)
        by_row, by_column = (-jnp.log(jnp.exp(scale * scores[i, i]) / x) for x in (row, column))
        total += {"global": (by_row + by_column) / 2, "sfdm": by_row, "dfsm": by_column}[name]
    return total, float(len(valid))


@pytest.mark.parametrize("name", LOSSES)
def test_contrast_equals_the_cross_entropies_of_torch(name):
    scores, scale = cosines(0, B, B), 7.0
    given = torch.tensor(np.asarray(scores), requires_grad=True)
    owners = torch.arange(B)
    over_captions, over_videos = (
        functional.cross_entropy(scale * x, owners, reduction="sum") for x in (given, given.T)
    )
    expected = {
        "global": (over_captions + over_videos) / 2,
        "sfdm": over_captions,
        "dfsm": over_videos,
    }[name]
    expected.backward()
    got, gradient = jax.value_and_grad(lambda x: LOSSES[name](x, jnp.float32(scale), ALL)[0])(
        scores
    )
    assert_same(got, expected.item())
    assert_same(gradient, given.grad.numpy())


@pytest.mark.parametrize("example_mask", [ALL, SOME], ids=["all", "some"])
@pytest.mark.parametrize("name", LOSSES)
def test_contrast_equals_loops_in_values_and_gradients(name, example_mask):
    scores, scale = cosines(0, B, B), jnp.float32(7.0)
    mask = np.asarray(example_mask)
    got = LOSSES[name](scores, scale, example_mask)
    assert_same(tuple(got), loop_reference(name, scores, scale, mask))
    gradients = [
        jax.grad(lambda *args, f=f: f(*args)[0], argnums=(0, 1))(scores, scale)
        for f in (
            lambda *args: LOSSES[name](*args, example_mask),
            lambda *args: loop_reference(name, *args, mask),
        )
    ]
    assert_same(*gradients)
    assert abs(gradients[0][1]) > 1e-3  # the scale can be trained


@pytest.mark.parametrize("name", LOSSES)
def test_contrast_does_not_overflow(name):
    scores = jnp.eye(B)
    assert_same(LOSSES[name](scores, 100.0, ALL).mean, 0.0)
    # The own pair is 2 worse than all others: 200 + log(3) + what exp(-200) adds.
    assert_same(LOSSES[name](1 - 2 * scores, 100.0, ALL).mean, 200 + np.log(3))


@pytest.mark.parametrize("garbage", [1e30, -jnp.inf, jnp.nan])
@pytest.mark.parametrize("name", LOSSES)
def test_scores_of_padded_examples_are_never_read(name, garbage):
    scores = cosines(3, B, B)
    dirty = jnp.where(SOME[:, None] & SOME, scores, garbage)
    results = [
        jax.value_and_grad(lambda *args: LOSSES[name](*args, SOME).sum, argnums=(0, 1))(x, 9.0)
        for x in (scores, dirty)
    ]
    assert_same(*results, atol=0)
    assert not results[1][1][0][1].any() and not results[1][1][0][:, 1].any()


@pytest.mark.parametrize("name", LOSSES)
def test_terms_of_no_example_are_zero(name):
    got = LOSSES[name](cosines(4, B, B), 9.0, jnp.zeros(B, bool))
    assert_same(tuple(got) + (got.mean,), (0.0, 0.0, 0.0), atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_bfloat16_scores_give_float32_terms(name):
    scores = cosines(5, B, B).astype(jnp.bfloat16)
    got = LOSSES[name](scores, 9.0, ALL)
    assert got.sum.dtype == got.count.dtype == jnp.float32
    assert_same(got, LOSSES[name](scores.astype(jnp.float32), 9.0, ALL), atol=1e-6)


# -- the best of the others


def test_in_batch_recall_worked_by_hand():
    # Caption 0 finds its video; 1 is beaten; 2 ties, which is no hit; 3 is padded, and its video,
    # which would beat caption 0's, does not count.
    scores = jnp.array([[0.9, 0.8, 0.1, 0], [0.1, 0.7, 0.5, 0], [0.2, 0.1, 0.5, 0], [1, 0, 0.9, 1]])
    mask = jnp.array([True, True, True, False])
    assert_same(of_scores(contrast.in_batch_recall_at_1)(scores, 7.0, mask), Term(1.0, 3.0))
    assert not jax.grad(lambda x: of_scores(contrast.in_batch_recall_at_1)(x, 7.0, mask).sum)(
        scores
    ).any()


# -- sfdm over chosen candidates


def test_candidates_worked_by_hand():
    # Video 0: own at column 0, one candidate padded: log(e^1 + e^0) - 1.
    # Video 1: all valid: log(e^2 + e^0 + e^1) - 2. Video 2 is padded.
    scores = jnp.array([[1.0, 0, 5], [2, 0, 1], [3, 3, 3]])
    candidates = jnp.array([[True, True, False], [True, True, True], [True, True, True]])
    got = contrast.candidate_cross_entropy(scores, 1.0, candidates, jnp.array([True, True, False]))
    expected = np.log(np.e + 1) - 1 + np.log(1 + np.e + np.e**2) - 2
    assert_same(got, Term(expected, 2.0))


def test_own_caption_is_column_zero_and_always_a_candidate():
    scores = cosines(6, B, K)
    everything = jnp.ones((B, K), bool)
    given = contrast.candidate_cross_entropy(scores, 9.0, everything.at[:, 0].set(False), SOME)
    assert_same(contrast.candidate_cross_entropy(scores, 9.0, everything, SOME), given)
    assert_same(contrast.candidate_cross_entropy(scores, 9.0, ~everything, SOME), Term(0.0, 3.0))


def test_scores_of_candidates_that_are_masked_out_are_never_read():
    scores, mask = cosines(7, B, K), jax.random.bernoulli(jax.random.key(8), 0.6, (B, K))
    mask = mask.at[:, 0].set(True)
    dirty = jnp.where(mask & SOME[:, None], scores, jnp.nan)
    results = [
        jax.value_and_grad(lambda x: contrast.candidate_cross_entropy(x, 9.0, mask, SOME).sum)(x)
        for x in (scores, dirty)
    ]
    assert_same(*results, atol=0)
