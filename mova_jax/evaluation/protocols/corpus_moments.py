"""A sentence looks for its video and its moment there, in the whole split (VCMR).

Video corpus moment retrieval, as TVR (Lei et al., 2020) has it: an answer is right when its video
is that of the sentence and its IoU with the true moment is at least 0.3, 0.5 or 0.7. Queries and
windows are those of grounding.

How the answers are made. Of each sentence the best 100 videos by the score of record are searched
(`context.SEARCHED`; where masks are made for each pair, the best 32, those that have pair scores).
In each, up to 5 moments are proposed from the cosines of its frames with the sentence
(`moments.py`). The score of a moment is

    mean cosine of its frames + score of its video / (1 + weight)

where the score of record is global + weight * modular, so that both are on the scale of a cosine.
All moments of all these videos are ranked together by it. The rank of a sentence is that of its
best right answer: 1 + the wrong answers above it + half of those that tie with it.
"""

import numpy as np
from jaxtyping import Float

from mova_jax.evaluation.context import EvalContext, Evaluation
from mova_jax.evaluation.jitted import rows_of
from mova_jax.evaluation.protocols.grounding import IOUS
from mova_jax.evaluation.protocols.groups import LENGTHS, SHARES, group_labels, grouped
from mova_jax.evaluation.protocols.moments import KEPT, iou_with, padded_edges, propose
from mova_jax.evaluation.protocols.sentences import query_groups
from mova_jax.evaluation.query_ranks import KeptRanks
from mova_jax.evaluation.ranks import Ranks

PLACES = (1, 10, 100)


def corpus_moments(context: EvalContext) -> dict[str, float]:
    """Recalls of (video, moment) among the moments of the whole split.

    Returns:
        `corpus_moment/r1_iou0.3` ... `corpus_moment/r100_iou0.7` in percent;
        `corpus_moment/searched`, the videos of a sentence whose moments are ranked;
        `corpus_moment/<group>/...` (`groups.py`). Empty without timed sentences.
    """
    search = context.sentence_search
    if search is None:
        return {}
    ranks = right_ranks(*score_moments(context))
    for i, iou in enumerate(IOUS):
        found = {search.ranks.record: Ranks(ranks[:, i], context.num_videos)}
        context.other_ranks[f"corpus_moment_iou{iou}"] = KeptRanks(found, search.texts.video)
    metrics = corpus_recalls(ranks)
    metrics |= grouped(query_groups(context), lambda rows: corpus_recalls(ranks[rows]))
    metrics["searched"] = float(np.isfinite(search.best.scores).sum(axis=1).mean())
    return {f"corpus_moment/{name}": value for name, value in metrics.items()}


def corpus_recalls(ranks: Float[np.ndarray, "q 3"]) -> dict[str, float]:
    """R@1, 10 and 100 in percent at each of `IOUS`, from the ranks of `right_ranks`."""
    return {
        f"r{k}_iou{iou}": 100.0 * float(np.mean(ranks[:, i] <= k))
        for k in PLACES
        for i, iou in enumerate(IOUS)
    }


def right_ranks(
    scores: Float[np.ndarray, "q a"], ious: Float[np.ndarray, "q a"]
) -> Float[np.ndarray, "q 3"]:
    """The rank of the best right answer of each sentence at each of `IOUS`; inf without any.

    Args:
        scores: of the answers, -inf for none.
        ious: with the true moment; 0 in other videos.
    """
    ranks = np.full((len(scores), len(IOUS)), np.inf)
    for i, iou in enumerate(IOUS):
        right = (ious >= iou) & np.isfinite(scores)
        best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
        wrong = ~right & np.isfinite(scores)
        above = (wrong & (scores > best)).sum(axis=1) + 0.5 * (wrong & (scores == best)).sum(axis=1)
        ranks[:, i] = np.where(np.isfinite(best[:, 0]), 1 + above, np.inf)
    return ranks


def score_moments(
    context: EvalContext,
) -> tuple[Float[np.ndarray, "q a"], Float[np.ndarray, "q a"]]:
    """The scores of all answers of each sentence, and their IoUs with its own moment.

    Videos are taken one by one, each with the sentences that search it, so that the cosines of one
    video are in memory at a time.
    """
    search, video = context.sentence_search, context.embeddings.video
    edges = padded_edges(context.embeddings.timestamps, video.frame_mask)
    weight = search.ranks.blend_weight or 0.0
    shape = *search.best.scores.shape, KEPT
    scores, ious = np.full(shape, -np.inf, np.float32), np.zeros(shape, np.float32)
    found = np.isfinite(search.best.scores)
    pairs = np.argwhere(found)
    pairs = pairs[np.argsort(search.best.answers[found], kind="stable")]
    answers = search.best.answers[tuple(pairs.T)]
    starts = np.flatnonzero(np.diff(answers, prepend=-1))
    with context.progress("moments", len(pairs), "pair") as bar:
        for block in np.split(pairs, starts[1:]):
            row = search.best.answers[tuple(block[0])]
            sentences, place = block.T
            mask = np.repeat(video.frame_mask[row : row + 1], len(block), axis=0)
            cosines = context.fns.frame_cosines(
                context.params, rows_of(video, slice(row, row + 1)), search.texts.rows(sentences)
            )
            moments = propose(cosines, mask, edges[np.full(len(block), row)])
            of_video = search.best.scores[sentences, place] / (1 + weight)
            scores[sentences, place] = moments.score + of_video[:, None]
            own = np.flatnonzero(search.texts.video[sentences] == row)
            windows = [search.queries[sentence].windows for sentence in sentences[own]]
            ious[sentences[own], place[own]] = iou_with(rows_of(moments, own), windows)
            bar.update(len(block))
    return scores.reshape(len(scores), -1), ious.reshape(len(ious), -1)


EVALUATION = Evaluation(
    corpus_moments,
    "Sentence to moment in the whole split",
    "Every timed sentence looks for its video and its moment among the moments of all videos of "
    "the split (video corpus moment retrieval). R@k, IoU x: share of the sentences that have a "
    "moment of the right video with an IoU of at least x among the first k, in %. Moments of the "
    "best videos of each sentence by the score of record (100, or 32 where masks are made for each "
    "pair), proposed as in its own video, ranked by their mean cosine plus the score of the video.",
    labels={f"corpus_moment/r{k}_iou{iou}": f"R@{k}, IoU {iou}" for k in PLACES for iou in IOUS}
    | group_labels("corpus_moment", {"r10_iou0.5": "R@10, IoU 0.5"}, (*LENGTHS, *SHARES)),
    final_only=True,
)
