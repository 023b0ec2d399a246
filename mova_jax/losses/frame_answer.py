"""L_tv of divided captions: a frame answers to a part of its caption, or to nothing."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mova_jax.losses import ring
from mova_jax.losses.batch_rows import BatchRows, RowKeys
from mova_jax.losses.contrast import masked_term
from mova_jax.losses.pools import normalise
from mova_jax.losses.replica_group import ReplicaGroup, SingleReplica
from mova_jax.typing import Term

# Parts of other captions whose text has at least this cosine with a part of the own caption are
# taken to say the same. Only nearly equal texts: a model that does not know two shapes apart yet
# gives sentences that differ in the shape alone a cosine above 0.97, and learns it from them. (With
# 0.9, after 400 steps on Storyboard, 98 % of what was left out said something else.)
SAME_EVENT = 0.99


def frame_answer(
    frames: Float[Array, "b f d"],
    parts: Float[Array, "b p d"],
    masked_parts: Float[Array, "b p f d"] | None,
    frame_mask: Bool[Array, "b f"],
    part_mask: Bool[Array, "b p"],
    *,
    nothing: float,
    sharpness: float | Float[Array, ""],
    example_mask: Bool[Array, "b"],
    keys: RowKeys | None = None,
    group: ReplicaGroup | None = None,
) -> Term:
    """Tells each frame's own parts, or nothing, from the parts of other captions.

    With k = sharpness, n = nothing, a[p] = cos(zv[b f], s[b p f]) of the own parts and
    c-[c p] = cos(zv[b f], zt[c p]) of the parts of the captions of the rows that are negatives of b
    (`batch_rows.py`), a valid frame costs

        log(sum_p e^(k a) + e^(k n) + sum e^(k c-)) - log(sum_p e^(k a) + e^(k n))

    How much a frame is pulled to each of its own parts follows the share of e^(k a) in the sum with
    e^(k n): a frame that is like none of them answers to nothing, and is only kept away from the
    other captions. k is the sharpness, for it is made for the cosines of single frames with single
    parts; the modular scale is made for means over parts, which differ less.

    Parts that say the same as a part of the own caption (`SAME_EVENT`) are no negatives, for they
    may be right. No gradient flows through that choice, nor to the sharpness: a larger one lowers
    the cost of every frame whose c- are below n, whatever the towers do.

    Args:
        frames: `[b f d]` zv, not normalised.
        parts: `[b p d]` zt, not normalised.
        masked_parts: `[b p f d]` s of the own caption; None: the parts, for every frame.
        frame_mask: `[b f]`; frames where it is False are never read.
        part_mask: `[b p]`; parts where it is False are never read.
        nothing: n, the cosine above which a frame shows a part rather than nothing.
        sharpness: k, factor on the cosines of single frames with single parts.
        example_mask: `[b]`; rows where it is False are never read.
        keys: of the rows; None: all of them differ.
        group: the replicas that share the batch; the arrays are this replica's rows. None: one.

    Returns:
        Sum over valid frames; their count.
    """
    frame_mask, part_mask = (mask & example_mask[:, None] for mask in (frame_mask, part_mask))
    k = jax.lax.stop_gradient(jnp.asarray(sharpness, jnp.float32))
    frames = k * normalise(jnp.where(frame_mask[..., None], frames, 0))
    parts = normalise(jnp.where(part_mask[..., None], parts, 0))
    if masked_parts is None:
        own = jnp.einsum("bfd,bpd->bpf", frames, parts, precision="highest")
    else:
        both = part_mask[..., None] & frame_mask[:, None]
        masked_parts = normalise(jnp.where(both[..., None], masked_parts, 0))
        own = jnp.einsum("bfd,bpfd->bpf", frames, masked_parts, precision="highest")
    own = jnp.where(part_mask[..., None], own, ring.NEG_INF)
    answers = jnp.logaddexp(jax.nn.logsumexp(own, axis=1), k * nothing)
    group = group or SingleReplica()
    rows = BatchRows.of(group, example_mask, keys)
    others = _other_captions(group, frames, parts, part_mask, rows)
    return masked_term(jax.nn.softplus(others - answers), frame_mask)


def _other_captions(group, frames, parts, part_mask, rows: BatchRows) -> Float[Array, "b f"]:
    """The logsumexp of each frame over the parts of other captions that say something else."""
    (b, f, _), p = frames.shape, parts.shape[1]
    own_texts = jax.lax.stop_gradient(parts)
    by_video, _ = ring.reduce_pairs(
        group,
        _tile,
        (),
        (frames, own_texts, part_mask, rows),
        (parts, part_mask, rows),
        ring.choose_tile(group, b, 4 * p * (f + p)),
    )
    return by_video.logsumexp


def _tile(_, videos, captions):
    """A tile of `_other_captions`, `[b f]`."""
    (frames, own_texts, own_mask, rows), (parts, part_mask, columns) = videos, captions
    logits = jnp.einsum("bfd,cqd->bfcq", frames, parts, precision="highest")
    texts = jax.lax.stop_gradient(parts)
    alike = jnp.einsum("bpd,cqd->bpcq", own_texts, texts, precision="highest") >= SAME_EVENT
    same_event = (alike & own_mask[..., None, None]).any(1)
    negative = part_mask & rows.negatives(columns)[..., None] & ~same_event
    logits = jnp.where(negative[:, None], logits, ring.NEG_INF)
    return ring.Stats(logsumexp=jax.nn.logsumexp(logits, axis=(2, 3))), ring.Stats()
