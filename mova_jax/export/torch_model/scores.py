"""Scores of pairs: cosines of frames and parts of captions, pooled over frames, then over parts.

A caption that is not divided has no axis p.
"""

import math
from collections import namedtuple

import torch
from torch import Tensor

LOWEST = -1e30  # in place of -inf, so that gradients stay finite

# Sums over d, all [... f], that make the cosine of a masked frame v and masked text s: v . s,
# |v|^2, |s|^2.
Sums = namedtuple("Sums", "dot video_sq text_sq")


def inverse_length(squared: Tensor) -> Tensor:
    """`1 / sqrt(squared)`; 0 with gradient 0 where the length is 0, as under an empty mask."""
    return torch.where(squared > 1e-12, squared, torch.inf).rsqrt()


def normalise(x: Tensor) -> Tensor:
    """[... d] at length 1; a zero vector stays 0 with gradient 0."""
    return x * inverse_length(x.square().sum(-1, keepdim=True))


def cosine_of(sums: Sums) -> Tensor:
    """Cosines [... f]; 0 with gradient 0 where either vector is 0."""
    return sums.dot * inverse_length(sums.video_sq) * inverse_length(sums.text_sq)


def frame_sums(frames: Tensor, video_mask: Tensor, part: Tensor) -> Sums:
    """zv, m^V and s, all [... f d]: masks that differ from frame to frame."""
    v = frames * video_mask
    return Sums((v * part).sum(-1), v.square().sum(-1), part.square().sum(-1))


def text_sums(frames: Tensor, text: Tensor, video_mask: Tensor | None) -> Sums:
    """zv [b f d], zt and m^V [... d] -> [b ... f], for masks that no frame changes, by matmuls."""
    mask = torch.ones_like(text) if video_mask is None else video_mask
    dot = torch.einsum("bfd,...d->b...f", frames, text * mask)
    video_sq = torch.einsum("bfd,...d->b...f", frames.square(), mask.square())
    return Sums(dot, video_sq, text.square().sum(-1)[..., None].expand_as(dot))


def pool_frames(
    sums: Sums, frames: Tensor, frame_mask: Tensor, pool: str, sharpness: Tensor | float
) -> Tensor:
    """The score [...] of each pair from its valid frames; 0 without one.

    Leading axes of zv [... f d] and bool[... f] broadcast with those of the sums. `sharpness` is
    the factor on the cosines in the pools `softmax` and, for 32 frames, `logmeanexp`.
    """
    sums = Sums(*(x.masked_fill(~frame_mask, 0.0) for x in sums))
    count, any_valid = frame_mask.sum(-1).clamp(min=1), frame_mask.any(-1)
    if pool == "aligned":  # the global score of mean frames, with masks in it
        dot = (sums.dot * inverse_length(frames.square().sum(-1))).sum(-1)
        total_sq = normalise(frames).sum(-2).square().sum(-1)
        return dot * inverse_length(total_sq) * inverse_length(sums.text_sq.sum(-1) / count)
    if pool == "joint":  # one cosine of all frames laid end to end
        return cosine_of(Sums(*(x.sum(-1) for x in sums)))
    cosine = cosine_of(sums)
    if pool == "mean":
        return cosine.sum(-1) / count
    left_out = ~frame_mask & any_valid[..., None]
    if pool == "max":
        return cosine.masked_fill(left_out, LOWEST).amax(-1)
    if pool == "softmax":  # the mean, weighted by softmax(sharpness * cosine)
        return ((sharpness * cosine).masked_fill(left_out, LOWEST).softmax(-1) * cosine).sum(-1)
    if pool == "logmeanexp":
        sharpness = sharpness_for(sharpness, count)
        logits = (sharpness[..., None] * cosine).masked_fill(left_out, LOWEST)
        score = (logits.logsumexp(-1) - count.log()) / sharpness
        return score.masked_fill(~any_valid, 0.0)
    raise ValueError(f"config.json: unknown score_pool {pool!r}")


def sharpness_for(sharpness: Tensor | float, frames: Tensor) -> Tensor:
    """The factor on cosines in log-mean-exp over so many frames, by that for 32."""
    return sharpness * (frames.float().log1p() / math.log1p(32))


def mean_of_parts(scores: Tensor, part_mask: Tensor) -> Tensor:
    """[b c p], bool[c p] -> [b c]: the mean over valid parts; 0 without one."""
    return scores.masked_fill(~part_mask, 0.0).sum(-1) / part_mask.sum(-1).clamp(min=1)


def ordered_score(
    cosine: Tensor, frame_mask: Tensor, part_mask: Tensor, sharpness: Tensor | float, order: float
) -> Tensor:
    """The score [...] of cosines [... p f] whose parts follow each other in time, or not.

    An assignment gives each of the P valid parts one of the n valid frames. With E the mean of
    exp(sharpness * sum of the assigned cosines) over assignments, it is

        log((1 - order) E[all n^P assignments] + order E[monotone ones]) / (sharpness P)

    where the frames of a monotone assignment do not decrease from part to part. bool[... f] and
    bool[... p] broadcast; the score is 0 without a valid part or frame. `sharpness` is given for 32
    frames, and that above is `sharpness_for` the valid ones.
    """
    valid = frame_mask[..., None, :] & part_mask[..., None]
    there = valid.any(-1).any(-1)
    parts, frames = (x.sum(-1).clamp(min=1).float() for x in (part_mask, frame_mask))
    sharpness = sharpness_for(sharpness, frames)
    logits = sharpness[..., None, None] * cosine.masked_fill(~valid, 0.0)
    logits = logits.masked_fill(~valid & there[..., None, None], LOWEST)
    # Sums of assignments of the parts so far to frames up to each frame, as logarithms.
    reach = torch.zeros_like(logits[..., 0, :])
    for p in range(logits.shape[-2]):
        further = (reach + logits[..., p, :]).logcumsumexp(-1)
        reach = torch.where(part_mask[..., p, None], further, reach)
    # Monotone assignments: (n + P - 1) over P.
    count = torch.lgamma(frames + parts) - torch.lgamma(parts + 1) - torch.lgamma(frames)
    score = reach[..., -1] - count
    if order < 1:
        free = logits.logsumexp(-1) - frames.log()[..., None]
        free = free.masked_fill(~part_mask, 0.0).sum(-1)
        score = torch.logaddexp(math.log1p(-order) + free, math.log(order) + score)
    return (score / (sharpness * parts)).masked_fill(~there, 0.0)
