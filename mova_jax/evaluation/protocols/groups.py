"""Queries in groups, by the length of their video and by the share of it that they describe.

    groups = by_length(durations) | by_share(shares)
    grouped(groups, lambda rows: {"r1": 100.0 * float((ranks[rows] <= 1).mean())})
    # {"under_60s/r1": 31.0, "under_60s/queries": 200.0, "moment_under_10/r1": ...}

A group without a query has no metric.
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from jaxtyping import Bool, Float

from mova_jax.evaluation.grounding import frame_edges

# Name, label, from, to (seconds; the share of the video). No label ends in %, for then the report
# would multiply the metric by 100.
LENGTHS = (
    ("under_60s", "under 60 s", 0.0, 60.0),
    ("60_to_180s", "60 to 180 s", 60.0, 180.0),
    ("180_to_600s", "180 to 600 s", 180.0, 600.0),
    ("600s_and_more", "600 s and more", 600.0, np.inf),
)
SHARES = (
    ("moment_under_10", "under 10 % of the video", 0.0, 0.1),
    ("moment_10_to_30", "10 to 30 % of the video", 0.1, 0.3),
    ("moment_30_and_more", "30 % and more of the video", 0.3, np.inf),
)

Groups = dict[str, Bool[np.ndarray, "q"]]


def by_length(seconds: Float[np.ndarray, "q"]) -> Groups:
    """The queries of each length of video."""
    return _within(seconds, LENGTHS)


def by_share(shares: Float[np.ndarray, "q"]) -> Groups:
    """The queries of each share, 0 to 1, of the video that the moment takes."""
    return _within(shares, SHARES)


def grouped(
    groups: Groups, metrics: Callable[[Bool[np.ndarray, "q"]], Mapping[str, float]]
) -> dict[str, float]:
    """The metrics of each group that has a query.

    Args:
        groups: the queries of each by its name.
        metrics: of some queries, by name.

    Returns:
        `<group>/<metric>`, and `<group>/queries`, their number.
    """
    found = {}
    for name, rows in groups.items():
        if rows.any():
            found |= {f"{name}/{metric}": value for metric, value in metrics(rows).items()}
            found[f"{name}/queries"] = float(rows.sum())
    return found


def group_labels(
    prefix: str, metrics: Mapping[str, str], bounds: Iterable[tuple[str, str, float, float]]
) -> dict[str, str]:
    """Labels of a report for metrics of groups.

    Args:
        prefix: of the names, before the group.
        metrics: labels by the name of the metric.
        bounds: `LENGTHS`, `SHARES` or both.
    """
    return {
        f"{prefix}/{group}/{metric}": f"{label}, {title}"
        for group, title, *_ in bounds
        for metric, label in metrics.items()
    }


def video_seconds(
    timestamps: Float[np.ndarray, "b f"], frame_mask: Bool[np.ndarray, "b f"]
) -> Float[np.ndarray, "b"]:
    """The durations of videos, by the timestamps of their sampled frames.

    Up to where the last frame stands for the video (`frame_edges`). Frames are sampled evenly, so
    it is the duration of the file but for a fraction of the time between two frames, and no record
    has to be read again for it.
    """
    rows = zip(timestamps, frame_mask, strict=True)
    return np.array([frame_edges(times[valid])[-1] for times, valid in rows])


def _within(values: np.ndarray, bounds: tuple[tuple[str, str, float, float], ...]) -> Groups:
    values = np.asarray(values)
    return {name: (low <= values) & (values < high) for name, _, low, high in bounds}
