"""Transformer pieces shared by the towers and the mask networks.

Everything here takes arrays with any leading axes (`...`), so that the same module serves a batch,
one pair under `jax.vmap`, and all pairs. Parameters are float32; `dtype` is the type of the matrix
products; softmax and layer norms are computed in float32.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

ACTIVATIONS: dict[str, Callable] = {
    "gelu": functools.partial(nnx.gelu, approximate=False),
    # CLIP's own: x * sigmoid(1.702 x).
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
}

_LAYOUT: contextvars.ContextVar[Callable | None] = contextvars.ContextVar("layout", default=None)


@contextlib.contextmanager
def sharding_rules(place: Callable[[Array, tuple[str | None, ...]], Array]) -> Iterator[None]:
    """Inside, `with_logical_constraint(x, *axes)` calls `place(x, axes)`."""
    token = _LAYOUT.set(place)
    try:
        yield
    finally:
        _LAYOUT.reset(token)


def with_logical_constraint(x: Float[Array, "..."], *axes: str | None) -> Float[Array, "..."]:
    """`x` with its axes by their logical names (None: whole).

    As it is outside `sharding_rules`, and for one row under `jax.vmap`, which has no batch axis.
    """
    place = _LAYOUT.get()
    return place(x, axes) if place and x.ndim == len(axes) else x


def linear(features_in, features_out, *, std, rngs, dtype, axis=-1, use_bias=True):
    """A dense map (of one or several axes) with normal weights of the given deviation."""
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
    """CLIP's layer norm: computed in float32, returned in the type of its input."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        super().__init__(width, epsilon=1e-5, dtype=jnp.float32, rngs=rngs)

    def __call__(self, x: Float[Array, "... w"]) -> Float[Array, "... w"]:
        return super().__call__(x).astype(x.dtype)


def attend(
    query: Float[Array, "... q n e"],
    key: Float[Array, "... l n e"],
    value: Float[Array, "... l n e"],
    mask: Bool[Array, "... q l"],
) -> Float[Array, "... q n e"]:
    """Scaled dot-product attention of n heads; a query with nothing to look at returns 0.

    Args:
        query: one row a position that asks, e dimensions a head.
        key: one row a position that can be looked at.
        value: what a position gives.
        mask: True where a query may look; broadcasts.
    """
    scale = query.shape[-1] ** -0.5
    logits = jnp.einsum("...qne,...lne->...nql", query * scale, key).astype(jnp.float32)
    mask = mask[..., None, :, :]
    weights = jax.nn.softmax(jnp.where(mask, logits, -1e30), axis=-1)
    # Where all is masked the softmax is uniform over padding: zero it, or padding would leak in.
    weights = jnp.where(mask, weights, 0.0).astype(value.dtype)
    return jnp.einsum("...nql,...lne->...qne", weights, value)


class SelfAttention(nnx.Module):
    """Multi-head self-attention with one fused projection for query, key and value."""

    def __init__(self, width: int, heads: int, *, out_std: float, rngs: nnx.Rngs, dtype):
        shape = (heads, width // heads)
        self.qkv = linear(width, (3, *shape), std=width**-0.5, rngs=rngs, dtype=dtype)
        self.out = linear(shape, width, axis=(-2, -1), std=out_std, rngs=rngs, dtype=dtype)

    def __call__(
        self, x: Float[Array, "... l w"], mask: Bool[Array, "... l l"]
    ) -> Float[Array, "... l w"]:
        qkv = with_logical_constraint(self.qkv(x), "batch", None, None, "heads", None)
        query, key, value = (qkv[..., i, :, :] for i in range(3))
        return self.out(attend(query, key, value, mask))


class Mlp(nnx.Module):
    """Width to four times the width and back."""

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
        self, width: int, heads: int, activation: str, *, depth: int, rngs: nnx.Rngs, dtype
    ):
        # CLIP's initialisation: what is added to the residual stream shrinks with the depth.
        out_std = width**-0.5 * (2 * depth) ** -0.5
        self.norm_attention = LayerNorm(width, rngs=rngs)
        self.attention = SelfAttention(width, heads, out_std=out_std, rngs=rngs, dtype=dtype)
        self.norm_mlp = LayerNorm(width, rngs=rngs)
        self.mlp = Mlp(width, activation, out_std=out_std, rngs=rngs, dtype=dtype)

    def __call__(
        self, x: Float[Array, "... l w"], mask: Bool[Array, "... l l"]
    ) -> Float[Array, "... l w"]:
        x = with_logical_constraint(x, "batch", None, None)
        x = with_logical_constraint(
            x + self.attention(self.norm_attention(x), mask), "batch", None, None
        )
        return with_logical_constraint(x + self.mlp(self.norm_mlp(x)), "batch", None, None)


# How a block is run forwards, by `model.remat`: what it keeps for the backward pass.
REMAT: dict[str, Callable] = {
    "none": lambda block: block,  # everything
    # The results of the four dense maps (query, key and value in one; out; up; down), which are
    # nearly all of the work. Attention weights, norms and activations are made again.
    "dots": functools.partial(
        jax.checkpoint, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    ),
    "full": jax.checkpoint,  # its input
}


class Stack(nnx.Module):
    """`depth` blocks with their parameters stacked on a leading axis, run by one `lax.scan`.

    Compiling one block in place of `depth` is what keeps the first step quick.
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
    ):
        @nnx.split_rngs(splits=depth)
        @nnx.vmap(in_axes=0, out_axes=0)
        def create(rngs):
            return Block(width, heads, activation, depth=depth, rngs=rngs, dtype=dtype)

        self.blocks = create(rngs)
        self.remat = remat

    def __call__(
        self, x: Float[Array, "... l w"], mask: Bool[Array, "... l l"]
    ) -> Float[Array, "... l w"]:
        graphdef, params = nnx.split(self.blocks)

        def step(x, layer):
            return nnx.merge(graphdef, layer)(x, mask), None

        x, _ = jax.lax.scan(REMAT[self.remat](step), x, params)
        return x


def table(rows: int, width: int, *, std: float, rngs: nnx.Rngs) -> nnx.Param:
    """A trained table of `rows` vectors: positions, tokens."""
    return nnx.Param(nnx.initializers.normal(std)(rngs.params(), (rows, width)))


def look_up(rows: Float[Array, "r w"], index: Int[Array, "b l"]) -> Float[Array, "b l w"]:
    """The rows of a table at each place of a batch.

    Where the table's width is split, every device looks its part up for all the rows of the batch
    that the others of its group have, and they exchange what they found: neither the whole table
    nor the whole result is ever on one device.
    """
    found = with_logical_constraint(
        rows[with_logical_constraint(index, "group", None)], "group", None, "width"
    )
    return with_logical_constraint(found, "batch", None, None)


def positions_of(
    rows: Float[Array, "r w"], frame_mask: Bool[Array, "... f"]
) -> Float[Array, "... f w"]:
    """The position of each valid frame: its relative place in the video, between rows of a table.

    The first valid frame has the first row, the last the last, others are interpolated, so that a
    model that was trained on 8 frames a video knows all the positions of 32.
    """
    last = rows.shape[0] - 1
    index = jnp.maximum(jnp.cumsum(frame_mask, axis=-1) - 1, 0)
    gaps = jnp.maximum(frame_mask.sum(-1, keepdims=True) - 1, 1)
    place = index * last / gaps
    low = jnp.minimum(place.astype(jnp.int32), last)
    share = (place - low)[..., None]
    return rows[low] * (1 - share) + rows[jnp.minimum(low + 1, last)] * share


def full_mask(mask: Bool[Array, "... l"]) -> Bool[Array, "... 1 l"]:
    """Every query may look at every valid position."""
    return mask[..., None, :]


def causal_mask(mask: Bool[Array, "... l"]) -> Bool[Array, "... l l"]:
    """A position may look at itself and at valid positions before it."""
    length = mask.shape[-1]
    return jnp.tril(jnp.ones((length, length), bool)) & mask[..., None, :]


def normalise(x: Float[Array, "... d"]) -> Float[Array, "... d"]:
    """Unit length in float32; a zero vector stays 0 with gradient 0.

    A hard mask that closes makes a part of exactly 0. Any finite slope there would be that of
    1 / length, and one such frame would drown all other gradients.
    """
    x = x.astype(jnp.float32)
    squared = jnp.sum(x * x, axis=-1, keepdims=True)
    present = squared > 1e-12
    return x * jnp.where(present, jax.lax.rsqrt(jnp.where(present, squared, 1.0)), 0.0)
