"""Retrieval metrics of a model: its global score, its modular score, and the two blended.

Out: flat metrics, `global/t2v/r1`, `modular/v2t/mdr`, `blend/t2v/r10` ... (`t2v`: captions search
videos, `v2t`: the reverse).
"""

import numpy as np
from jaxtyping import Int

from mova_jax.evaluation import ranks as ranks_lib
from mova_jax.evaluation.context import EvalContext, Evaluation
from mova_jax.evaluation.query_ranks import QueryRanks
from mova_jax.evaluation.ranks import Ranks


def retrieval(context: EvalContext) -> dict[str, float]:
    """The metrics of `retrieval_metrics`, by the queries of `config.eval.queries`.

    `t2v/...` and `v2t/...` are added: those of the score of record.
    """
    ranks = context.query_ranks
    metrics = retrieval_metrics(ranks, context.config.seed if context.final else None)
    record = f"{ranks.record}/"
    ways = [name for name in metrics if name.startswith(record) and name.count("/") == 2]
    return metrics | {name.removeprefix(record): metrics[name] for name in ways}


EVALUATION = Evaluation(retrieval, "Retrieval")


def retrieval_metrics(ranks: QueryRanks, interval_seed: int | None = None) -> dict[str, float]:
    """The metrics of all ranks.

    Args:
        ranks: of the queries.
        interval_seed: adds the bootstrap interval of R@1 as `r1_low`, `r1_high`; None for none.

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
            if interval_seed is not None:
                owner = ranks.video_of_caption if direction == "t2v" else None
                low, high = r1_interval(one, interval_seed, video_of_query=owner)
                found |= {"r1_low": low, "r1_high": high}
            metrics |= {f"{name}/{direction}/{key}": value for key, value in found.items()}
    metrics["gallery"] = float(ranks.by_score["global"].t2v.gallery)
    metrics["gallery_captions"] = float(ranks.by_score["global"].v2t.gallery)
    if ranks.reranked:
        metrics["rerank"] = float(ranks.reranked)
    return metrics


def r1_interval(
    ranks: Ranks,
    seed: int,
    samples: int = 1000,
    video_of_query: Int[np.ndarray, "q"] | None = None,
) -> tuple[float, float]:
    """The 95 % bootstrap interval of R@1 in percent, queries drawn with replacement.

    It shows how much R@1 depends on the choice of queries; the variance between training seeds is
    not in it.

    Args:
        ranks: of the queries.
        seed: of the draws.
        samples: how often all are drawn.
        video_of_query: i32[q], where several captions of a video are queries: then videos are
            drawn, each with all its captions. Captions of one video are found or missed together,
            and an interval that takes them as independent would be too narrow.
    """
    hit, queries = ranks.values <= 1, len(ranks.values)
    rng = np.random.default_rng(seed)
    if video_of_query is None or len(np.unique(video_of_query)) == queries:
        # The number of hits among queries drawn with replacement is binomial: no need to draw them.
        found = rng.binomial(queries, int(hit.sum()) / queries, size=samples)
        recalls = 100.0 * found / queries
    else:
        _, row, counts = np.unique(video_of_query, return_inverse=True, return_counts=True)
        hits = np.bincount(row, hit)
        drawn = (rng.integers(len(hits), size=len(hits)) for _ in range(samples))
        recalls = [100.0 * hits[videos].sum() / counts[videos].sum() for videos in drawn]
    low, high = np.percentile(recalls, (2.5, 97.5))
    return float(low), float(high)
