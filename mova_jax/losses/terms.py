"""The terms of the objective, each a `Term(sum, count)`: L_g, L_tv, sfdm, dfsm, L_s; and the leak.

Scores and embeddings go in, a sum over what is valid and its count come out, so that terms of
microbatches and of padded batches add up right. Examples where `example_mask` is False are neither
rows nor negatives, and frames where `frame_mask` is False are never read: no value or gradient
depends on them, whatever is stored there. Scores are cosines; logits are `scale * score`, with a
scale that may be trained. All sums are float32.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mova_jax.losses.similarity import normalise
from mova_jax.typing import ConceptMasks, Term

Scale = float | Float[Array, ""]


def _masked_sum(values: Array, mask: Bool[Array, "..."]) -> Float[Array, ""]:
    return jnp.where(mask, values, 0.0).sum(dtype=jnp.float32)


def _count(mask: Bool[Array, "..."]) -> Float[Array, ""]:
    return mask.sum(dtype=jnp.float32)


def _require_square(scores: Float[Array, "b c"]) -> None:
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1]:
        raise ValueError(
            f"scores have shape {scores.shape}; expected [b c] with b == c, caption i belonging to "
            "video i: score every video of the batch with every caption of the batch"
        )


def _cross_entropy(
    scores: Float[Array, "r k"],
    scale: Scale,
    positive: Int[Array, "r"],
    candidate_mask: Bool[Array, "r k"],
    row_mask: Bool[Array, "r"],
) -> Term:
    """Cross-entropy of each valid row over its valid candidates; the positive is always one."""
    is_positive = positive[:, None] == jnp.arange(scores.shape[1])
    candidate_mask = candidate_mask | is_positive
    scores = scores.astype(jnp.float32)
    # Zeros before the product keep what is padded out of the gradient of the scale.
    logits = scale * jnp.where(candidate_mask & row_mask[:, None], scores, 0.0)
    total = jax.nn.logsumexp(jnp.where(candidate_mask, logits, -jnp.inf), axis=-1)
    own = jnp.where(is_positive, logits, 0.0).sum(-1)
    return Term(_masked_sum(total - own, row_mask), _count(row_mask))


def global_contrast(
    scores: Float[Array, "b c"], scale: Scale, example_mask: Bool[Array, "b"]
) -> Term:
    """L_g: symmetric cross-entropy over the batch (docs/method.md, 4; CLIP).

    Args:
        scores: `[b c]` cosines of global embeddings, b == c, the own caption on the diagonal.
        scale: factor of the cosines.
        example_mask: `[b]`.

    Returns:
        Sum over valid examples of the mean of both directions; count of valid examples.

    Raises:
        ValueError: when scores are not square.
    """
    _require_square(scores)
    own = jnp.arange(scores.shape[0])
    candidates = jnp.broadcast_to(example_mask, scores.shape)
    by_video = _cross_entropy(scores, scale, own, candidates, example_mask)
    by_caption = _cross_entropy(scores.T, scale, own, candidates, example_mask)
    return Term(0.5 * (by_video.sum + by_caption.sum), by_video.count)


def same_frame_different_masks(
    scores: Float[Array, "b k"],
    scale: Scale,
    candidate_mask: Bool[Array, "b k"],
    example_mask: Bool[Array, "b"],
    *,
    positive: Int[Array, "b"] | None = None,
) -> Term:
    """sfdm: which caption's masks fit the frames of this video? Cross-entropy over captions.

    Args:
        scores: `[b k]` of each video with its candidate captions, from `pair_scores`.
        scale: factor of the scores.
        candidate_mask: `[b k]`, False for candidates that are captions of padded examples.
        example_mask: `[b]`.
        positive: `[b]` column of the own caption, which always takes part; None: column 0.

    Returns:
        Sum over valid videos; their count.
    """
    if positive is None:
        positive = jnp.zeros(scores.shape[0], jnp.int32)
    return _cross_entropy(scores, scale, positive, candidate_mask, example_mask)


def different_frames_same_mask(
    scores: Float[Array, "b c"], scale: Scale, example_mask: Bool[Array, "b"]
) -> Term:
    """dfsm: on which video's frames do a caption's own masks fit? Cross-entropy over videos.

    Args:
        scores: `[b c]` of every video under each caption's own masks (`own_mask_parts`, pooled),
          b == c, the own video on the diagonal.
        scale: factor of the scores.
        example_mask: `[b]`.

    Returns:
        Sum over valid captions; their count.

    Raises:
        ValueError: when scores are not square.
    """
    _require_square(scores)
    candidates = jnp.broadcast_to(example_mask, scores.shape)
    own = jnp.arange(scores.shape[0])
    return _cross_entropy(scores.T, scale, own, candidates, example_mask)


def frame_contrast(
    frames: Float[Array, "b f d"],
    text_parts: Float[Array, "b f d"],
    frame_mask: Bool[Array, "b f"],
    *,
    margin: float,
    example_mask: Bool[Array, "b"],
    form: Literal["hinge", "relative"] = "hinge",
    negatives: Literal["same_index", "all"] = "same_index",
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
        negatives: `same_index` or `all`; the latter runs over one video's parts at a time.

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
    collect = _same_index_negatives if negatives == "same_index" else _all_negatives
    total, count = collect(frames, parts, valid, threshold)
    cost = total / jnp.maximum(count, 1)
    if form == "hinge":
        cost = cost + 1 - positive
    return Term(_masked_sum(cost, valid), _count(valid))


def _excess(cosine: Array, threshold: Array, mask: Array, axis: int) -> tuple[Array, Array]:
    """Sum over an axis of how far the negatives lie above their threshold, and their number."""
    over = jnp.where(mask, jax.nn.relu(cosine - threshold), 0.0)
    return over.sum(axis), mask.sum(axis)


def _same_index_negatives(frames, parts, valid, threshold):
    """Total excess and number of negatives `[b f]`: the own video, and others at the same index."""
    b, f = valid.shape
    within = jnp.einsum("bfd,bgd->bfg", frames, parts, precision="highest")
    within_mask = valid[:, None, :] & ~jnp.eye(f, dtype=bool)
    across = jnp.einsum("bfd,cfd->bcf", frames, parts, precision="highest")
    across_mask = valid[None] & ~jnp.eye(b, dtype=bool)[..., None]
    own_sum, own_count = _excess(within, threshold[..., None], within_mask, axis=2)
    other_sum, other_count = _excess(across, threshold[:, None], across_mask, axis=1)
    return own_sum + other_sum, own_count + other_count


def _all_negatives(frames, parts, valid, threshold):
    """Total excess and number of negatives `[b f]`: all frames but the frame itself.

    One video's parts at a time, rematerialised: `[b f g]` is alive, never `[b f c g]`.
    """
    b, f = valid.shape

    def one_video(row):
        c, part, part_mask = row
        cosine = jnp.einsum("bfd,gd->bfg", frames, part, precision="highest")
        itself = (jnp.arange(b) == c)[:, None, None] & jnp.eye(f, dtype=bool)
        return _excess(cosine, threshold[..., None], part_mask & ~itself, axis=2)

    rows = (jnp.arange(b), parts, valid)
    sums, counts = jax.lax.map(jax.checkpoint(one_video, prevent_cse=False), rows)
    return sums.sum(0), counts.sum(0)


def sparsity(masks: ConceptMasks, frame_mask: Bool[Array, "... f"]) -> tuple[Term, Term]:
    """L_s: the open share of both masks (docs/method.md, 4: L0, with the masks' own gradient).

    Args:
        masks: `kept_text[... f]` and `video[... f d]` are read.
        frame_mask: `[... f]`.

    Returns:
        Terms of the text masks and of the video masks: sum over valid frames of the share of the
        mask that is open; count of valid frames.
    """
    count = _count(frame_mask)
    kept_text = masks.kept_text.astype(jnp.float32)
    kept_video = masks.video.astype(jnp.float32).mean(-1)
    text, video = _masked_sum(kept_text, frame_mask), _masked_sum(kept_video, frame_mask)
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
    _require_square(scores)
    scores = jax.lax.stop_gradient(scores).astype(jnp.float32)
    own = jnp.diagonal(scores)
    video_mask = example_mask[:, None]
    beaten = ((scores > own) & video_mask).any(0)
    sharing = ((scores == own) & video_mask).sum(0)
    return Term(_masked_sum(1 / sharing, example_mask & ~beaten), _count(example_mask))
