"""The difference of two models on the same queries, with its paired bootstrap interval.

    runs = load_paired(["runs/a/ranks/test.npz", "runs/b/ranks/test.npz"], "t2v")
    difference, low, high = paired_difference(*runs.ranks, video_of_query=runs.video)

Queries that are easy, or hard, for both models cancel out, so the interval is narrower than those
of the two recalls suggest.
"""

import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from mova_jax.evaluation.query_ranks import directions, load_ranks
from mova_jax.evaluation.ranks import Ranks

PLACES = (1, 5, 10)  # k of the R@k that are compared


class PairedRanks(NamedTuple):
    """Ranks of the same queries by several models, and the id of the video of each query."""

    ranks: list[Ranks]
    video: Shaped[np.ndarray, "q"]


def paired_difference(
    ranks_a: Ranks,
    ranks_b: Ranks,
    k: int = 1,
    video_of_query: Shaped[np.ndarray, "q"] | None = None,
    seed: int = 0,
    samples: int = 1000,
) -> tuple[float, float, float]:
    """R@k of a minus R@k of b, and its 95 % interval; see `paired_difference_over_seeds`.

    The interval covers the choice of queries for these two trained models. It does not say whether
    the difference would be there with other training seeds.
    """
    return paired_difference_over_seeds([ranks_a], [ranks_b], k, video_of_query, seed, samples)


def paired_difference_over_seeds(
    ranks_a: Sequence[Ranks],
    ranks_b: Sequence[Ranks],
    k: int = 1,
    video_of_query: Shaped[np.ndarray, "q"] | None = None,
    seed: int = 0,
    samples: int = 1000,
) -> tuple[float, float, float]:
    """The mean R@k over runs a minus that over runs b, and its 95 % interval.

    The interval covers the choice of queries for these trained models: a query's hits are averaged
    over the runs of each side, then queries are drawn with replacement. How much the difference
    varies between training seeds is not in it; for that, compare the seeds one by one.

    Args:
        ranks_a: of one or several training seeds, the same queries in the same order.
        ranks_b: likewise, on the same queries; the numbers of seeds may differ.
        k: of R@k.
        video_of_query: [q], any value that tells videos apart, where several captions of a video
            are queries: then videos are drawn, each with all its captions, because captions of one
            video are found or missed together. None for queries of different videos.
        seed: of the draws.
        samples: how often all are drawn.

    Returns:
        The difference, the lower and the upper end of the interval, in percentage points.

    Raises:
        ValueError: the runs differ in their gallery or in the number of queries.
    """
    _check(*ranks_a, *ranks_b)
    differences = _hits(ranks_a, k) - _hits(ranks_b, k)
    videos = np.arange(len(differences)) if video_of_query is None else video_of_query
    if len(videos) != len(differences):
        raise ValueError(f"got the videos of {len(videos)} queries, expected {len(differences)}")
    _, row, queries = np.unique(videos, return_inverse=True, return_counts=True)
    totals = np.bincount(row, differences)  # of each video
    rng = np.random.default_rng(seed)
    drawn = (rng.integers(len(totals), size=len(totals)) for _ in range(samples))
    found = [100.0 * totals[rows].sum() / queries[rows].sum() for rows in drawn]
    low, high = np.percentile(found, (2.5, 97.5))
    return 100.0 * float(differences.mean()), float(low), float(high)


def load_paired(paths: Sequence[str | os.PathLike], direction: str, score: str = "") -> PairedRanks:
    """Reads the ranks of several runs on the same queries, see `load_ranks`.

    Raises:
        ValueError: the runs ranked other queries, or have no such ranks.
    """
    loaded = [load_ranks(path, direction, score) for path in paths]
    first, *others = (video for _, video in loaded)
    for path, video in zip(paths[1:], others, strict=True):
        if not np.array_equal(first, video):
            raise ValueError(
                f"{paths[0]} and {path} have ranks of other queries ({len(first)} and {len(video)} "
                "of them): compare runs that were evaluated on the same data with the same queries"
            )
    ranks = [ranks for ranks, _ in loaded]
    _check(*ranks)
    return PairedRanks(ranks, first)


def differences(
    path_a: str | os.PathLike, path_b: str | os.PathLike
) -> dict[str, tuple[float, float, float]]:
    """`paired_difference` of two files of ranks, by the scores of record.

    Returns:
        `{"t2v/r1": (difference, low, high), ...}` in points, for the directions that both have and
        each k in `PLACES`.

    Raises:
        ValueError: the files have ranks of other queries.
    """
    theirs, found = directions(path_b), {}
    for way in (way for way in directions(path_a) if way in theirs):
        ranks, video = load_paired([path_a, path_b], way)
        found |= {f"{way}/r{k}": paired_difference(*ranks, k, video) for k in PLACES}
    return found


def check_gallery(
    path: str | os.PathLike, count: int, id_of: Callable[[int], str], samples: int = 64
) -> None:
    """Refuses a file with ranks of other videos, before their ranks by another model are there.

    Reads few ids, because each is in a record with all its frames; `load_paired` compares all.

    Args:
        path: of the ranks.
        count: of the videos of the split.
        id_of: the id of a video.
        samples: ids that are compared.

    Raises:
        ValueError: the ranks are of other videos.
    """
    _, known = load_ranks(path, "v2t", "global")  # every video has a caption, so each is a query
    if len(known) != count:
        raise ValueError(f"{path} has ranks of {len(known)} videos, and this split has {count}")
    for i in np.unique(np.linspace(0, count - 1, min(samples, count)).round().astype(int)):
        if (name := id_of(int(i))) != known[i]:
            raise ValueError(
                f"{path} has ranks of other videos: its video {i} is {known[i]}, here it is {name}"
            )


def _hits(ranks: Sequence[Ranks], k: int) -> Float[np.ndarray, "q"]:
    """The share of runs that find the answer of each query among the first k."""
    return np.mean([one.values <= k for one in ranks], axis=0)


def _check(*ranks: Ranks) -> None:
    """Raises ValueError when galleries or queries differ."""
    sizes = {(one.gallery, len(one.values)) for one in ranks}
    if len(sizes) > 1:
        found = ", ".join(f"{queries} queries in {gallery}" for gallery, queries in sorted(sizes))
        raise ValueError(f"the ranks are not of the same queries in one gallery: {found}")
