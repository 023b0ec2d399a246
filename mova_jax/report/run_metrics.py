"""The metrics of a run as its report reads them: which splits, scores and curves there are.

In: a `metrics.jsonl`. Out: `RunMetrics`, and the words and order in which its names are shown.
"""

import dataclasses
import math
import os
from collections.abc import Iterable, Sequence

import numpy as np

from mova_jax.evaluation import ranks
from mova_jax.report.plots import Curve
from mova_jax.utils.metric_log import read_metrics

SPLITS = ("test", "ood_time", "ood_domain", "validation")
SCORES = ("global", "modular", "blend")
WAYS = {"t2v": "text → video", "v2t": "video → text"}
FIGURES = {"r1": "R@1", "r5": "R@5", "r10": "R@10", "mdr": "MdR", "mnr": "MnR"}
KINDS = {"modular": "modular", "frame": "plain cosine"}
MASKS = {"text_mask_density": "mᵀ", "video_mask_density": "mⱽ"}
LEAKS = {"own_masks": "own masks", "pairs": "pair masks", "chance": "chance"}
LOSSES = {
    "loss": "total loss",
    "contrast": "L_g: global contrast",
    "frame": "L_tv: frame contrast",
    "sfdm": "sfdm: same frame, different masks",
    "dfsm": "dfsm: different frames, same mask",
    "sparsity": "L_s: sparsity",
}
# What else is logged under `train/`, by title; the lines of a panel by label.
WATCHED = {
    "in-batch R@1, in %": {"": "in_batch_r1"},
    "scale of the cosines": {"global": "scale", "modular": "modular_scale"},
    "norm of the gradient": {"": "grad_norm"},
    "learning rate": {"": "learning_rate"},
}
NOT_LOSSES = {"finite", *MASKS}.union(*(lines.values() for lines in WATCHED.values()))


@dataclasses.dataclass(frozen=True)
class RunMetrics:
    """Values by name and step; a step that was run again after a resume counts once, the last."""

    series: dict[str, dict[int, float]]

    def curve(self, name: str, factor: float = 1.0) -> Curve:
        """One name by its steps, in their order; the values times `factor`."""
        points = np.array(sorted(self.series[name].items()), float)
        return Curve(points[:, 0], factor * points[:, 1])

    def curves(self, names: dict[str, str], factor: float = 1.0) -> dict[str, Curve]:
        """Curves by label, of `{label: name}`; names that were never written are left out."""
        found = {label: name for label, name in names.items() if name in self.series}
        return {label: self.curve(name, factor) for label, name in found.items()}

    def last(self, name: str) -> float | None:
        """The value at the greatest step, None when the name was never written."""
        points = self.series.get(name)
        return points[max(points)] if points else None

    def last_step(self, name: str = "") -> int:
        """The greatest step of a name, or of all names; 0 for none."""
        chosen = [self.series.get(name, {})] if name else self.series.values()
        return max((max(points) for points in chosen if points), default=0)

    def losses(self) -> list[str]:
        """Terms of the objective, `train/<term>`, the total first."""
        return ordered({p[1] for p in self._parts(2) if p[0] == "train"} - NOT_LOSSES, LOSSES)

    def ranked_splits(self) -> list[str]:
        """Splits with a score of record, `<split>/t2v/r1`, the test split first."""
        return ordered({p[0] for p in self._parts(3) if p[1:] == ["t2v", "r1"]}, SPLITS)

    def scores(self, split: str) -> list[str]:
        """Scores that were ranked on a split, `<split>/<score>/t2v/<figure>`."""
        return ordered({p[1] for p in self._parts(4) if (p[0], p[2]) == (split, "t2v")}, SCORES)

    def grounded(self) -> list[tuple[str, str]]:
        """Split and kind of frame score, `<split>/grounding/<kind>/hit`, the test split first."""
        found = [p for p in self._parts(4) if (p[1], p[3]) == ("grounding", "hit")]
        return [
            (split, kind)
            for split in ordered({p[0] for p in found}, SPLITS)
            for kind in ordered({p[2] for p in found if p[0] == split}, KINDS)
        ]

    def chance(self, split: str, way: str) -> dict[str, float]:
        """What guessing would give, see `ranks.chance`; empty when the gallery is not known."""
        videos = self.last(f"{split}/gallery")
        if not videos:
            return {}
        captions = self.last(f"{split}/gallery_captions") or videos
        if way == "t2v":
            return ranks.chance(videos)
        return ranks.chance(captions, right=captions / videos)

    def _parts(self, count: int) -> list[list[str]]:
        parts = (name.split("/") for name in self.series)
        return [p for p in parts if len(p) == count]


def read_run(path: str | os.PathLike) -> RunMetrics:
    """Reads a `metrics.jsonl`; values that were not finite are left out.

    Raises:
      ValueError: for a line, other than half a last one, that is no JSON object with a step.
    """
    series: dict[str, dict[int, float]] = {}
    for row in read_metrics(path):
        step = int(row.pop("step"))
        for name, value in row.items():
            if math.isfinite(value):
                series.setdefault(name, {})[step] = value
    return RunMetrics(series)


def gallery_description(videos: float, captions: float | None) -> str:
    """What was searched and by what: `670 videos, 27,763 captions, each a query`."""
    searched = f"{videos:,.0f} videos"
    if captions is None:
        return searched
    if captions == videos:
        return f"{searched}, one caption each"
    return f"{searched}, {captions:,.0f} captions, each a query"


def ordered(found: Iterable[str], known: Sequence[str] | dict[str, str]) -> list[str]:
    """The known ones in their order, then the others by name."""
    found = set(found)
    return [name for name in known if name in found] + sorted(found.difference(known))
