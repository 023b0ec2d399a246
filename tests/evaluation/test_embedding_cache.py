"""Captions without their padding, and scores that are read twice."""

import jax.numpy as jnp
import numpy as np
import pytest

from mova_jax.evaluation.embedding_cache import PackedCaptions, with_progress
from mova_jax.typing import TextEmbedding


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_captions_are_restored_but_for_their_padding(dtype):
    rng = np.random.default_rng(0)
    counts = np.array([3, 1, 6, 2, 5])
    mask = np.arange(6) < counts[:, None]
    tokens = (rng.normal(size=(5, 6, 4)) * mask[..., None]).astype(jnp.dtype(dtype))
    pooled = rng.normal(size=(5, 2)).astype(np.float32)
    packed = PackedCaptions(counts, length=8)
    for at in (slice(0, 2), slice(2, 5)):
        short = slice(counts[at].max())  # a block is as long as it has to be
        packed.put(at, TextEmbedding(tokens[at, short], mask[at, short], pooled[at]))
    assert packed._states.size == counts.sum() * 4
    for at in (slice(0, 2), slice(1, 4), slice(4, 5)):
        got = packed.rows(at)
        np.testing.assert_array_equal(got.tokens[:, :6], tokens[at])
        assert got.tokens.dtype == tokens.dtype
        assert got.tokens.shape[1] == got.token_mask.shape[1] == 8 and not got.tokens[:, 6:].any()
        np.testing.assert_array_equal(got.token_mask[:, :6], mask[at])
        np.testing.assert_array_equal(got.pooled, pooled[at])


@pytest.mark.parametrize("states", [True, False])
def test_divided_captions_are_restored(states):
    rng = np.random.default_rng(0)
    counts = np.array([[3, 2], [4, 0], [1, 4]])  # the second caption has one part
    mask = np.arange(4) < counts[..., None]
    tokens = rng.normal(size=(3, 2, 4 if states else 0, 5)) * mask[..., : 4 * states, None]
    pooled, video_mask, whole = (rng.normal(size=shape) for shape in [(3, 2, 6), (3, 2, 6), (3, 6)])
    packed = PackedCaptions(counts, length=8)
    for at in (slice(0, 1), slice(1, 3)):
        parts = TextEmbedding(tokens[at], mask[at], pooled[at], video_mask[at])
        none = np.zeros((len(whole[at]), 0, 5))
        packed.put(at, TextEmbedding(none, mask[at].any(-1)[:, :1], whole[at], parts=parts))
    got = packed.rows(slice(1, 3))
    np.testing.assert_array_equal(got.pooled, whole[1:3])
    np.testing.assert_array_equal(got.parts.pooled, pooled[1:3])
    np.testing.assert_array_equal(got.parts.video_mask, video_mask[1:3])
    np.testing.assert_array_equal(got.parts.token_mask.any(-1), [[True, False], [True, True]])
    if states:
        np.testing.assert_array_equal(got.parts.tokens[:, :, :4], tokens[1:3])


def test_pairs_are_counted_once():
    done = []
    scored = with_progress(lambda v, c: {}, done.append)
    for captions in (slice(0, 4), slice(4, 7), slice(0, 4)):
        scored(slice(0, 2), captions)
    assert done == [8, 6]
