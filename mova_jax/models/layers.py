"""Transformer layers shared by the towers and the mask networks.

Layers take arrays with any leading axes (`...`), so that the same module serves a batch and, under
`jax.vmap`, one pair. Parameters are float32; `dtype` is the type of the matrix products; softmax
and layer norms are computed in float32.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from mova_jax.models.activation_axes import with_logical_constraint
from mova_jax.models.attention import FORMS, SequenceMask, attend

ACTIVATIONS: dict[str, Callable] = {
    "gelu": functools.partial(nnx.gelu, approximate=False),
    # CLIP's own: x * sigmoid(1.702 x).
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}


def linear(features_in, features_out, *, std, rngs, dtype, axis=-1, use_bias=True):
    """A dense layer over one or several axes; weights are normal with deviation `std`."""
    return nnx.LinearGeneral(
        features_in,
        features_out,
        axis=axis,
        use_bias=use_bias,
        kernel_init=nnx.initializers.normal(std),
        dtype=dtype,
        rngs=rngs,
    )


class LayerNorm(nnx.LayerNorm):
    """CLIP's layer norm: computed in float32, returned in the dtype of its input."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        super().__init__(width, epsilon=1e-5, dtype=jnp.float32, rngs=rngs)

    def __call__(self, x: Float[Array, "... w"]) -> Float[Array, "... w"]:
        return super().__call__(x).astype(x.dtype)


class SelfAttention(nnx.Module):
    """Multi-head self-attention with one fused projection for query, key and value."""

    def __init__(
        self, width: int, heads: int, *, out_std: float, rngs: nnx.Rngs, dtype, form: str = "xla"
    ):
        shape = (heads, width // heads)
        self.form = form  # a name of `FORMS`, for masks of sequences
        self.qkv = linear(width, (3, *shape), std=width**-0.5, rngs=rngs, dtype=dtype)
        self.out = linear(shape, width, axis=(-2, -1), std=out_std, rngs=rngs, dtype=dtype)

    def __call__(
        self, x: Float[Array, "... l w"], mask: Bool[Array, "... l l"] | SequenceMask
    ) -> Float[Array, "... l w"]:
        qkv = with_logical_constraint(self.qkv(x), "batch", None, None, "heads", None)
        if isinstance(mask, SequenceMask):
            return self.out(FORMS[self.form](qkv, mask))
        query, key, value = (qkv[..., i, :, :] for i in range(3))
        return self.out(attend(query, key, value, mask))


class Mlp(nnx.Module):
    """The MLP of a block: width w to 4 w and back."""

    def __init__(self, width: int, activation: str, *, out_std: float, rngs: nnx.Rngs, dtype):
        self.up = linear(width, 4 * width, std=(2 * width) ** -0.5, rngs=rngs, dtype=dtype)
        self.down = linear(4 * width, width, std=out_std, rngs=rngs, dtype=dtype)
        self.activation = activation

    def __call__(self, x: Float[Array, "... w"]) -> Float[Array, "... w"]:
        hidden = with_logical_constraint(self.up(x), "batch", None, "mlp")
        return self.down(ACTIVATIONS[self.activation](hidden))


class Block(nnx.Module):
    """CLIP's pre-norm residual block: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(
        self,
        width: int,
        heads: int,
        activation: str,
        *,
        depth: int,
        rngs: nnx.Rngs,
        dtype,
        attention: str = "xla",
    ):
        # CLIP's initialisation: additions to the residual stream shrink with the depth.
        out_std = width**-0.5 * (2 * depth) ** -0.5
        self.norm_attention = LayerNorm(width, rngs=rngs)
        self.attention = SelfAttention(
            width, heads, out_std=out_std, rngs=rngs, dtype=dtype, form=attention
        )
        self.norm_mlp = LayerNorm(width, rngs=rngs)
        self.mlp = Mlp(width, activation, out_std=out_std, rngs=rngs, dtype=dtype)

    def __call__(
        self, x: Float[Array, "... l w"], mask: Bool[Array, "... l l"] | SequenceMask
    ) -> Float[Array, "... l w"]:
        x = with_logical_constraint(x, "batch", None, None)
        x = with_logical_constraint(
            x + self.attention(self.norm_attention(x), mask), "batch", None, None
        )
        return with_logical_constraint(x + self.mlp(self.norm_mlp(x)), "batch", None, None)


# Rematerialisation by `model.remat`: which values of a block are stored for the backward pass. The
# blocks run in a scan, which keeps the computations of both passes apart by itself: the barriers
# that `prevent_cse` adds would only keep the compiler from fusing.
_rematerialise = functools.partial(jax.checkpoint, prevent_cse=False)
_policies = jax.checkpoint_policies
REMAT: dict[str, Callable] = {
    # The results of all matrix products. Norms, softmax and activations are computed again: that
    # costs no product, and less than to write and read their half of all stored numbers. So is
    # attention by a fused kernel, as in all three.
    "none": functools.partial(_rematerialise, policy=_policies.dots_saveable),
    # The outputs of the four dense layers (qkv, out, up, down), which are nearly all of the FLOPs.
    # Attention weights, norms and activations are recomputed.
    "dots": functools.partial(_rematerialise, policy=_policies.dots_with_no_batch_dims_saveable),
    "full": _rematerialise,  # its input only
}


class Stack(nnx.Module):
    """`depth` blocks with their parameters stacked on a leading axis, run by one `lax.scan`.

    XLA compiles one block in place of `depth`, which keeps the first step quick.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        depth: int,
        activation: str,
        *,
        rngs: nnx.Rngs,
        dtype,
        remat: str = "none",
        attention: str = "xla",
    ):
        @nnx.split_rngs(splits=depth)
        @nnx.vmap(in_axes=0, out_axes=0)
        def create(rngs):
            options = {"depth": depth, "dtype": dtype, "attention": attention}
            return Block(width, heads, activation, rngs=rngs, **options)

        self.blocks = create(rngs)
        self.remat = remat

    def __call__(
        self, x: Float[Array, "... l w"], mask: Bool[Array, "... l l"] | SequenceMask
    ) -> Float[Array, "... l w"]:
        graphdef, params = nnx.split(self.blocks)

        def step(x, layer):
            return nnx.merge(graphdef, layer)(x, mask), None

        x, _ = jax.lax.scan(REMAT[self.remat](step), x, params)
        return x


def table(rows: int, width: int, *, std: float, rngs: nnx.Rngs) -> nnx.Param:
    """A trained embedding table `[rows width]`, of positions or tokens."""
    return nnx.Param(nnx.initializers.normal(std)(rngs.params(), (rows, width)))


def look_up(rows: Float[Array, "r w"], index: Int[Array, "b l"]) -> Float[Array, "b l w"]:
    """The rows of an embedding table by index.

    When the table's width is sharded, each device looks up its part of the width for all batch rows
    of the devices that it shares parameters with, and an all-to-all brings each row together: no
    device ever holds the whole table or the whole result.
    """
    index = with_logical_constraint(index, "outer_batch", None)
    found = with_logical_constraint(rows[index], "outer_batch", None, "width")
    return with_logical_constraint(found, "batch", None, None)


def positions_of(
    rows: Float[Array, "r w"], frame_mask: Bool[Array, "... f"]
) -> Float[Array, "... f w"]:
    """Position embeddings of valid frames, interpolated in a table over the length of the video.

    The first valid frame gets the first row of the table and the last frame the last row, so that
    a model that was trained on 8 frames per video can be used on 32.
    """
    last = rows.shape[0] - 1
    index = jnp.maximum(jnp.cumsum(frame_mask, axis=-1) - 1, 0)
    gaps = jnp.maximum(frame_mask.sum(-1, keepdims=True) - 1, 1)
    place = index * last / gaps
    low = jnp.minimum(place.astype(jnp.int32), last)
    share = (place - low)[..., None]
    return rows[low] * (1 - share) + rows[jnp.minimum(low + 1, last)] * share


def full_mask(mask: Bool[Array, "... l"]) -> Bool[Array, "... 1 l"]:
    """Every query may attend to every valid position."""
    return mask[..., None, :]


def normalise(x: Float[Array, "... d"]) -> Float[Array, "... d"]:
    """Unit length in float32; a zero vector stays 0 with gradient 0.

    A hard mask that is all 0 gives a part of exactly 0. A gradient of about 1 / length there would
    drown all others.
    """
    x = x.astype(jnp.float32)
    squared = jnp.sum(x * x, axis=-1, keepdims=True)
    present = squared > 1e-12
    return x * jnp.where(present, jax.lax.rsqrt(jnp.where(present, squared, 1.0)), 0.0)
