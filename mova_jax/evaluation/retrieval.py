"""Retrieval metrics of a model: its global score, its modular score, and the two blended.

In: the same `score_block` as `ranks.blockwise_ranks`, with a score named `global` and, for a model
that has one, a score named `modular`. Out: flat metrics, `global/t2v/r1`, `modular/v2t/mdr`,
`blend/t2v/r10` ... (`t2v`: captions search videos, `v2t`: the reverse).

The blend is `global + weight * modular`. Its weight is chosen on validation and used on the test:

    found = retrieval_metrics(score_validation, ..., blend_weights=WEIGHTS)
    weight = found["blend/weight"]
    metrics = retrieval_metrics(score_test, ..., blend_weights=(weight,), blocks=(128, 128))
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from mova_jax.evaluation import ranks as ranks_lib
from mova_jax.evaluation.context import EvalContext, Evaluation
from mova_jax.evaluation.embedding_cache import with_progress
from mova_jax.evaluation.ranks import Ranks, RanksBothDirections, ScoreBlock

WEIGHTS = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
BLOCKS = (256, 256)


def retrieval(context: EvalContext) -> dict[str, float]:
    """The metrics of `retrieval_metrics`, by the queries of `config.eval.queries`.

    `t2v/...` and `v2t/...` are added: those of the score of record, which is the blend or, for a
    model without modular scores, the global score.
    """
    scores, owner = context.query_scores()
    videos, rows, weight = context.num_videos, context.fns.rows, context.blend_weight
    with context.progress("scores", videos * len(owner), "pair") as bar:
        metrics = retrieval_metrics(
            with_progress(scores, bar.update),
            videos,
            owner,
            blend_weights=WEIGHTS if weight is None else (weight,),
            blocks=(rows, rows),
            interval_seed=context.config.seed if context.interval else None,
        )
    record = "blend/" if "blend/t2v/r1" in metrics else "global/"
    ways = [name for name in metrics if name.startswith(record) and name.count("/") == 2]
    return metrics | {name.removeprefix(record): metrics[name] for name in ways}


EVALUATION = Evaluation(retrieval, "Retrieval")


def retrieval_metrics(
    score_block: ScoreBlock,
    num_videos: int,
    video_of_caption: Int[np.ndarray, "c"],
    *,
    blend_weights: Sequence[float] = (1.0,),
    blocks: tuple[int, int] = BLOCKS,
    interval_seed: int | None = None,
) -> dict[str, float]:
    """Ranks all queries by every score, in one sweep over the pairs.

    Args:
        score_block: `(video_slice, caption_slice) -> {'global': [b c], 'modular': [b c]}`; without
            `modular` there is no blend either.
        num_videos: size of the video gallery.
        video_of_caption: i32[c], the video that each caption belongs to.
        blend_weights: with one weight, the blend is made with it. With several, the best is
            reported, which is right on validation, and cheating on a test set: that of the highest
            mean of R@1 over both directions, then of the lowest mean rank, then the smallest.
        blocks: videos and captions in a block.
        interval_seed: adds the bootstrap interval of R@1 as `r1_low`, `r1_high`; None for none.

    Returns:
        `<score>/<direction>/<metric>` for score in `global`, `modular`, `blend`, direction in
        `t2v`, `v2t` and metric in `r1`, `r5`, `r10` (percent), `mdr`, `mnr`; `blend/weight`;
        `gallery` (videos searched by a caption) and `gallery_captions` (captions searched by a
        video).
    """
    swept = _sweep(score_block, num_videos, video_of_caption, blend_weights, blocks)
    named = {name: swept[name] for name in ("global", "modular") if name in swept}
    metrics = {}
    if "modular" in swept:
        weight = _best_weight(swept, blend_weights)
        named["blend"] = swept[_blend_name(weight)]
        metrics["blend/weight"] = weight
    for name, both in named.items():
        for direction, ranks in both._asdict().items():
            found = ranks_lib.summary(ranks)
            if interval_seed is not None:
                owner = np.asarray(video_of_caption) if direction == "t2v" else None
                low, high = r1_interval(ranks, interval_seed, video_of_query=owner)
                found |= {"r1_low": low, "r1_high": high}
            metrics |= {f"{name}/{direction}/{key}": value for key, value in found.items()}
    metrics["gallery"] = float(swept["global"].t2v.gallery)
    metrics["gallery_captions"] = float(swept["global"].v2t.gallery)
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


def _sweep(
    score_block: ScoreBlock,
    num_videos: int,
    video_of_caption: np.ndarray,
    weights: Sequence[float],
    blocks: tuple[int, int],
) -> dict[str, RanksBothDirections]:
    """Ranks of the scores and of their blends by every weight."""
    if not weights:
        raise ValueError("got no blend weight, expected at least one, such as (1.0,)")

    def with_blends(videos: slice, captions: slice) -> dict[str, np.ndarray]:
        scores = {k: np.asarray(v, np.float32) for k, v in score_block(videos, captions).items()}
        if "global" not in scores:
            raise ValueError(f"score_block gave {sorted(scores)}, expected a score named 'global'")
        if "modular" in scores:
            for weight in weights:
                blend = scores["global"] + np.float32(weight) * scores["modular"]
                scores[_blend_name(weight)] = blend
        return scores

    return ranks_lib.blockwise_ranks(with_blends, num_videos, video_of_caption, *blocks)


def _best_weight(swept: dict[str, RanksBothDirections], weights: Sequence[float]) -> float:
    def badness(weight: float) -> tuple[float, float, float]:
        both = [ranks_lib.summary(ranks) for ranks in swept[_blend_name(weight)]]
        return -sum(s["r1"] for s in both), sum(s["mnr"] for s in both), weight

    return float(min(weights, key=badness))


def _blend_name(weight: float) -> str:
    return f"blend@{float(weight)!r}"
