"""The metrics of a run as its report reads them, and the labels of their names.

In: a `metrics.jsonl`. Out: `RunMetrics`: which splits, scores, losses and curves there are.
"""

import dataclasses
import math
import os
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from mova_jax.evaluation import ranks
from mova_jax.losses.terms import TERMS
from mova_jax.utils.metric_log import read_metrics

SPLITS = ("test", "ood_time", "ood_domain", "confusable", "validation")
SCORES = ("global", "modular", "blend")
DIRECTIONS = {"t2v": "text → video", "v2t": "video → text"}
RANK_METRICS = {"r1": "R@1", "r5": "R@5", "r10": "R@10", "mdr": "MdR", "mnr": "MnR"}
FRAME_SCORES = {"modular": "modular", "frame": "plain cosine"}  # of grounding
MASKS = {"text_mask_density": "mᵀ", "video_mask_density": "mⱽ"}  # also measured in training
# Other metrics of training, by the title of their panel and the label of their line.
WATCHED = {
    "in-batch R@1, in %": {"": "in_batch_r1"},
    "scale of the cosines": {"global": "scale", "modular": "modular_scale"},
    "norm of the gradient": {"": "grad_norm"},
    "learning rate": {"": "learning_rate"},
}


class Curve(NamedTuple):
    """One metric over training."""

    steps: Float[np.ndarray, "n"]
    values: Float[np.ndarray, "n"]


@dataclasses.dataclass(frozen=True)
class RunMetrics:
    """Values by name and step; of a step that was repeated after a resume, the last."""

    series: dict[str, dict[int, float]]

    def curve(self, name: str, factor: float = 1.0) -> Curve:
        """The values of a metric times `factor`, in the order of its steps."""
        points = np.array(sorted(self.series[name].items()), float)
        return Curve(points[:, 0], factor * points[:, 1])

    def curves(self, names: dict[str, str], factor: float = 1.0) -> dict[str, Curve]:
        """Curves by label, from `{label: name}`; without names that were never written."""
        found = {label: name for label, name in names.items() if name in self.series}
        return {label: self.curve(name, factor) for label, name in found.items()}

    def last(self, name: str) -> float | None:
        """The value at the greatest step, None when the name was never written."""
        points = self.series.get(name)
        return points[max(points)] if points else None

    def last_step(self, name: str = "") -> int:
        """The greatest step of a metric, or of all metrics; 0 for none."""
        series = [self.series.get(name, {})] if name else self.series.values()
        return max((max(points) for points in series if points), default=0)

    def losses(self) -> dict[str, str]:
        """Labels of the terms that were trained with, `train/<term>`, the total first."""
        labels = {"loss": "total loss"} | {name: term.label for name, term in TERMS.items()}
        return {name: label for name, label in labels.items() if f"train/{name}" in self.series}

    def splits_with(self, names: Iterable[str]) -> list[str]:
        """Evaluated splits with any of these metrics, `<split>/<name>`, the test split first."""
        names = set(names)
        parts = (name.partition("/") for name in self.series)
        return _ordered({p[0] for p in parts if p[2] in names} - {"train"}, SPLITS)

    def scores(self, split: str) -> list[str]:
        """Scores that were ranked on a split, `<split>/<score>/t2v/<metric>`."""
        return _ordered({p[1] for p in self._parts(4) if (p[0], p[2]) == (split, "t2v")}, SCORES)

    def grounded(self) -> list[tuple[str, str]]:
        """Split and frame score, `<split>/grounding/<score>/hit`, the test split first."""
        found = [p for p in self._parts(4) if (p[1], p[3]) == ("grounding", "hit")]
        return [
            (split, score)
            for split in _ordered({p[0] for p in found}, SPLITS)
            for score in _ordered({p[2] for p in found if p[0] == split}, FRAME_SCORES)
        ]

    def chance(self, split: str, direction: str) -> dict[str, float]:
        """The metrics of a random order, see `ranks.chance`; empty without a known gallery."""
        videos = self.last(f"{split}/gallery")
        if not videos:
            return {}
        captions = self.last(f"{split}/gallery_captions") or videos
        if direction == "t2v":
            return ranks.chance(videos)
        return ranks.chance(captions, right=captions / videos)

    def _parts(self, count: int) -> list[list[str]]:
        parts = (name.split("/") for name in self.series)
        return [p for p in parts if len(p) == count]


def read_run(path: str | os.PathLike) -> RunMetrics:
    """Reads a `metrics.jsonl`; values that are not finite are left out.

    Raises:
        ValueError: a line, other than half a last one, is not a JSON object with a step.
    """
    series: dict[str, dict[int, float]] = {}
    for row in read_metrics(path):
        step = int(row.pop("step"))
        for name, value in row.items():
            if math.isfinite(value):
                series.setdefault(name, {})[step] = value
    return RunMetrics(series)


def gallery_description(videos: float, captions: float | None) -> str:
    """The size of a gallery and its queries: `670 videos, 27,763 captions, each a query`."""
    gallery = f"{videos:,.0f} videos"
    if captions is None:
        return gallery
    if captions == videos:
        return f"{gallery}, one caption each"
    return f"{gallery}, {captions:,.0f} captions, each a query"


def _ordered(found: set[str], known: Iterable[str]) -> list[str]:
    """The known ones in their order, then the others by name."""
    return [name for name in known if name in found] + sorted(found.difference(known))
