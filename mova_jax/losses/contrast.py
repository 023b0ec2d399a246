"""Cross-entropies over the pairs of a batch: L_g, sfdm, dfsm; and the recall within the batch.

Each is a `Term(sum, count)` over the valid rows, so that replicas and padded batches average right.
A row whose `example_mask` is False is neither a row nor a negative: no value or gradient depends on
what it holds. Rows of the same video or the same caption are no negatives of each other
(`batch_rows.py`). Logits are `scale * score`, and the scale may be trained. All sums are float32.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mova_jax.losses import ring
from mova_jax.losses.batch_rows import BatchRows
from mova_jax.losses.replica_group import ReplicaGroup
from mova_jax.typing import Term


def masked_term(values: Float[Array, "..."], mask: Bool[Array, "..."]) -> Term:
    """Sum of the values where the mask is True, and how many these are."""
    total = jnp.where(mask, values, 0.0).sum(dtype=jnp.float32)
    return Term(total, mask.sum(dtype=jnp.float32))


class LogitStats(NamedTuple):
    """The logits of all pairs of a batch, reduced to what cross-entropies need of each row."""

    matched: Float[Array, "r"]  # logit of a video with its own caption
    over_captions: Float[Array, "r"]  # logsumexp of a video with its own and wrong captions
    over_videos: Float[Array, "r"]  # logsumexp of a caption with its own and wrong videos
    best_other: Float[Array, "r"]  # highest of a caption with wrong videos; no gradient


def logit_stats(
    group: ReplicaGroup,
    score: Callable,
    replicated: Any,
    videos: Any,
    captions: Any,
    scale: Float[Array, ""],
    rows: BatchRows,
    *,
    floats: int = 1,
) -> LogitStats:
    """Scores all pairs of the batch, tile by tile. Call it inside `group.shard_map`.

    Args:
        group: the replicas that share the batch.
        score: `(replicated, videos[v ...], captions[c ...]) -> score[v c]`.
        replicated: pytree that every score depends on, such as parameters.
        videos: pytree of this replica's rows `[r ...]`.
        captions: the same for the captions; row i belongs to video i.
        scale: factor from scores to logits, an array.
        rows: of this replica, `[r]`; where their mask is False they are never read.
        floats: float32 numbers that one pair needs in memory.
    """

    def tile(shared, videos, captions):
        (replicated, scale), (videos, rows), (captions, columns) = shared, videos, captions
        return _tile_stats(score(replicated, videos, captions), scale, rows, columns)

    by_video, by_caption = ring.reduce_pairs(
        group,
        tile,
        (replicated, scale),
        (videos, rows),
        (captions, rows),
        ring.choose_tile(group, len(rows.mask), floats),
    )
    return LogitStats(
        matched=by_caption.total,
        over_captions=by_video.logsumexp,
        over_videos=by_caption.logsumexp,
        best_other=by_caption.highest,
    )


def _tile_stats(
    scores: Float[Array, "b c"], scale: Float[Array, ""], rows: BatchRows, columns: BatchRows
):
    """Statistics of a tile, by video and by caption; padded rows and columns add nothing."""
    matched, negatives = rows.matched(columns), rows.negatives(columns)
    counted = matched | negatives
    # Padding becomes 0 before the product, so that it stays out of the gradient of the scale.
    logits = scale * jnp.where(counted, scores.astype(jnp.float32), 0.0)
    candidates = jnp.where(counted, logits, ring.NEG_INF)
    others = jax.lax.stop_gradient(jnp.where(negatives, logits, ring.NEG_INF))
    by_video = ring.Stats(logsumexp=jax.nn.logsumexp(candidates, axis=1))
    by_caption = ring.Stats(
        total=jnp.where(matched, logits, 0.0).sum(0),
        logsumexp=jax.nn.logsumexp(candidates, axis=0),
        highest=others.max(0),
    )
    return by_video, by_caption


def global_contrast(logits: LogitStats, example_mask: Bool[Array, "r"]) -> Term:
    """L_g: symmetric cross-entropy over the batch (docs/method.md, 4; CLIP).

    Args:
        logits: of the global embeddings.
        example_mask: `[r]`.

    Returns:
        Sum over valid examples of the mean of both directions; count of valid examples.
    """
    both = 0.5 * (logits.over_captions + logits.over_videos) - logits.matched
    return masked_term(both, example_mask)


def same_frame_different_masks(logits: LogitStats, example_mask: Bool[Array, "r"]) -> Term:
    """sfdm: which caption's masks fit the frames of this video? Cross-entropy over captions.

    Args:
        logits: under each pair's own masks.
        example_mask: `[r]`.

    Returns:
        Sum over valid videos; their count.
    """
    return masked_term(logits.over_captions - logits.matched, example_mask)


def different_frames_same_mask(logits: LogitStats, example_mask: Bool[Array, "r"]) -> Term:
    """dfsm: which video's frames do a caption's masks fit? Cross-entropy over videos.

    Args:
        logits: of every video under the masks of each caption.
        example_mask: `[r]`.

    Returns:
        Sum over valid captions; their count.
    """
    return masked_term(logits.over_videos - logits.matched, example_mask)


def in_batch_recall_at_1(logits: LogitStats, example_mask: Bool[Array, "r"]) -> Term:
    """Captions whose own video scores strictly highest: rank 1, as an evaluation counts it.

    A tie is no hit, so the order of the videos does not matter.

    Args:
        logits: of the global embeddings.
        example_mask: `[r]`.

    Returns:
        Number of such captions; count of valid captions.
    """
    return masked_term((logits.matched > logits.best_other).astype(jnp.float32), example_mask)


def candidate_cross_entropy(
    scores: Float[Array, "b k"],
    scale: float | Float[Array, ""],
    candidate_mask: Bool[Array, "b k"],
    example_mask: Bool[Array, "b"],
) -> Term:
    """sfdm over some captions: cross-entropy of each video over its candidates.

    Args:
        scores: `[b k]` of each video with its candidates, the matching caption at column 0.
        scale: factor from scores to logits.
        candidate_mask: `[b k]`, False for captions that are no negatives; column 0 always counts.
        example_mask: `[b]`.

    Returns:
        Sum over valid videos; their count.
    """
    candidate_mask = (candidate_mask | (jnp.arange(scores.shape[1]) == 0)) & example_mask[:, None]
    logits = scale * jnp.where(candidate_mask, scores.astype(jnp.float32), 0.0)
    total = jax.nn.logsumexp(jnp.where(candidate_mask, logits, ring.NEG_INF), axis=-1)
    return masked_term(total - logits[:, 0], example_mask)
