"""Intervals of 95 % for shares and their differences, all in percent."""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Shaped

Z = 1.96


def wilson(hits: float, count: float) -> tuple[float, float]:
    """The Wilson interval of a share.

    It keeps its 95 % for small shares, and has a width where nothing or everything is found; a
    bootstrap then draws the same figure again and again.

    Args:
        hits: of `count`; may be a sum of shares of hits.
        count: above 0.
    """
    share, spread = hits / count, Z * Z / count
    middle = share + spread / 2
    reach = Z * math.sqrt(share * (1 - share) / count + spread / count / 4)
    low, high = (middle - reach) / (1 + spread), (middle + reach) / (1 + spread)
    return 100.0 * max(0.0, low), 100.0 * min(1.0, high)


def clustered_wilson(
    hit: Bool[np.ndarray, "q"], cluster: Shaped[np.ndarray, "q"]
) -> tuple[float, float]:
    """The Wilson interval of a share of queries that come in clusters, such as captions of videos.

    Captions of a video are found or missed together, so they say less than as many independent
    ones. The interval is that of the number of independent queries whose share would vary as much
    (Korn and Graubard, Survey Methodology 1998). The variance is that of drawing whole clusters
    with replacement, which a bootstrap over clusters approaches. Where it cannot be seen, as at no
    hit, hits are taken to agree within a cluster.

    Args:
        hit: whether each query found its answer.
        cluster: any value that tells clusters apart.
    """
    _, row, sizes = np.unique(cluster, return_inverse=True, return_counts=True)
    count, clusters = len(hit), len(sizes)
    share = float(np.mean(hit))
    residuals = np.bincount(row, hit, clusters) - share * sizes
    variance = np.square(residuals).sum() / count**2 * clusters / max(1, clusters - 1)
    fewest = count**2 / np.square(sizes).sum()  # when the queries of a cluster all agree
    effective = share * (1 - share) / variance if variance > 0 else fewest
    effective = min(max(effective, fewest), count)
    return wilson(share * effective, effective)


def difference_interval(
    hits: tuple[float, float], counts: tuple[int, int]
) -> tuple[float, float, float]:
    """The difference of two shares of different queries, a minus b, in points, with its interval.

    Newcombe's, from the Wilson intervals of both.
    """
    a, b = (100.0 * found / count for found, count in zip(hits, counts, strict=True))
    (low_a, high_a), (low_b, high_b) = map(wilson, hits, counts)
    below, above = math.hypot(a - low_a, high_b - b), math.hypot(high_a - a, b - low_b)
    return a - b, a - b - below, a - b + above


def paired_interval(
    hits: Float[np.ndarray, "m q"],
    statistic: Callable[[Float[np.ndarray, "m"]], float],
    seed: int,
    samples: int = 1000,
) -> tuple[float, float, float]:
    """A statistic of m shares of the same queries, with its bootstrap interval.

    The queries are drawn with replacement, each with its hits under all m conditions.

    Args:
        hits: 0, 1 or a share between, of each query under each condition.
        statistic: of the m shares in percent, such as their difference or their slope.
        seed: of the draws.
        samples: how often all are drawn.

    Returns:
        The statistic, and the lower and upper end of its interval.
    """
    hits = 100.0 * np.asarray(hits, np.float64)
    rng, queries = np.random.default_rng(seed), hits.shape[1]
    drawn = [
        statistic(hits[:, rng.integers(queries, size=queries)].mean(1)) for _ in range(samples)
    ]
    low, high = np.percentile(drawn, (2.5, 97.5))
    return float(statistic(hits.mean(1))), float(low), float(high)
