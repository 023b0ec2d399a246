"""L_tv: the contrast between frames and parts of captions (docs/method.md, 4)."""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mova_jax.losses import ring
from mova_jax.losses.batch_rows import BatchRows, RowKeys
from mova_jax.losses.contrast import masked_term
from mova_jax.losses.pools import normalise
from mova_jax.losses.replica_group import ReplicaGroup, SingleReplica
from mova_jax.typing import Term


def frame_contrast(
    frames: Float[Array, "b f d"],
    text_parts: Float[Array, "b f d"],
    frame_mask: Bool[Array, "b f"],
    *,
    margin: float,
    example_mask: Bool[Array, "b"],
    negatives: Literal["same_index", "all"] = "same_index",
    keys: RowKeys | None = None,
    group: ReplicaGroup | None = None,
) -> Term:
    """Brings each frame close to its own part of its caption, and keeps it away from other parts.

    With c+ = cos(zv[b f], s[b f]) and c- = cos(zv[b f], s[c g]), a valid frame costs

        (1 - c+) + mean over c- of max(0, c- - margin)

    The negatives of frame (b, f) are the parts s[c g] of valid frames: those of the same video,
    c == b and g != f; and those of the rows c that are negatives of b (`batch_rows.py`), at the
    same index g == f (`same_index`) or at all g (`all`). One mean runs over both kinds, so every
    negative of a frame has the same weight; the mean is 0 for a frame without negatives.

    A frame whose part is empty (m^T is 0 everywhere) has cosine 0 with everything. It counts like
    any other frame, as a positive and as a negative: as a positive it costs 1 instead of 1 - c+, so
    closing a mask does not avoid the loss. It passes no gradient to its own mask.

    Args:
        frames: `[b f d]` zv, not normalised.
        text_parts: `[b f d]` s = zt * m^T of the own caption.
        frame_mask: `[b f]`; frames where it is False are never read.
        margin: cosine below which a negative costs nothing.
        example_mask: `[b]`; rows where it is False are never read.
        negatives: `same_index` or `all`.
        keys: of the rows; None: all of them differ.
        group: the replicas that share the batch; the arrays are this replica's rows. None: one.

    Returns:
        Sum over valid frames; their count.

    Raises:
        ValueError: for another kind of negatives.
    """
    if negatives not in ("same_index", "all"):
        raise ValueError(f"negatives is {negatives!r}; choose 'same_index' or 'all'")
    valid = frame_mask & example_mask[:, None]
    frames = normalise(jnp.where(valid[..., None], frames, 0))
    parts = normalise(jnp.where(valid[..., None], text_parts, 0))
    positive = (frames * parts).sum(-1)
    group = group or SingleReplica()
    rows = BatchRows.of(group, example_mask, keys)
    total, count = _negatives(group, frames, parts, valid, rows, margin, negatives == "all")
    return masked_term(1 - positive + total / jnp.maximum(count, 1), valid)


def _negatives(group, frames, parts, valid, rows: BatchRows, margin: float, every_index: bool):
    """Total excess over the margin, and number of negatives, of each frame `[r f]`."""
    r, f = valid.shape
    by_video, _ = ring.reduce_pairs(
        group,
        partial(_excess_at_every_index if every_index else _excess_at_same_index, margin),
        (),
        (frames, rows),
        (parts, valid, rows),
        ring.choose_tile(group, r, 4 * f * (f if every_index else 1)),
    )
    total, count = by_video.total
    if every_index:
        return total, count
    within = jnp.einsum("bfd,bgd->bfg", frames, parts, precision="highest")
    others = valid[:, None, :] & ~jnp.eye(f, dtype=bool)
    total_within, count_within = _excess(within, margin, others, axis=2)
    return total + total_within, count + count_within


def _excess(cosine: Array, margin: float, mask: Array, axis) -> tuple[Array, Array]:
    """Sum over axes of how far negatives are above the margin, and how many there are."""
    over = jnp.where(mask, jax.nn.relu(cosine - margin), 0.0)
    return over.sum(axis), mask.sum(axis, dtype=jnp.float32)


def _excess_at_same_index(margin: float, _, videos, captions):
    """A tile of `_negatives`: the same frame of all rows that are negatives."""
    (frames, rows), (parts, valid, columns) = videos, captions
    cosine = jnp.einsum("bfd,cfd->bcf", frames, parts, precision="highest")
    others = valid & rows.negatives(columns)[..., None]
    return ring.Stats(_excess(cosine, margin, others, axis=1)), ring.Stats()


def _excess_at_every_index(margin: float, _, videos, captions):
    """A tile of `_negatives`: all frames of these rows, and the other frames of the own one."""
    (frames, rows), (parts, valid, columns) = videos, captions
    cosine = jnp.einsum("bfd,cgd->bfcg", frames, parts, precision="highest")
    other_frame = ~jnp.eye(valid.shape[1], dtype=bool)[:, None]
    own, negatives = (x[:, None, :, None] for x in (rows.matched(columns), rows.negatives(columns)))
    others = valid & (negatives | own & other_frame)
    return ring.Stats(_excess(cosine, margin, others, (2, 3))), ring.Stats()
