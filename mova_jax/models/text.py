"""The text encoder: CLIP's causal transformer with 248 positions (docs/method.md, 1)."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from mova_jax.models import layers
from mova_jax.models.attention import SequenceMask
from mova_jax.typing import TextEmbedding


class TextTower(nnx.Module):
    """Encodes captions as token states and, from the end-of-text token, one vector."""

    def __init__(
        self, cfg, embed_dim: int, activation: str, *, rngs, dtype, remat, attention="xla"
    ):
        """Initialises the tower.

        Args:
            cfg: `config.model.text`: vocab_size, context (tokens), frozen_positions, width, layers,
                heads.
            embed_dim: d, the joint embedding width.
            activation: a name of `layers.ACTIVATIONS`.
            rngs: source of the initial weights.
            dtype: type of the matrix products.
            remat: a name of `layers.REMAT`.
            attention: a name of `attention.FORMS`.
        """
        width = cfg.width
        self.token_embedding = layers.table(cfg.vocab_size, width, std=0.02, rngs=rngs)
        if cfg.frozen_positions:
            self.positions_frozen = layers.table(cfg.frozen_positions, width, std=0.01, rngs=rngs)
        trained = cfg.context - cfg.frozen_positions
        self.positions = layers.table(trained, width, std=0.01, rngs=rngs)
        options = {"dtype": dtype, "remat": remat, "attention": attention}
        self.blocks = layers.Stack(width, cfg.heads, cfg.layers, activation, rngs=rngs, **options)
        self.norm_final = layers.LayerNorm(width, rngs=rngs)
        self.projection = layers.linear(
            width, embed_dim, std=width**-0.5, use_bias=False, rngs=rngs, dtype=dtype
        )
        self.dtype = dtype

    def __call__(self, tokens: Int[Array, "b l"], mask: Bool[Array, "b l"]) -> TextEmbedding:
        """Encodes captions of at most `context` tokens; the last valid one is end-of-text."""
        length = tokens.shape[-1]
        x = layers.look_up(self.token_embedding[...], tokens) + self._positions()[:length]
        x = self.blocks(x.astype(self.dtype), SequenceMask(mask, causal=True))
        # Padding is set to 0 once, here, so that no later layer can read it.
        y = jnp.where(mask[..., None], self.norm_final(x), 0.0)
        last = jnp.maximum(mask.sum(-1) - 1, 0)
        end = jnp.take_along_axis(y, last[:, None, None], axis=1)[:, 0]
        end = layers.with_logical_constraint(end, "batch", None)
        return TextEmbedding(
            tokens=y,
            token_mask=mask,
            pooled=layers.with_logical_constraint(self.projection(end), "batch", None).astype(
                jnp.float32
            ),
        )

    def _positions(self) -> Float[Array, "r w"]:
        """The position table; frozen rows pass no gradient."""
        if not hasattr(self, "positions_frozen"):
            return self.positions[...]
        # Two parameters, as in Long-CLIP, so that the optimizer can leave out the frozen one.
        frozen = jax.lax.stop_gradient(self.positions_frozen[...])
        return jnp.concatenate([frozen, self.positions[...]])
