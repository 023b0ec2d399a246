"""The rows of a batch, and which pairs of them are negatives.

A video and a caption of different rows are a negative unless both rows have the same video, or the
same caption to the last token: then the caption is right for both videos, and a loss that parts
them would teach something false. Such a pair is left out; each row's own pair always counts.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

from mova_jax.losses.replica_group import ReplicaGroup
from mova_jax.typing import Batch

_SEEDS = 0x9E3779B9, 0x7F4A7C15  # two hashes of 32 bits: a false match once in 10^19 pairs


class RowKeys(NamedTuple):
    """What rows are compared by; integers, so that sharding and rounding change nothing."""

    video: Int[Array, "r"]  # `Batch.video_id`
    text: UInt32[Array, "r 2"]  # hash of the valid tokens


def row_keys(batch: Batch) -> RowKeys:
    """The keys of all rows; those of padding have no meaning."""
    place = jnp.arange(batch.tokens.shape[-1], dtype=jnp.uint32)[:, None]
    keyed = _mix(2 * place + jnp.array(_SEEDS, jnp.uint32))  # [l 2]
    mixed = _mix(batch.tokens.astype(jnp.uint32)[..., None] ^ keyed)
    valid = batch.token_mask[..., None]
    return RowKeys(batch.video_id, jnp.where(valid, mixed, 0).sum(1, dtype=jnp.uint32))


def _mix(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """MurmurHash3's last step: a bijection under which each bit of x changes half of the bits."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


class BatchRows(NamedTuple):
    """A replica's rows within the whole batch; a video and its caption have the same index."""

    index: Int[Array, "r"]
    mask: Bool[Array, "r"]
    keys: RowKeys | None = None  # None: all rows differ

    @classmethod
    def of(
        cls, group: ReplicaGroup, mask: Bool[Array, "r"], keys: RowKeys | None = None
    ) -> "BatchRows":
        """The rows of this replica, of which those with `mask` True are valid."""
        return cls(group.rank() * len(mask) + jnp.arange(len(mask)), mask, keys)

    def matched(self, captions: "BatchRows") -> Bool[Array, "b c"]:
        """Valid videos with their own captions."""
        own = self.index[:, None] == captions.index
        return own & self.mask[:, None] & captions.mask

    def negatives(self, captions: "BatchRows") -> Bool[Array, "b c"]:
        """Valid videos with valid captions that are wrong for them."""
        alike = self.index[:, None] == captions.index
        if self.keys is not None:
            alike |= self.keys.video[:, None] == captions.keys.video
            alike |= (self.keys.text[:, None] == captions.keys.text).all(-1)
        return ~alike & self.mask[:, None] & captions.mask

    def gathered(self, group: ReplicaGroup, vectors: Float[Array, "r d"]):
        """The rows of all replicas, and float32 vectors of each, in one exchange.

        Integers go as halves of 16 bits, which float32 holds exactly.

        Returns:
            `BatchRows` of the whole batch, and the vectors `[b d]`.
        """
        columns = [vectors, self.mask[:, None]]
        if self.keys is not None:
            bits = jnp.column_stack([self.keys.video.astype(jnp.uint32), self.keys.text])
            columns += [bits >> 16, bits & 0xFFFF]
        found = group.all_gather(jnp.column_stack([x.astype(jnp.float32) for x in columns]))
        vectors, mask, halves = jnp.split(found, [vectors.shape[1], vectors.shape[1] + 1], axis=1)
        keys = None
        if self.keys is not None:
            high, low = jnp.split(halves.astype(jnp.uint32), 2, axis=1)
            bits = (high << 16) | low
            keys = RowKeys(bits[:, 0].astype(self.keys.video.dtype), bits[:, 1:])
        return BatchRows(jnp.arange(len(found)), mask[:, 0] > 0, keys), vectors
