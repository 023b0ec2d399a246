"""The order of time: the parts of a caption and the frames that they find (docs/method.md, 3)."""

import jax
import jax.numpy as jnp
from jax.scipy.special import gammaln
from jaxtyping import Array, Bool, Float

from mova_jax.losses.sharpness import sharpness_for

_LOWEST = -1e30  # in place of -inf, so that gradients stay finite
_TINY = 1e-37  # smallest probability that is distinguished from 0


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

    The second mean divided by the first is the probability that frames drawn from the parts'
    windows are in order, divided by the same for windows that are the whole video. Probabilities
    under 1e-37 count as 1e-37, which matters for an order of 1 only.

    Args:
        cosine: of each part with each frame.
        frame_mask: valid frames; at the others the cosines may be anything.
        part_mask: valid parts, as `frame_mask`.
        sharpness: positive; for 32 frames, and that above is `sharpness_for` the valid ones.
        order: prior probability of monotone assignments, above 0, at most 1.

    Returns:
        The score; 0 with gradient 0 without a valid part or frame.
    """
    valid, count = frame_mask & part_mask[:, None], jnp.maximum(frame_mask.sum(), 1)
    sharpness, frames = sharpness_for(sharpness, count), count.astype(jnp.float32)
    logits, there = sharpness * jnp.where(valid, cosine, 0.0), valid.any()
    # Without a valid pair all logits stay 0, for those of padding have no finite logsumexp.
    logits = jnp.where(valid | ~there, logits, _LOWEST)
    parts = jnp.maximum(part_mask.sum(), 1).astype(jnp.float32)
    free = jax.nn.logsumexp(logits, axis=-1) - jnp.log(frames)
    score = jnp.where(part_mask, free, 0.0).sum()
    probability = monotone_probability(jax.nn.softmax(logits, axis=-1), part_mask)
    ratio = jnp.log(jnp.maximum(probability, _TINY)) + _log_assignments(frames, parts)
    score += ratio if order == 1 else jnp.logaddexp(jnp.log1p(-order), jnp.log(order) + ratio)
    return jnp.where(there, score / (sharpness * parts), 0.0)


def monotone_probability(
    windows: Float[Array, "p f"], part_mask: Bool[Array, "p"]
) -> Float[Array, ""]:
    """The probability that frames, one drawn from each part's window, do not decrease.

    Dynamic programming over parts: `reach[f]` is that the parts so far are in order and their last
    frame is at most f. On a CPU this is 20 times as fast as sums in logarithms.

    Args:
        windows: the distribution over frames of each part.
        part_mask: parts where it is False are skipped.
    """
    reach = jnp.ones_like(windows[0])
    for window, valid in zip(windows, part_mask, strict=True):
        reach = jnp.where(valid, jnp.cumsum(reach * window), reach)
    return reach[-1]


def _log_assignments(frames: Float[Array, ""], parts: Float[Array, ""]) -> Float[Array, ""]:
    """log of how many assignments there are to each monotone one; those are n + P - 1 over P."""
    monotone = gammaln(frames + parts) - gammaln(parts + 1) - gammaln(frames)
    return parts * jnp.log(frames) - monotone
