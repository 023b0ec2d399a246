"""sfdm over hard pairs: a video, its own caption, and the k others of highest global score."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mova_jax.losses import hard_pairs
from mova_jax.losses.context import TermContext, captions_fit, pair_floats
from mova_jax.losses.contrast import candidate_cross_entropy
from mova_jax.losses.pools import normalise
from mova_jax.losses.replica_group import ReplicaGroup
from mova_jax.losses.scores import cosines, matched_scores
from mova_jax.typing import Term, TextEmbedding, VideoEmbedding


def hard_sfdm(context: TermContext) -> Term:
    """Cross-entropy of each video over its `cfg.hard_pairs` + 1 candidates."""
    group, cfg, video = context.group, context.cfg, context.video
    recompute = context.recomputes_captions
    unit = jax.lax.stop_gradient(normalise(context.text.pooled))
    rows = context.rows
    columns, captions = rows.gathered(group, unit)
    negatives = rows.negatives(columns)
    scores = jnp.where(negatives, cosines(video.pooled, captions), -jnp.inf)
    candidates = hard_candidates(scores, cfg.hard_pairs, rows.index)
    scores = hard_pairs.score_chosen(
        group,
        partial(_recomputed_scores if recompute else _stored_scores, cfg.pool, cfg.order),
        context.networks,
        video,
        context.text if recompute else context.captions,
        candidates,
        _chunk(cfg, group, video, context.text, recompute),
    )
    scale = context.scales["modular_scale"]
    counted = jnp.take_along_axis(negatives, candidates, axis=1)
    return candidate_cross_entropy(scores, scale, counted, context.example_mask)


def hard_candidates(
    scores: Float[Array, "b c"], k: int, matching: Int[Array, "b"]
) -> Int[Array, "b k+1"]:
    """Each video's matching caption, then the k others that score highest; no gradient.

    Captions with score -inf (no negatives) come last; the matching one is never among the others.

    Args:
        scores: `[b c]` of a cheap score, such as the global cosine.
        k: number of others, at most c - 1.
        matching: `[b]` index of the video's own caption.

    Returns:
        `[b k+1]` indices into c: the matching caption in column 0, the others by falling score.

    Raises:
        ValueError: when there are fewer than k other captions.
    """
    count = scores.shape[1]
    if not 0 <= k < count:
        raise ValueError(f"k is {k}, but {count} captions leave 0 to {count - 1} others to choose")
    matching = matching.astype(jnp.int32)[:, None]
    scores = jax.lax.stop_gradient(scores).astype(jnp.float32)
    others = jnp.maximum(scores, jnp.finfo(jnp.float32).min)
    others = jnp.where(matching == jnp.arange(count), -jnp.inf, others)
    return jnp.concatenate([matching, jax.lax.top_k(others, k)[1].astype(jnp.int32)], axis=1)


def _stored_scores(
    pool: str, order: float, networks, video: VideoEmbedding, captions
) -> Float[Array, "m"]:
    """Scores of pairs whose captions are prepared already."""
    return matched_scores(networks, video, captions, pool=pool, order=order)


def _recomputed_scores(
    pool: str, order: float, networks, video: VideoEmbedding, text: TextEmbedding
) -> Float[Array, "m"]:
    """Scores of pairs that prepare their captions."""
    return _stored_scores(pool, order, networks, video, networks.prepare(text))


def _chunk(cfg, group, video: VideoEmbedding, text: TextEmbedding, recompute: bool) -> int:
    """Pairs that a replica scores at once."""
    rows = len(video.frames)
    of_frames, of_tokens = pair_floats(video, text)
    floats = of_frames + (of_tokens if recompute else 0)
    return hard_pairs.choose_chunk(group, rows * (cfg.hard_pairs + 1), floats)


def chunks_per_visit(
    cfg, group: ReplicaGroup, networks, video: VideoEmbedding, text: TextEmbedding
) -> float:
    """Average number of chunks that a replica scores for the videos of one visiting replica.

    Args:
        cfg: `config.losses`.
        group: the replicas that share the batch.
        networks: of the model, or their shapes.
        video: a replica's rows, or their shapes.
        text: as `video`.

    Returns:
        Pairs of a visit divided by pairs of a chunk, below 1 where some visits bring no pair; 1
        when the loss has no such loop.
    """
    if not (cfg.sfdm and cfg.hard_pairs):
        return 1.0
    pairs = video.frame_mask.shape[0] * (cfg.hard_pairs + 1) / group.size
    return pairs / _chunk(cfg, group, video, text, not captions_fit(networks, text))
