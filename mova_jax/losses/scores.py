"""Scores of videos with captions: cosines of masked frames and masked captions, pooled over frames.

For frame f of video b under the masks of caption c, the masked frame and its part of the caption
are

    v = zv[b f] * m^V        s = zt[c] * m^T        cos(v, s) = (v . s) / sqrt(|v|^2 |s|^2)

A pair is scored under one of two kinds of masks:

    pair_scores       both masks are computed for that pair
    own_mask_scores   the masks that the caption has with its own video, applied to every video

Nothing of shape `[b c f d]` is stored: `CosineSums` holds the three sums over d apart, so that
matmuls can compute them, and `pool_frames` turns them into the score of a pair. All sums are
float32, also for bfloat16 inputs. A zero vector (an empty mask) has cosine 0 with everything, and
passes no gradient.
"""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mova_jax.typing import ConceptMasks, TextEmbedding, VideoEmbedding

Pool = Literal["aligned", "softmax", "mean", "joint"]

# Sharpness of the `softmax` pool: the factor on a frame's cosine in its weight.
SOFTMAX_SCALE = 10.0

# Squared lengths up to this count as zero. Above it the gradient, about length^-3, is finite.
_EMPTY = 1e-12


def _inverse_length(squared: Float[Array, "..."]) -> Float[Array, "..."]:
    """`1 / sqrt(squared)`; 0 with gradient 0 for a length of 0."""
    present = squared > _EMPTY
    return jnp.where(present, jax.lax.rsqrt(jnp.where(present, squared, 1.0)), 0.0)


def _float32(*arrays: Array) -> tuple[Array, ...]:
    return tuple(array.astype(jnp.float32) for array in arrays)


def _einsum(spec: str, *arrays: Array) -> Array:
    # Accelerators multiply float32 in bfloat16 by default. A cosine times a scale of 100 needs all
    # digits, and these matmuls are small compared to the towers.
    return jnp.einsum(spec, *arrays, precision="highest")


def normalise(vectors: Float[Array, "... d"]) -> Float[Array, "... d"]:
    """The vectors scaled to length 1, in float32; a zero vector stays zero with gradient 0."""
    vectors = vectors.astype(jnp.float32)
    return vectors * _inverse_length(jnp.square(vectors).sum(-1, keepdims=True))


def cosines(videos: Float[Array, "b d"], captions: Float[Array, "c d"]) -> Float[Array, "b c"]:
    """Cosines of all pairs of vectors of length 1."""
    return _einsum("bd,cd->bc", videos, captions)


class CosineSums(NamedTuple):
    """The sums over d that make up the cosine of a masked frame and its part of a caption."""

    dot: Float[Array, "... f"]  # v . s
    video_sq: Float[Array, "... f"]  # |v|^2
    text_sq: Float[Array, "... f"]  # |s|^2

    @property
    def cosine(self) -> Float[Array, "... f"]:
        """`dot / sqrt(video_sq * text_sq)`; 0 with gradient 0 where either is 0."""
        return self.dot * _inverse_length(self.video_sq) * _inverse_length(self.text_sq)


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
    return squared * _inverse_length(squared)


def own_mask_sums(frames: Float[Array, "b f d"], masks: ConceptMasks) -> CosineSums:
    """Applies each caption's own masks to every video, by two matmuls (docs/method.md, 3).

    cos(zv[b f] * m[c f], s[c f]) = (zv[b f] . (m * s)[c f]) / sqrt(zv[b f]^2 . m[c f]^2) / |s[c f]|

    The masks of caption c exist for the frames of its own video only, so pool the result over
    `frame_mask[:, None] & frame_mask[None, :]`. Padded frames may hold any values whose squares are
    finite.

    Args:
        frames: `[b f d]` frame embeddings zv, not normalised.
        masks: `[c f d]` m^V and s of each caption with its own video.

    Returns:
        Sums `[b c f]`, float32.
    """
    frames, video_mask, part = _float32(frames, masks.video, masks.part)
    dot = _einsum("bfd,cfd->bcf", frames, video_mask * part)
    video_sq = _einsum("bfd,cfd->bcf", jnp.square(frames), jnp.square(video_mask))
    text_sq = jnp.square(part).sum(-1)
    return CosineSums(dot, video_sq, jnp.broadcast_to(text_sq, dot.shape))


def own_mask_scores(
    video: VideoEmbedding,
    masks: ConceptMasks,
    own_frame_mask: Bool[Array, "c f"],
    *,
    pool: Pool,
) -> Float[Array, "b c"]:
    """Scores of every video under the masks that each caption has with its own video.

    Args:
        video: `frames[b f d]`, `frame_mask[b f]`.
        masks: `[c f d]` m^V and s of each caption with its own video.
        own_frame_mask: `[c f]` valid frames of each caption's own video.
        pool: see `pool_frames`.
    """
    sums = own_mask_sums(video.frames, masks)
    both = video.frame_mask[:, None] & own_frame_mask
    lengths = frame_lengths(video.frames, video.frame_mask)
    # For each pair, the length of the sum of the frames that are valid in both videos.
    unit = normalise(jnp.where(video.frame_mask[..., None], video.frames, 0))
    products = _einsum("bfd,bgd->bfg", unit, unit)
    valid = own_frame_mask.astype(jnp.float32)
    total_sq = _einsum("cf,bfg,cg->bc", valid, products, valid)
    total = total_sq * _inverse_length(total_sq)
    return pool_frames(sums, both, pool, FrameLengths(lengths.of_frames[:, None], total))


def pair_sums(frames: Float[Array, "... f d"], masks: ConceptMasks) -> CosineSums:
    """Applies a pair's masks to its frames; leading axes broadcast.

    Args:
        frames: `[... f d]` frame embeddings zv, not normalised.
        masks: `[... f d]` m^V and s of the pair.

    Returns:
        Sums `[... f]`, float32.
    """
    frames, video_mask, part = _float32(frames, masks.video, masks.part)
    selected = frames * video_mask
    sums = (selected * part).sum(-1), jnp.square(selected).sum(-1), jnp.square(part).sum(-1)
    return CosineSums(*jnp.broadcast_arrays(*sums))


def pool_frames(
    sums: CosineSums,
    frame_mask: Bool[Array, "... f"],
    pool: Pool,
    lengths: FrameLengths | None = None,
) -> Float[Array, "..."]:
    """Pools the frames of a pair into its score (docs/method.md, 3).

    `aligned` is the global score with masks in it: the sum of v . s over the frames, each scaled to
    length 1 before its mask, divided by the length of the frames' sum (as the mean head does) and
    by the root mean square length of the parts s. With open masks it is the global score of the
    mean head. The other pools divide each frame by its own length; they therefore prefer videos
    whose frames are alike, whatever the caption.

    `softmax` weights the cosines by softmax(10 * cosine) over the valid frames, with a gradient
    through the weights. `mean` is the mean cosine of the valid frames. `joint` is one cosine of the
    concatenated masked vectors of all valid frames. A frame with an empty mask has no influence
    under `joint`; under `mean` and `softmax` it counts as cosine 0.

    Args:
        sums: `[... f]` from `own_mask_sums` or `pair_sums`; any values at padded frames.
        frame_mask: `[... f]`, broadcast against the sums.
        pool: one of `aligned`, `softmax`, `mean`, `joint`.
        lengths: of the video; only `aligned` needs them.

    Returns:
        `[...]` scores in [-1, 1]; those of `aligned` can be larger when frames differ and each
        matches its own part. 0 when no frame is valid.

    Raises:
        ValueError: for another pool.
    """
    sums = CosineSums(*(jnp.where(frame_mask, x, 0.0) for x in sums))
    if pool == "aligned":
        dots = sums.dot * _inverse_length(jnp.square(lengths.of_frames))
        mean_sq = sums.text_sq.sum(-1) / jnp.maximum(frame_mask.sum(-1), 1)
        return dots.sum(-1) * _inverse_length(jnp.square(lengths.of_sum)) * _inverse_length(mean_sq)
    if pool == "joint":
        return CosineSums(*(x.sum(-1) for x in sums)).cosine
    cosine = sums.cosine
    if pool == "mean":
        return cosine.sum(-1) / jnp.maximum(frame_mask.sum(-1), 1)
    if pool == "softmax":
        lowest = jnp.finfo(jnp.float32).min
        weights = jax.nn.softmax(jnp.where(frame_mask, SOFTMAX_SCALE * cosine, lowest), axis=-1)
        return (weights * cosine).sum(-1)
    raise ValueError(f"pool is {pool!r}; choose one of 'aligned', 'softmax', 'mean', 'joint'")


def search_pool(losses, evaluation) -> Pool:
    """The pool that an evaluation scores pairs with: its own, or that of the loss.

    Args:
        losses: `config.losses`.
        evaluation: `config.eval`, whose pool may be `training`.
    """
    return losses.pool if evaluation.pool == "training" else evaluation.pool


def global_scores(video: VideoEmbedding, text: TextEmbedding) -> Float[Array, "b c"]:
    """Cosines of the global embeddings of all videos with all captions."""
    return cosines(video.pooled, normalise(text.pooled))


def pair_scores(
    networks, video: VideoEmbedding, captions: Any, *, pool: Pool
) -> Float[Array, "b c"]:
    """Scores of all videos with all captions, by the masks of each pair (docs/method.md, 3).

    Args:
        networks: `models.mova.MaskNetworks`, or the whole model. They get padded frames as zeros.
            Without masks the cosines are cos(zv, zt), and only the pooling of frames is left.
        video: `frames[b f d]`, `frame_mask[b f]`.
        captions: from `networks.prepare`, a pytree whose leaves have a leading axis c.
        pool: see `pool_frames`.

    Returns:
        `[b c]`, float32.
    """
    frames = jnp.where(video.frame_mask[..., None], video.frames, 0)
    one_pair = partial(_pair_score, networks, pool)

    def one_video(frames, frame_mask):
        lengths = frame_lengths(frames, frame_mask)
        return jax.vmap(one_pair, in_axes=(None, None, None, 0))(
            frames, frame_mask, lengths, captions
        )

    return jax.vmap(one_video)(frames, video.frame_mask)


def matched_scores(
    networks, video: VideoEmbedding, captions: Any, *, pool: Pool
) -> Float[Array, "b"]:
    """`pair_scores` of each video with the caption in the same row."""
    frames = jnp.where(video.frame_mask[..., None], video.frames, 0)
    lengths = frame_lengths(frames, video.frame_mask)
    one_pair = partial(_pair_score, networks, pool)
    return jax.vmap(one_pair)(frames, video.frame_mask, lengths, captions)


def _pair_score(networks, pool: Pool, frames, frame_mask, lengths: FrameLengths, caption):
    """The score of one video, its padded frames zero, with one caption."""
    if networks.has_masks:
        sums = pair_sums(frames, networks.masks(frames, frame_mask, caption))
    else:
        sums = _unmasked_sums(frames, caption.pooled)
    return pool_frames(sums, frame_mask, pool, lengths)


def _unmasked_sums(frames: Float[Array, "f d"], text_pooled: Float[Array, "d"]) -> CosineSums:
    """`pair_sums` under masks of ones, with a dot product that vmap turns into a matmul."""
    frames, text_pooled = _float32(frames, text_pooled)
    video_sq = jnp.square(frames).sum(-1)
    text_sq = jnp.broadcast_to(jnp.square(text_pooled).sum(), video_sq.shape)
    return CosineSums(_einsum("fd,d->f", frames, text_pooled), video_sq, text_sq)
