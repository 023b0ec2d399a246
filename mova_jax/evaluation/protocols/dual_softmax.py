"""Retrieval by dual softmax, which uses all queries at once: a row of its own name.

CAMoE (Cheng et al., 2021, arXiv 2109.04290) multiplies the score of a query and an answer by how
much the answer prefers this query to the others,

    score'[q a] = score[q a] * softmax over queries(TEMPERATURE * score[q a])

which helps where the right pairs are one to one, for an answer that every query likes is worth
less. A search engine does not have the other queries, so these numbers are not comparable with
retrieval of one query at a time, and the score of record never is this one.

Programs that test this way take the softmax of cosines times CLIP's logit scale, 100, and so does
this one. (CAMoE's training loss divides these logits by 1,000 again.) The score of record,
global + weight * modular, is divided by 1 + weight to be on the scale of a cosine.
"""

import numpy as np
from jaxtyping import Float

from mova_jax.evaluation import ranks as ranks_lib
from mova_jax.evaluation.context import EvalContext, Evaluation
from mova_jax.evaluation.query_ranks import record_scores

TEMPERATURE = 100.0
LARGEST = 4096  # videos, and captions: the matrix is held in memory
_BLOCK = 1024


def dual_softmax(context: EvalContext) -> dict[str, float]:
    """`dual_softmax/<direction>/<metric>` with the metrics of `ranks.summary`.

    Empty for more than `LARGEST` videos or captions, and where masks are made for the best answers
    of each query only, so that most pairs have no score.
    """
    queries, videos = context.queries, context.num_videos
    if max(videos, len(queries.video)) > LARGEST or context.masks_by_pair:
        return {}
    weight = context.query_ranks.blend_weight or 0.0
    scores = record_scores(context.dense_scores(queries), weight) / (1 + weight)
    both = {"t2v": revised(scores, 1), "v2t": revised(scores, 0)}

    def block(rows: slice, columns: slice) -> dict[str, np.ndarray]:
        return {way: found[rows, columns] for way, found in both.items()}

    ranks = ranks_lib.blockwise_ranks(block, videos, queries.video, _BLOCK, _BLOCK)
    return {
        f"dual_softmax/{way}/{name}": value
        for way in both
        for name, value in ranks_lib.summary(getattr(ranks[way], way)).items()
    }


def revised(scores: Float[np.ndarray, "b c"], axis: int) -> Float[np.ndarray, "b c"]:
    """Scores times their softmax over the queries; float64, so that small ones do not tie at 0.

    Args:
        scores: of videos with captions, on the scale of a cosine.
        axis: of the queries: 1 where captions search, 0 where videos do.
    """
    scores = np.asarray(scores, np.float64)
    preference = np.exp(TEMPERATURE * (scores - scores.max(axis=axis, keepdims=True)))
    return scores * preference / preference.sum(axis=axis, keepdims=True)


EVALUATION = Evaluation(
    dual_softmax,
    "Retrieval by dual softmax",
    "The queries and the gallery of the retrieval above, but the score of a pair is multiplied by "
    "its softmax over all queries (CAMoE; temperature 100 on cosines). It uses all queries of the "
    "split at once, so it is not comparable with the numbers above. R@K in %.",
    labels={
        f"dual_softmax/{way}/{metric}": f"{way.upper()} {label}"
        for way in ("t2v", "v2t")
        for metric, label in (("r1", "R@1"), ("r5", "R@5"), ("r10", "R@10"))
    },
    final_only=True,
)
