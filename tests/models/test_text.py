"""The text encoder: padding, causality, frozen positions. tests/weights compares it with CLIP."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mova_jax.models.text import TextTower
from tests import tiny

LENGTHS = [6, 3, 2, 4]
END = tiny.VOCAB - 1  # end-of-text
MASK = tiny.masks_of_lengths(LENGTHS, tiny.L)


def tower(frozen=0):
    changes = {"model__text__layers": 2, "model__text__frozen_positions": frozen}
    cfg = tiny.config(**changes).model.text
    options = {"dtype": jnp.float32, "remat": "none"}
    return tiny.drawn(lambda: TextTower(cfg, tiny.D, "gelu", rngs=nnx.Rngs(0), **options))


def tokens(padding=1):
    """Captions of start, words and end, padded with a token."""
    made = np.random.default_rng(0).integers(2, END, (4, tiny.L))
    made[:, 0] = 0
    made[np.arange(4), np.array(LENGTHS) - 1] = END
    return np.where(MASK, made, padding)


def test_padding_and_later_tokens_change_nothing():
    ours = tiny.jit(tower())
    got = ours(tokens(), MASK)
    other = ours(tokens(padding=7), MASK)
    jax.tree.map(np.testing.assert_array_equal, got, other)
    # In a shorter bucket captions have the same embedding.
    short = ours(tokens()[1:, :4], MASK[1:, :4])
    np.testing.assert_allclose(short.pooled, got.pooled[1:], rtol=1e-5, atol=1e-6)
    # Causal: a word changes its own state and later ones only.
    changed = tokens()
    changed[0, 3] = (changed[0, 3] - 1) % END
    moved = np.abs(ours(changed, MASK).tokens[0] - got.tokens[0]).max(-1)
    assert not moved[:3].any() and (moved[3:] > 1e-6).all()


def test_padding_passes_no_gradient():
    used = np.unique(tokens()[MASK])
    free = next(token for token in range(tiny.VOCAB) if token not in used)

    def loss(tower):
        out = tower(tokens(padding=free), MASK)
        return jnp.square(out.tokens).sum() + jnp.square(out.pooled).sum()

    gradient = tiny.jit(jax.grad(loss))(tower())
    table = np.abs(gradient.token_embedding[...]).max(-1)
    assert table[free] == 0 and (table[used] > 0).all()


def test_frozen_positions_have_the_same_values_and_pass_no_gradient():
    whole, split = tower(), tower(frozen=2)
    table = np.asarray(whole.positions[...])
    assert split.positions_frozen.shape == (2, tiny.W) and split.positions.shape == (4, tiny.W)
    weights = nnx.to_pure_dict(nnx.state(whole))
    weights |= {"positions_frozen": table[:2], "positions": table[2:]}
    split = nnx.merge(nnx.graphdef(split), jax.tree.map(jnp.asarray, weights))
    both = [tiny.jit(model)(tokens(), MASK) for model in (whole, split)]
    jax.tree.map(np.testing.assert_array_equal, *both)

    def loss(tower):
        return jnp.square(tower(tokens(), MASK).pooled).sum()

    gradient = tiny.jit(jax.grad(loss))(split)
    assert not np.any(gradient.positions_frozen[...])
    assert (np.abs(gradient.positions[...]).max(-1) > 0).all()
