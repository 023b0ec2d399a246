"""The terms of the objective, each a `Term(sum, count)`: L_g, L_tv, sfdm, dfsm, L_s; and the leak.

Scores and embeddings go in, a sum over what is valid and its count come out, so that terms of
microbatches and of padded batches add up right. Examples where `example_mask` is False are neither
rows nor negatives, and frames where `frame_mask` is False are never read: no value or gradient
depends on them, whatever is stored there. Scores are cosines; logits are `scale * score`, with a
scale that may be trained. All sums are float32.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mova_jax.losses import ring
from mova_jax.losses.scores import normalise
from mova_jax.typing import ConceptMasks, Term

Scale = float | Float[Array, ""]


def _masked_sum(values: Array, mask: Bool[Array, "..."]) -> Float[Array, ""]:
    return jnp.where(mask, values, 0.0).sum(dtype=jnp.float32)


def _count(mask: Bool[Array, "..."]) -> Float[Array, ""]:
    return mask.sum(dtype=jnp.float32)


class Rows(NamedTuple):
    """Which rows of the whole batch these are; a video and its caption have the same index."""

    index: Int[Array, "r"]
    mask: Bool[Array, "r"]

    @classmethod
    def of(cls, group, mask: Bool[Array, "r"]) -> "Rows":
        """The rows of this replica."""
        return cls(group.rank() * len(mask) + jnp.arange(len(mask)), mask)


class Contrast(NamedTuple):
    """What cross-entropies need of the logits of all pairs of a batch, for a replica's rows."""

    own: Float[Array, "r"]  # of a video and its caption
    over_captions: Float[Array, "r"]  # logsumexp of a video with all captions
    over_videos: Float[Array, "r"]  # logsumexp of a caption with all videos
    best_other: Float[Array, "r"]  # highest of a caption with the other videos; no gradient


def contrast(
    group,
    score: Callable,
    whole: Any,
    videos: Any,
    captions: Any,
    scale: Float[Array, ""],
    example_mask: Bool[Array, "r"],
    *,
    floats: int = 1,
) -> Contrast:
    """Scores all pairs of the batch, tile by tile. Inside of `group.shard_map`.

    Args:
        group: `losses.ring.SingleReplica`, or what splits the batch.
        score: `(whole, videos[v ...], captions[c ...]) -> score[v c]`.
        whole: pytree that every score depends on.
        videos: pytree of rows `[r ...]`, this replica's.
        captions: pytree of rows `[r ...]`, each that of the video in its row.
        scale: factor of the scores, an array.
        example_mask: `[r]`; rows where it is False are never read.
        floats: float32 numbers that one pair needs.
    """

    def tile(shared, videos, captions):
        (whole, scale), (videos, rows), (captions, columns) = shared, videos, captions
        return _contrast_stats(score(whole, videos, captions), scale, rows, columns)

    rows = Rows.of(group, example_mask)
    by_video, by_caption = ring.reduce_pairs(
        group,
        tile,
        (whole, scale),
        (videos, rows),
        (captions, rows),
        ring.tile_of(group, len(example_mask), floats),
    )
    return Contrast(by_caption.total, by_video.logsumexp, by_caption.logsumexp, by_caption.highest)


def _contrast_stats(scores: Float[Array, "b c"], scale: Scale, rows: Rows, columns: Rows):
    """Statistics of a tile, by video and by caption; what is masked out counts nothing."""
    valid = rows.mask[:, None] & columns.mask
    own = valid & (rows.index[:, None] == columns.index)
    # Zeros before the product keep what is padded out of the gradient of the scale.
    logits = scale * jnp.where(valid, scores.astype(jnp.float32), 0.0)
    candidates = jnp.where(valid, logits, ring.NOTHING)
    others = jax.lax.stop_gradient(jnp.where(own, ring.NOTHING, candidates))
    by_video = ring.Stats(logsumexp=jax.nn.logsumexp(candidates, axis=1))
    by_caption = ring.Stats(
        total=jnp.where(own, logits, 0.0).sum(0),
        logsumexp=jax.nn.logsumexp(candidates, axis=0),
        highest=others.max(0),
    )
    return by_video, by_caption


def global_contrast(logits: Contrast, example_mask: Bool[Array, "r"]) -> Term:
    """L_g: symmetric cross-entropy over the batch (docs/method.md, 4; CLIP).

    Args:
        logits: of global embeddings.
        example_mask: `[r]`.

    Returns:
        Sum over valid examples of the mean of both directions; count of valid examples.
    """
    both = 0.5 * (logits.over_captions + logits.over_videos) - logits.own
    return Term(_masked_sum(both, example_mask), _count(example_mask))


def same_frame_different_masks(logits: Contrast, example_mask: Bool[Array, "r"]) -> Term:
    """sfdm: which caption's masks fit the frames of this video? Cross-entropy over captions.

    Args:
        logits: under each pair's own masks.
        example_mask: `[r]`.

    Returns:
        Sum over valid videos; their count.
    """
    return Term(_masked_sum(logits.over_captions - logits.own, example_mask), _count(example_mask))


def different_frames_same_mask(logits: Contrast, example_mask: Bool[Array, "r"]) -> Term:
    """dfsm: on which video's frames do a caption's own masks fit? Cross-entropy over videos.

    Args:
        logits: of every video under the masks of each caption.
        example_mask: `[r]`.

    Returns:
        Sum over valid captions; their count.
    """
    return Term(_masked_sum(logits.over_videos - logits.own, example_mask), _count(example_mask))


def in_batch_recall_at_1(logits: Contrast, example_mask: Bool[Array, "r"]) -> Term:
    """Captions whose own video scores strictly highest, the rank 1 of an evaluation; their number.

    A tie is no hit, so the order of the videos does not matter.
    """
    found = example_mask & (logits.own > logits.best_other)
    return Term(_count(found), _count(example_mask))


def chosen_candidates(
    scores: Float[Array, "b k"],
    scale: Scale,
    candidate_mask: Bool[Array, "b k"],
    example_mask: Bool[Array, "b"],
) -> Term:
    """sfdm over chosen captions: cross-entropy of each video over its candidates.

    Args:
        scores: `[b k]` of each video with its candidates, the own caption at column 0.
        scale: factor of the scores.
        candidate_mask: `[b k]`, False for candidates that are captions of padded examples; the own
            caption always takes part.
        example_mask: `[b]`.

    Returns:
        Sum over valid videos; their count.
    """
    candidate_mask = (candidate_mask | (jnp.arange(scores.shape[1]) == 0)) & example_mask[:, None]
    logits = scale * jnp.where(candidate_mask, scores.astype(jnp.float32), 0.0)
    total = jax.nn.logsumexp(jnp.where(candidate_mask, logits, ring.NOTHING), axis=-1)
    return Term(_masked_sum(total - logits[:, 0], example_mask), _count(example_mask))


def frame_contrast(
    frames: Float[Array, "b f d"],
    text_parts: Float[Array, "b f d"],
    frame_mask: Bool[Array, "b f"],
    *,
    margin: float,
    example_mask: Bool[Array, "b"],
    form: Literal["hinge", "relative"] = "hinge",
    negatives: Literal["same_index", "all"] = "same_index",
    group=None,
) -> Term:
    """L_tv: each frame near its own part of its caption, away from other parts (docs/method.md, 4).

    With c+ = cos(zv[b f], s[b f]) and c- = cos(zv[b f], s[c g]), a valid frame costs

        hinge      (1 - c+) + mean over c- of max(0, c- - margin)
        relative              mean over c- of max(0, margin + c- - c+)

    The negatives of frame (b, f) are the parts s[c g] of valid frames: those of the same video,
    c == b and g != f; and those of the other videos c != b, at the same index g == f
    (`same_index`) or at all g (`all`). The mean is one mean over both kinds together, so every
    negative of a frame weighs the same; it is 0 for a frame without negatives.

    A frame whose part is empty (all of m^T zero) has cosine 0 with everything. It counts like any
    other, as a positive and as a negative, so that closing a mask is no way out of the loss: as a
    positive it costs 1 in place of 1 - c+. It passes no gradient to its own mask.

    Args:
        frames: `[b f d]` zv, not normalised.
        text_parts: `[b f d]` s = zt * m^T of the own caption.
        frame_mask: `[b f]`.
        margin: cosine up to which a negative is left alone, or by which c+ is to exceed c-.
        example_mask: `[b]`.
        form: `hinge` or `relative`.
        negatives: `same_index` or `all`.
        group: between which the batch is split, the arrays being this replica's rows; None: one.

    Returns:
        Sum over valid frames; their count.

    Raises:
        ValueError: for another form or another kind of negatives.
    """
    if form not in ("hinge", "relative"):
        raise ValueError(f"form is {form!r}; choose 'hinge' or 'relative'")
    if negatives not in ("same_index", "all"):
        raise ValueError(f"negatives is {negatives!r}; choose 'same_index' or 'all'")
    valid = frame_mask & example_mask[:, None]
    frames = normalise(jnp.where(valid[..., None], frames, 0))
    parts = normalise(jnp.where(valid[..., None], text_parts, 0))
    positive = (frames * parts).sum(-1)
    threshold = positive - margin if form == "relative" else jnp.full_like(positive, margin)
    total, count = _negatives(
        group or ring.SingleReplica(), frames, parts, valid, threshold, negatives == "all"
    )
    cost = total / jnp.maximum(count, 1)
    if form == "hinge":
        cost = cost + 1 - positive
    return Term(_masked_sum(cost, valid), _count(valid))


def _negatives(group, frames, parts, valid, threshold, every_index: bool):
    """Total excess over the threshold, and number of negatives, of each frame `[r f]`."""
    r, f = valid.shape
    index = Rows.of(group, valid[:, 0]).index
    by_video, _ = ring.reduce_pairs(
        group,
        _excess_at_every_index if every_index else _excess_at_same_index,
        (),
        (frames, threshold, index),
        (parts, valid, index),
        ring.tile_of(group, r, 4 * f * (f if every_index else 1)),
    )
    total, count = by_video.total
    if every_index:
        return total, count
    within = jnp.einsum("bfd,bgd->bfg", frames, parts, precision="highest")
    others = valid[:, None, :] & ~jnp.eye(f, dtype=bool)
    own_total, own_count = _excess(within, threshold[..., None], others, axis=2)
    return total + own_total, count + own_count


def _excess(cosine: Array, threshold: Array, mask: Array, axis) -> tuple[Array, Array]:
    """Sum over axes of how far the negatives lie above their threshold, and their number."""
    over = jnp.where(mask, jax.nn.relu(cosine - threshold), 0.0)
    return over.sum(axis), mask.sum(axis, dtype=jnp.float32)


def _excess_at_same_index(_, videos, captions):
    """A tile of `_negatives`: the same frame of all other videos."""
    (frames, threshold, b), (parts, valid, c) = videos, captions
    cosine = jnp.einsum("bfd,cfd->bcf", frames, parts, precision="highest")
    others = valid & (b[:, None] != c)[..., None]
    return ring.Stats(_excess(cosine, threshold[:, None], others, axis=1)), ring.Stats()


def _excess_at_every_index(_, videos, captions):
    """A tile of `_negatives`: all frames of all videos, but for the frame itself."""
    (frames, threshold, b), (parts, valid, c) = videos, captions
    cosine = jnp.einsum("bfd,cgd->bfcg", frames, parts, precision="highest")
    itself = (b[:, None] == c)[:, None, :, None] & jnp.eye(valid.shape[1], dtype=bool)[:, None]
    others = valid & ~itself
    return ring.Stats(_excess(cosine, threshold[..., None, None], others, (2, 3))), ring.Stats()


def sparsity(masks: ConceptMasks, frame_mask: Bool[Array, "... f"]) -> tuple[Term, Term]:
    """L_s: the open share of both masks (docs/method.md, 4: L0, with the masks' own gradient).

    Args:
        masks: `text_mask_density[... f]` and `video[... f d]` are read.
        frame_mask: `[... f]`.

    Returns:
        Terms of the text masks and of the video masks: sum over valid frames of the share of the
        mask that is open; count of valid frames.
    """
    count = _count(frame_mask)
    text_mask_density = masks.text_mask_density.astype(jnp.float32)
    video_mask_density = masks.video.astype(jnp.float32).mean(-1)
    text, video = (
        _masked_sum(text_mask_density, frame_mask),
        _masked_sum(video_mask_density, frame_mask),
    )
    return Term(text, count), Term(video, count)


def identity_leak(scores: Float[Array, "b c"], example_mask: Bool[Array, "b"]) -> Term:
    """Share of captions whose masks find their own video (docs/method.md, 5); no gradient.

    Fed with scores in which every caption was swapped for an unrelated one, chance is 1 / gallery
    (the number of valid videos), and all above it was read from the masks, not from language.

    A caption counts 1 when its own video scores strictly highest among the valid videos, 1 / n when
    n videos (its own among them) share the highest score, which is what breaking the tie at random
    would give on average, and 0 otherwise. Equal scores all over therefore give chance.

    Args:
        scores: `[b c]`, b == c, the own video of a caption on the diagonal.
        example_mask: `[b]`.

    Returns:
        Sum over valid captions; their count.

    Raises:
        ValueError: when scores are not square.
    """
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1]:
        raise ValueError(
            f"scores have shape {scores.shape}; expected [b c] with b == c, caption i belonging to "
            "video i: score every video of the batch with every caption of the batch"
        )
    scores = jax.lax.stop_gradient(scores).astype(jnp.float32)
    own = jnp.diagonal(scores)
    video_mask = example_mask[:, None]
    beaten = ((scores > own) & video_mask).any(0)
    sharing = ((scores == own) & video_mask).sum(0)
    return Term(_masked_sum(1 / sharing, example_mask & ~beaten), _count(example_mask))
