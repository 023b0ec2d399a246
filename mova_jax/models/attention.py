"""Forms of attention: the same values, computed by XLA or by a fused kernel of the chip.

`model.attention` chooses the form of the towers' self-attention. The plain form writes the weights
of all pairs of positions to memory; a fused one keeps them on the chip and computes them again in
the backward pass. Attention of the mask networks and heads, over a few frames, is always plain.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mova_jax.models.activation_axes import on_shards
from mova_jax.models.pallas_attention import pallas_attention

# The platforms of JAX that have a form; None: all of them.
PLATFORMS = {"xla": None, "cudnn": ("gpu", "cuda"), "pallas": ("tpu",)}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SequenceMask:
    """Which positions of a sequence attend to which, without an array of all pairs."""

    valid: Bool[Array, "b l"] | None = None  # the first positions of each row; None: all
    causal: bool = dataclasses.field(default=False, metadata={"static": True})

    def dense(self, length: int) -> Bool[Array, "#b #l l"]:
        """The mask of all pairs, which broadcasts."""
        mask = jnp.ones((1, length), bool) if self.valid is None else self.valid
        mask = mask[..., None, :]
        return jnp.tril(jnp.ones((length, length), bool)) & mask if self.causal else mask


def attend(
    query: Float[Array, "... q n e"],
    key: Float[Array, "... l n e"],
    value: Float[Array, "... l n e"],
    mask: Bool[Array, "... q l"],
) -> Float[Array, "... q n e"]:
    """Scaled dot-product attention; a query whose mask is all False returns 0.

    Args:
        query: q positions, n heads of e dimensions.
        key: l positions.
        value: as `key`.
        mask: True where a query may attend; broadcasts.
    """
    scale = query.shape[-1] ** -0.5
    logits = jnp.einsum("...qne,...lne->...nql", query * scale, key).astype(jnp.float32)
    mask = mask[..., None, :, :]
    weights = jax.nn.softmax(jnp.where(mask, logits, -1e30), axis=-1)
    # Where all is masked the softmax is uniform over padding, which would leak in.
    weights = jnp.where(mask, weights, 0.0).astype(value.dtype)
    return jnp.einsum("...nql,...lne->...qne", weights, value)


def plain(qkv: Float[Array, "b l 3 n e"], mask: SequenceMask) -> Float[Array, "b l n e"]:
    """`xla`: `attend` on the mask of all pairs."""
    query, key, value = (qkv[..., i, :, :] for i in range(3))
    return attend(query, key, value, mask.dense(qkv.shape[-4]))


def cudnn(qkv: Float[Array, "b l 3 n e"], mask: SequenceMask) -> Float[Array, "b l n e"]:
    """`cudnn`: the fused kernel of NVIDIA's GPUs, in bfloat16 only."""
    return _on_shards(by_lengths, qkv, mask)


def pallas(qkv: Float[Array, "b l 3 n e"], mask: SequenceMask) -> Float[Array, "b l n e"]:
    """`pallas`: the fused kernel of this project for TPUs."""
    return _on_shards(pallas_attention, qkv, mask)


def _on_shards(kernel: Callable, qkv, mask: SequenceMask):
    arrays, axes = [qkv], [("batch", None, None, "heads", None)]
    if mask.valid is not None:
        arrays, axes = [qkv, mask.valid], [*axes, ("batch", None)]
    function = functools.partial(kernel, causal=mask.causal)
    return on_shards(function, arrays, axes, ("batch", None, "heads", None))


def by_lengths(
    qkv: Float[Array, "b l 3 n e"],
    valid: Bool[Array, "b l"] | None = None,
    causal: bool = False,
    implementation: str = "cudnn",
) -> Float[Array, "b l n e"]:
    """Attention by JAX's `dot_product_attention`.

    The mask goes in as a causal flag and lengths: an array of pairs would be read from memory, and
    cuDNN takes one in training for even lengths only.
    """
    rows, length = qkv.shape[:2]
    lengths = None if valid is None else valid.sum(-1, dtype=jnp.int32)
    if length % 2:
        # JAX 0.10.2 refuses odd lengths in training, such as the 197 of B/16: one position more.
        qkv = jnp.pad(qkv, ((0, 0), (0, 1), (0, 0), (0, 0), (0, 0)))
        lengths = jnp.full(rows, length, jnp.int32) if lengths is None else lengths
    query, key, value = (qkv[..., i, :, :] for i in range(3))
    out = jax.nn.dot_product_attention(
        query,
        key,
        value,
        is_causal=causal,
        query_seq_lengths=None if lengths is None else jnp.full_like(lengths, qkv.shape[-4]),
        # At least 1: over no key at all the kernel's gradients may not be finite, and what the last
        # line selects them away with would not help.
        key_value_seq_lengths=None if lengths is None else jnp.maximum(lengths, 1),
        implementation=implementation,
    )[:, :length]
    # A row of padding alone would be a mean of padding.
    return out if valid is None else jnp.where(lengths[:, None, None, None] > 0, out, 0.0)


FORMS: dict[str, Callable] = {"xla": plain, "cudnn": cudnn, "pallas": pallas}
