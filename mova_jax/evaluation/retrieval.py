"""Retrieval metrics of a model: its global score, its modular score, and the two blended.

Out: flat metrics, `global/t2v/r1`, `modular/v2t/mdr`, `blend/t2v/r10` ... (`t2v`: captions search
videos, `v2t`: the reverse).
"""

import numpy as np
from jaxtyping import Int

from mova_jax.evaluation import ranks as ranks_lib
from mova_jax.evaluation.context import EvalContext, Evaluation
from mova_jax.evaluation.intervals import clustered_wilson
from mova_jax.evaluation.query_ranks import QueryRanks
from mova_jax.evaluation.ranks import Ranks


def retrieval(context: EvalContext) -> dict[str, float]:
    """The metrics of `retrieval_metrics`, by the queries of `config.eval.queries`.

    `t2v/...` and `v2t/...` are added: those of the score of record.
    """
    ranks = context.query_ranks
    metrics = retrieval_metrics(ranks, intervals=context.final)
    record = f"{ranks.record}/"
    ways = [name for name in metrics if name.startswith(record) and name.count("/") == 2]
    return metrics | {name.removeprefix(record): metrics[name] for name in ways}


EVALUATION = Evaluation(retrieval, "Retrieval")


def retrieval_metrics(ranks: QueryRanks, *, intervals: bool = False) -> dict[str, float]:
    """The metrics of all ranks.

    Args:
        ranks: of the queries.
        intervals: adds the interval of R@1 as `r1_low`, `r1_high`.

    Returns:
        `<score>/<direction>/<metric>` for score in `global`, `modular`, `blend`, direction in
        `t2v`, `v2t` and metric in `r1`, `r5`, `r10` (percent), `mdr`, `mnr`; `blend/weight`;
        `gallery` (videos searched by a caption) and `gallery_captions` (captions searched by a
        video); `rerank`, the number of candidates of a query, where only those have pair scores.
    """
    metrics = {} if ranks.blend_weight is None else {"blend/weight": ranks.blend_weight}
    for name, both in ranks.by_score.items():
        for direction, one in both._asdict().items():
            found = ranks_lib.summary(one)
            if intervals:
                owner = ranks.video_of_caption if direction == "t2v" else None
                low, high = r1_interval(one, owner)
                found |= {"r1_low": low, "r1_high": high}
            metrics |= {f"{name}/{direction}/{key}": value for key, value in found.items()}
    metrics["gallery"] = float(ranks.by_score["global"].t2v.gallery)
    metrics["gallery_captions"] = float(ranks.by_score["global"].v2t.gallery)
    if ranks.reranked:
        metrics["rerank"] = float(ranks.reranked)
    return metrics


def r1_interval(
    ranks: Ranks, video_of_query: Int[np.ndarray, "q"] | None = None
) -> tuple[float, float]:
    """The 95 % interval of R@1 in percent: Wilson's, with the videos as the unit.

    It shows how much R@1 depends on the choice of queries; the variance between training seeds is
    not in it.

    Args:
        ranks: of the queries.
        video_of_query: i32[q], where several captions of a video are queries; see
            `clustered_wilson`. None: each query is of another video.
    """
    hit = ranks.values <= 1
    return clustered_wilson(hit, np.arange(len(hit)) if video_of_query is None else video_of_query)
