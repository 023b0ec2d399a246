"""Scores of videos with captions: cosines of masked frames and masked captions, pooled over frames.

For frame f of video b under the masks of caption c, the masked frame and its part of the caption
are

    v = zv[b f] * m^V        s = zt[c] * m^T        cos(v, s) = (v . s) / sqrt(|v|^2 |s|^2)

A pair is scored under one of two kinds of masks:

    pair_scores       both masks are computed for that pair
    own_mask_scores   the masks that the caption has with its own video, applied to every video

Nothing of shape `[b c f d]` is stored: matmuls compute the sums over d of each frame and caption
(`CosineSums`), and `pools.py` turns them into the score of a pair. All sums are float32, also for
bfloat16 inputs.

A caption that is divided into parts (`TextEmbedding.parts`) is scored by parts: each is compared
with the frames by itself, and the score of the pair is the mean over the parts.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mova_jax.losses.pools import (
    CosineSums,
    FrameLengths,
    PairScoring,
    Pool,
    frame_lengths,
    inverse_length,
    normalise,
    pool_frames,
    pool_parts,
)
from mova_jax.typing import ConceptMasks, TextEmbedding, VideoEmbedding


def _float32(*arrays: Array) -> tuple[Array, ...]:
    return tuple(array.astype(jnp.float32) for array in arrays)


def _einsum(spec: str, *arrays: Array) -> Array:
    # Accelerators multiply float32 in bfloat16 by default. A cosine times a scale of 100 needs all
    # digits, and these matmuls are small compared to the towers.
    return jnp.einsum(spec, *arrays, precision="highest")


def cosines(videos: Float[Array, "b d"], captions: Float[Array, "c d"]) -> Float[Array, "b c"]:
    """Cosines of all pairs of vectors of length 1."""
    return _einsum("bd,cd->bc", videos, captions)


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
    sharpness: float | Float[Array, ""],
    part_mask: Bool[Array, "c p"] | None = None,
) -> Float[Array, "b c"]:
    """Scores of every video under the masks that each caption has with its own video.

    Args:
        video: `frames[b f d]`, `frame_mask[b f]`.
        masks: `[c f d]` m^V and s of each caption with its own video; `[c p f d]` of its parts.
        own_frame_mask: `[c f]` valid frames of each caption's own video.
        pool: see `pool_frames`.
        sharpness: see `pool_frames`.
        part_mask: of divided captions, whose score is the mean over their parts.
    """
    if part_mask is not None:
        score = partial(own_mask_scores, video, pool=pool, sharpness=sharpness)
        scores = jax.vmap(score, in_axes=(1, None), out_axes=2)(masks, own_frame_mask)
        scores = jnp.where(part_mask, scores, 0.0).sum(-1)
        return scores / jnp.maximum(part_mask.sum(-1), 1)
    sums = own_mask_sums(video.frames, masks)
    both = video.frame_mask[:, None] & own_frame_mask
    lengths = frame_lengths(video.frames, video.frame_mask)
    # For each pair, the length of the sum of the frames that are valid in both videos.
    unit = normalise(jnp.where(video.frame_mask[..., None], video.frames, 0))
    products = _einsum("bfd,bgd->bfg", unit, unit)
    valid = own_frame_mask.astype(jnp.float32)
    total_sq = _einsum("cf,bfg,cg->bc", valid, products, valid)
    total = total_sq * inverse_length(total_sq)
    lengths = FrameLengths(lengths.of_frames[:, None], total)
    return pool_frames(sums, both, pool, sharpness, lengths)


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


def search_scoring(losses, evaluation) -> PairScoring:
    """How an evaluation scores pairs: by its own pool, or by that of the loss.

    Args:
        losses: `config.losses`.
        evaluation: `config.eval`, whose pool may be `training`.
    """
    pool = losses.pool if evaluation.pool == "training" else evaluation.pool
    # The order is defined for this pool; another one is asked for to be seen by itself.
    return PairScoring(pool, losses.order if pool == "logmeanexp" else 0.0)


def global_scores(video: VideoEmbedding, text: TextEmbedding) -> Float[Array, "b c"]:
    """Cosines of the global embeddings of all videos with all captions."""
    return cosines(video.pooled, normalise(text.pooled))


def pair_scores(
    networks, video: VideoEmbedding, captions: Any, *, pool: Pool, order: float = 0.0
) -> Float[Array, "b c"]:
    """Scores of all videos with all captions, by the masks of each pair (docs/method.md, 3).

    Args:
        networks: `models.mova.MaskNetworks`, or the whole model. They get padded frames as zeros.
            Without masks the cosines are cos(zv, zt), and only the pooling of frames is left.
        video: `frames[b f d]`, `frame_mask[b f]`.
        captions: from `networks.prepare`, a pytree whose leaves have leading axes c or, of divided
            captions, c and p.
        pool: see `pool_frames`.
        order: see `pool_parts`.

    Returns:
        `[b c]`, float32.
    """
    frames = jnp.where(video.frame_mask[..., None], video.frames, 0)
    one_pair = partial(_pair_score, networks, pool, order)

    def one_video(frames, frame_mask):
        lengths = frame_lengths(frames, frame_mask)
        return jax.vmap(one_pair, in_axes=(None, None, None, 0))(
            frames, frame_mask, lengths, captions
        )

    return jax.vmap(one_video)(frames, video.frame_mask)


def matched_scores(
    networks, video: VideoEmbedding, captions: Any, *, pool: Pool, order: float = 0.0
) -> Float[Array, "b"]:
    """`pair_scores` of each video with the caption in the same row."""
    frames = jnp.where(video.frame_mask[..., None], video.frames, 0)
    lengths = frame_lengths(frames, video.frame_mask)
    one_pair = partial(_pair_score, networks, pool, order)
    return jax.vmap(one_pair)(frames, video.frame_mask, lengths, captions)


def frame_cosines(networks, video: VideoEmbedding, captions: Any) -> Float[Array, "b c *p f"]:
    """The cosines that `pair_scores` pools, of each frame with each caption or each of its parts.

    Args:
        networks: see `pair_scores`.
        video: `frames[b f d]`, `frame_mask[b f]`.
        captions: see `pair_scores`.

    Returns:
        float32, any values at padded frames and parts.
    """
    frames = jnp.where(video.frame_mask[..., None], video.frames, 0)
    one_video = jax.vmap(partial(_frame_sums, networks), in_axes=(None, None, 0))
    return jax.vmap(one_video, in_axes=(0, 0, None))(frames, video.frame_mask, captions).cosine


def _frame_sums(networks, frames, frame_mask, caption) -> CosineSums:
    """`[*p f]` of one video, its padded frames zero, with one caption, divided or not."""
    if networks.masks_see_frames:
        return pair_sums(frames, networks.caption_masks(frames, frame_mask, caption))
    return _caption_sums(frames, caption.pooled, caption.video_mask)


def _pair_score(networks, pool: Pool, order: float, frames, frame_mask, lengths, caption):
    """The score of one video, its padded frames zero, with one caption, divided or not."""
    sums = _frame_sums(networks, frames, frame_mask, caption)
    if caption.pooled.ndim == 1:
        return pool_frames(sums, frame_mask, pool, networks.sharpness, lengths)
    return pool_parts(
        sums,
        frame_mask,
        caption.token_mask.any(-1),
        pool=pool,
        order=order,
        sharpness=networks.sharpness,
        lengths=lengths,
    )


def _caption_sums(
    frames: Float[Array, "f d"],
    text_pooled: Float[Array, "*p d"],
    video_mask: Float[Array, "*p d"] | None,
) -> CosineSums:
    """`pair_sums` `[*p f]` under masks that no frame changes; None: under masks of ones.

    The products over d become matmuls of all frames with all parts when vmap adds the pairs.
    """
    frames, text = _float32(frames, text_pooled)
    text_sq = jnp.square(text).sum(-1)[..., None]
    if video_mask is None:
        dot, video_sq = _frame_products(frames, text), jnp.square(frames).sum(-1)
    else:
        dot = _frame_products(frames, text * video_mask)
        video_sq = _frame_products(jnp.square(frames), jnp.square(video_mask))
    return CosineSums(dot, *(jnp.broadcast_to(x, dot.shape) for x in (video_sq, text_sq)))


def _frame_products(
    frames: Float[Array, "f d"], parts: Float[Array, "*p d"]
) -> Float[Array, "*p f"]:
    """Products over d of all frames with all parts.

    The frames come first and the result is turned: with parts first XLA would copy the frames to
    turn them, which took nine times as long on a CPU as the products themselves.
    """
    return jnp.moveaxis(_einsum("fd,...d->f...", frames, parts), 0, -1)
