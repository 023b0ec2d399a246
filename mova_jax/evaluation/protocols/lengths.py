"""Paragraph retrieval by the length of the video: does it hold where videos are long?

The ranks are those of the retrieval of the split: the gallery has videos of all lengths, only the
queries are grouped. So numbers of two groups can be compared, and longer videos are not given a
smaller gallery.
"""

from mova_jax.evaluation import ranks as ranks_lib
from mova_jax.evaluation.context import EvalContext, Evaluation
from mova_jax.evaluation.protocols.groups import (
    LENGTHS,
    by_length,
    group_labels,
    grouped,
    video_seconds,
)
from mova_jax.evaluation.ranks import Ranks


def retrieval_by_length(context: EvalContext) -> dict[str, float]:
    """The metrics of the score of record by the length of the video of the query.

    Returns:
        `by_length/t2v/<group>/<metric>` and `by_length/v2t/<group>/<metric>` with the metrics of
        `ranks.summary`, and the number of `queries`.
    """
    embeddings, ranks = context.embeddings, context.query_ranks
    seconds = video_seconds(embeddings.timestamps, embeddings.video.frame_mask)
    owners = {"t2v": ranks.video_of_caption, "v2t": sorted({*ranks.video_of_caption.tolist()})}
    metrics = {}
    for way, one in ranks.by_score[ranks.record]._asdict().items():
        found = grouped(
            by_length(seconds[owners[way]]),
            lambda rows, one=one: ranks_lib.summary(Ranks(one.values[rows], one.gallery)),
        )
        metrics |= {f"by_length/{way}/{name}": value for name, value in found.items()}
    return metrics


EVALUATION = Evaluation(
    retrieval_by_length,
    "Retrieval by length of the video",
    "The queries of the retrieval above in groups, by the length of their video; the gallery is "
    "that of the whole split. R@K: queries with rank at most K, in %, by the score of record.",
    labels=group_labels("by_length/t2v", {"r1": "T2V R@1"}, LENGTHS)
    | group_labels("by_length/v2t", {"r1": "V2T R@1"}, LENGTHS)
    | group_labels("by_length/t2v", {"queries": "captions"}, LENGTHS),
    final_only=True,
)
