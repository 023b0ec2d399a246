"""Pools: from the cosines of a video's frames with a caption or its parts to the score of the pair.

For a frame masked by m^V and a part of a caption masked by m^T, `CosineSums` holds the three sums
over d that their cosine is made of, apart, so that matmuls can compute them. A zero vector (an
empty mask) has cosine 0 with everything, and passes no gradient.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mova_jax.losses.order import ordered_score
from mova_jax.losses.sharpness import sharpness_for

Pool = Literal["aligned", "softmax", "logmeanexp", "max", "mean", "joint"]


class PairScoring(NamedTuple):
    """How the cosines of frames and parts become the score of a pair."""

    pool: Pool  # over frames, see `pool_frames`
    order: float = 0.0  # see `pool_parts`


# Squared lengths up to this count as zero. Above it the gradient, about length^-3, is finite.
_EMPTY = 1e-12


def inverse_length(squared: Float[Array, "..."]) -> Float[Array, "..."]:
    """`1 / sqrt(squared)`; 0 with gradient 0 for a length of 0."""
    present = squared > _EMPTY
    return jnp.where(present, jax.lax.rsqrt(jnp.where(present, squared, 1.0)), 0.0)


def normalise(vectors: Float[Array, "... d"]) -> Float[Array, "... d"]:
    """The vectors scaled to length 1, in float32; a zero vector stays zero with gradient 0."""
    vectors = vectors.astype(jnp.float32)
    return vectors * inverse_length(jnp.square(vectors).sum(-1, keepdims=True))


class CosineSums(NamedTuple):
    """The sums over d that make up the cosine of a masked frame and its part of a caption."""

    dot: Float[Array, "... f"]  # v . s
    video_sq: Float[Array, "... f"]  # |v|^2
    text_sq: Float[Array, "... f"]  # |s|^2

    @property
    def cosine(self) -> Float[Array, "... f"]:
        """`dot / sqrt(video_sq * text_sq)`; 0 with gradient 0 where either is 0."""
        return self.dot * inverse_length(self.video_sq) * inverse_length(self.text_sq)


class FrameLengths(NamedTuple):
    """Lengths of a video's frames, for the `aligned` pool; leading axes as in `CosineSums`."""

    of_frames: Float[Array, "... f"]  # |zv|
    of_sum: Float[Array, "..."]  # of the sum of the valid frames, each scaled to length 1


def frame_lengths(
    frames: Float[Array, "... f d"], frame_mask: Bool[Array, "... f"]
) -> FrameLengths:
    """Lengths of a video's frames and of their sum.

    Args:
        frames: `[... f d]` zv, not normalised.
        frame_mask: `[... f]`; frames where it is False are not read.
    """
    frames = jnp.where(frame_mask[..., None], frames.astype(jnp.float32), 0.0)
    return FrameLengths(_length(frames), _length(normalise(frames).sum(-2)))


def _length(vectors: Float[Array, "... d"]) -> Float[Array, "..."]:
    """Lengths; 0 with gradient 0 for a zero vector."""
    squared = jnp.square(vectors).sum(-1)
    return squared * inverse_length(squared)


def pool_frames(
    sums: CosineSums,
    frame_mask: Bool[Array, "... f"],
    pool: Pool,
    sharpness: float | Float[Array, ""] = 1.0,
    lengths: FrameLengths | None = None,
) -> Float[Array, "..."]:
    """Pools the frames of a pair into its score (docs/method.md, 3).

    `aligned` is the global score with masks in it: the sum of v . s over the frames, each scaled to
    length 1 before its mask, divided by the length of the frames' sum (as the mean head does) and
    by the root mean square length of the parts s. With open masks it is the global score of the
    mean head. The other pools divide each frame by its own length; they therefore prefer videos
    whose frames are alike, whatever the caption.

    `logmeanexp` is log(mean(exp(sharpness * cosine))) / sharpness over the valid frames: between
    their mean (a sharpness of 0) and their maximum, and higher the more frames agree; the sharpness
    is larger for more frames (`sharpness_for`), and as given for 32. `softmax`
    weights the cosines by softmax(sharpness * cosine), with a gradient through the weights. `max`
    is the best frame, `mean` the mean cosine of the valid frames. `joint` is one cosine of the
    concatenated masked vectors of all valid frames. A frame with an empty mask has no influence
    under `joint`; under the others it counts as cosine 0.

    Args:
        sums: `[... f]` from `own_mask_sums` or `pair_sums`; any values at padded frames.
        frame_mask: `[... f]`, broadcast against the sums.
        pool: one of `aligned`, `softmax`, `logmeanexp`, `max`, `mean`, `joint`.
        sharpness: only `softmax` and `logmeanexp` need it.
        lengths: of the video; only `aligned` needs them.

    Returns:
        `[...]` scores in [-1, 1]; those of `aligned` can be larger when frames differ and each
        matches its own part. 0 when no frame is valid.

    Raises:
        ValueError: for another pool.
    """
    sums = CosineSums(*(jnp.where(frame_mask, x, 0.0) for x in sums))
    count = jnp.maximum(frame_mask.sum(-1), 1)
    if pool == "aligned":
        dots = sums.dot * inverse_length(jnp.square(lengths.of_frames))
        mean_sq = sums.text_sq.sum(-1) / count
        return dots.sum(-1) * inverse_length(jnp.square(lengths.of_sum)) * inverse_length(mean_sq)
    if pool == "joint":
        return CosineSums(*(x.sum(-1) for x in sums)).cosine
    cosine = sums.cosine
    if pool == "mean":
        return cosine.sum(-1) / count
    lowest, any_valid = jnp.finfo(jnp.float32).min, frame_mask.any(-1)
    if pool == "max":
        return jnp.where(any_valid, jnp.where(frame_mask, cosine, lowest).max(-1), 0.0)
    if pool == "logmeanexp":
        sharpness = sharpness_for(sharpness, count)
        logits = jnp.where(frame_mask, sharpness[..., None] * cosine, lowest)
        # Without a valid frame the logits are replaced, for those of padding give no gradient.
        logits = jnp.where(any_valid[..., None], logits, 0.0)
        return jnp.where(any_valid, _log_mean_exp(logits, count) / sharpness, 0.0)
    logits = jnp.where(frame_mask, sharpness * cosine, lowest)
    if pool == "softmax":
        return (jax.nn.softmax(logits, axis=-1) * cosine).sum(-1)
    raise ValueError(
        f"pool is {pool!r}; choose one of 'aligned', 'softmax', 'logmeanexp', 'max', 'mean', "
        "'joint'"
    )


def _log_mean_exp(logits: Float[Array, "... f"], count: Array) -> Float[Array, "..."]:
    """The logarithm of the mean of `count` numbers by their logarithms; others are lowest."""
    return jax.nn.logsumexp(logits, axis=-1) - jnp.log(count.astype(jnp.float32))


def pool_parts(
    sums: CosineSums,
    frame_mask: Bool[Array, "f"],
    part_mask: Bool[Array, "p"],
    *,
    pool: Pool,
    order: float,
    sharpness: float | Float[Array, ""],
    lengths: FrameLengths,
) -> Float[Array, ""]:
    """The score of a video with a divided caption: the mean over its parts (docs/method.md, 3).

    Each part pools the frames by itself, so that it finds its own window of the video. With
    `order` above 0 the windows are also looked for in the order of time (`ordered_score`).

    Args:
        sums: `[p f]`.
        frame_mask: `[f]`.
        part_mask: `[p]`.
        pool: see `pool_frames`.
        order: prior probability that parts are in the order of time; needs `logmeanexp`.
        sharpness: see `pool_frames`.
        lengths: see `pool_frames`.

    Returns:
        The score; 0 without a valid part or frame.
    """
    if order:
        return ordered_score(sums.cosine, frame_mask, part_mask, sharpness, order)
    scores = pool_frames(sums, frame_mask, pool, sharpness, lengths)
    scores = jnp.where(part_mask, scores, 0.0)
    return scores.sum() / jnp.maximum(part_mask.sum(), 1)
