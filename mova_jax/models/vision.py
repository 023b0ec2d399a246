"""The frame encoder: CLIP's vision transformer on single frames (docs/method.md, 1)."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from mova_jax.models import layers
from mova_jax.models.attention import SequenceMask


class VisionTower(nnx.Module):
    """One vector per frame: patches, class token, blocks, norm, projection."""

    def __init__(
        self, cfg, embed_dim: int, activation: str, *, rngs, dtype, remat, attention="xla"
    ):
        """Initialises the tower.

        Args:
            cfg: `config.model.vision`: image_size and patch_size (pixels), width, layers, heads,
                mean and std of RGB values in 0..1.
            embed_dim: d, the joint embedding width.
            activation: a name of `layers.ACTIVATIONS`.
            rngs: source of the initial weights.
            dtype: type of the matrix products.
            remat: a name of `layers.REMAT`.
            attention: a name of `attention.FORMS`.
        """
        width, patch = cfg.width, cfg.patch_size
        std = width**-0.5
        patches = (cfg.image_size // patch) ** 2
        # CLIP's patch convolution has kernel size = stride, so it is a dense layer on patches.
        self.patch_embedding = layers.linear(
            3 * patch * patch, width, std=std, use_bias=False, rngs=rngs, dtype=dtype
        )
        self.class_embedding = nnx.Param(std * nnx.initializers.normal(1.0)(rngs(), (width,)))
        self.positions = layers.table(patches + 1, width, std=std, rngs=rngs)
        self.norm_pre = layers.LayerNorm(width, rngs=rngs)
        options = {"dtype": dtype, "remat": remat, "attention": attention}
        self.blocks = layers.Stack(width, cfg.heads, cfg.layers, activation, rngs=rngs, **options)
        self.norm_post = layers.LayerNorm(width, rngs=rngs)
        self.projection = layers.linear(
            width, embed_dim, std=std, use_bias=False, rngs=rngs, dtype=dtype
        )
        self.patch_size, self.dtype = patch, dtype
        self.mean, self.std = tuple(cfg.mean), tuple(cfg.std)

    def __call__(self, frames: UInt8[Array, "n H W 3"]) -> Float[Array, "n d"]:
        """Encodes frames; the vectors are not normalised.

        Args:
            frames: RGB bytes; H and W are the configured image size.
        """
        n, size = frames.shape[0], self.patch_size
        mean, std = np.array([self.mean, self.std], np.float32)
        x = (frames.astype(jnp.float32) / 255.0 - mean) / std
        rows, columns = frames.shape[1] // size, frames.shape[2] // size
        x = x.reshape(n, rows, size, columns, size, 3).transpose(0, 1, 3, 2, 4, 5)
        x = self.patch_embedding(x.reshape(n, rows * columns, -1).astype(self.dtype))
        x = layers.with_logical_constraint(x, "batch", None, None)
        first = jnp.broadcast_to(self.class_embedding.astype(x.dtype), (n, 1, x.shape[-1]))
        x = jnp.concatenate([first, x], axis=1) + self.positions.astype(x.dtype)
        x = self.blocks(self.norm_pre(x), SequenceMask())
        x = layers.with_logical_constraint(self.norm_post(x[:, 0]), "batch", None)
        return layers.with_logical_constraint(self.projection(x), "batch", None).astype(jnp.float32)
