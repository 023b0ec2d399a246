"""The order of time: the parts of a caption and the frames that they find (docs/method.md, 3)."""

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln
from jaxtyping import Array, Bool, Float

_LOWEST = -1e30  # in place of -inf, so that gradients stay finite


def ordered_score(
    cosine: Float[Array, "p f"],
    frame_mask: Bool[Array, "f"],
    part_mask: Bool[Array, "p"],
    sharpness: float | Float[Array, ""],
    order: float,
) -> Float[Array, ""]:
    """The score of a video with a divided caption whose parts follow each other in time, or not.

    An assignment gives each of the P valid parts one of the n valid frames. With E the mean of
    exp(sharpness * sum of the assigned cosines) over assignments,

        score = log((1 - order) E[all n^P assignments] + order E[monotone ones]) / (sharpness P)

    where the frames of a monotone assignment do not decrease from part to part. The first mean
    alone is the mean of the `logmeanexp` pool over parts. A caption out of order loses at most
    -log(1 - order) / (sharpness P); one in order gains up to log(P!) / (sharpness P).

    Args:
        cosine: of each part with each frame.
        frame_mask: valid frames; at the others the cosines may be anything.
        part_mask: valid parts, as `frame_mask`.
        sharpness: positive.
        order: prior probability of monotone assignments, above 0, at most 1.

    Returns:
        The score; 0 with gradient 0 without a valid part or frame.
    """
    valid = frame_mask & part_mask[:, None]
    logits, there = sharpness * jnp.where(valid, cosine, 0.0), valid.any()
    # Without a valid pair all logits stay 0, for those of padding have no finite logsumexp.
    logits = jnp.where(valid | ~there, logits, _LOWEST)
    parts = jnp.maximum(part_mask.sum(), 1).astype(jnp.float32)
    frames = jnp.maximum(frame_mask.sum(), 1).astype(jnp.float32)
    score = monotone_log_sum(logits, part_mask) - _log_monotone_count(frames, parts)
    if order < 1:
        free = jax.nn.logsumexp(logits, axis=-1) - jnp.log(frames)
        free = jnp.where(part_mask, free, 0.0).sum()
        score = jnp.logaddexp(jnp.log1p(-order) + free, jnp.log(order) + score)
    return jnp.where(there, score / (sharpness * parts), 0.0)


def monotone_log_sum(logits: Float[Array, "p f"], part_mask: Bool[Array, "p"]) -> Float[Array, ""]:
    """log of the sum over monotone assignments of exp(sum of the assigned logits).

    Dynamic programming over parts: `reach[f]` is that of assignments of the parts so far to frames
    up to f. A pair needs p * f numbers, so tiles of pairs bound the memory.

    Args:
        logits: of parts with frames.
        part_mask: parts where it is False are skipped.
    """

    def add_part(reach, part):
        logits, valid = part
        return jnp.where(valid, jax.lax.cumlogsumexp(reach + logits), reach), None

    start = jnp.zeros_like(logits[0])
    return jax.lax.scan(add_part, start, (logits, part_mask))[0][-1]


def _log_monotone_count(frames: Float[Array, ""], parts: Float[Array, ""]) -> Float[Array, ""]:
    """log of the number of monotone assignments: frames + parts - 1 over parts."""
    return gammaln(frames + parts) - gammaln(parts + 1) - gammaln(frames)
