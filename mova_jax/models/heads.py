"""Global heads: they pool the frames of a video into one vector (the two of CLIP4Clip)."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from mova_jax.models import layers

LAYERS, HEAD_WIDTH = 4, 64  # of CLIP4Clip's seqTransf


def masked_mean(x: Float[Array, "... f d"], mask: Bool[Array, "... f"]) -> Float[Array, "... d"]:
    """Mean over the valid frames; 0 if there are none."""
    mask = mask[..., None]
    return jnp.where(mask, x, 0.0).sum(-2) / jnp.maximum(mask.sum(-2), 1)


class MeanHead(nnx.Module):
    """Normalised mean of the normalised valid frames (CLIP4Clip meanP)."""

    def __call__(
        self, frames: Float[Array, "b f d"], mask: Bool[Array, "b f"]
    ) -> Float[Array, "b d"]:
        return layers.normalise(masked_mean(layers.normalise(frames), mask))


class SequenceHead(nnx.Module):
    """`MeanHead` of frames plus a transformer's output for them (CLIP4Clip seqTransf)."""

    def __init__(self, cfg, *, rngs: nnx.Rngs, dtype):
        """Initialises the head.

        Args:
            cfg: `config.model`: embed_dim, activation, frame_positions.
            rngs: source of the initial weights.
            dtype: type of the matrix products.
        """
        width = cfg.embed_dim
        self.positions = layers.table(cfg.frame_positions, width, std=0.01, rngs=rngs)
        heads = max(1, width // HEAD_WIDTH)
        self.blocks = layers.Stack(width, heads, LAYERS, cfg.activation, rngs=rngs, dtype=dtype)
        self.dtype = dtype

    def __call__(
        self, frames: Float[Array, "b f d"], mask: Bool[Array, "b f"]
    ) -> Float[Array, "b d"]:
        x = (frames + layers.positions_of(self.positions[...], mask)).astype(self.dtype)
        x = frames + self.blocks(x, layers.full_mask(mask)).astype(jnp.float32)
        return layers.normalise(masked_mean(layers.normalise(x), mask))


def global_head(cfg, *, rngs: nnx.Rngs, dtype) -> nnx.Module:
    """The head that `config.model.global_head` names: `mean` or `seq_transformer`."""
    if cfg.global_head == "mean":
        return MeanHead()
    return SequenceHead(cfg, rngs=rngs, dtype=dtype)
