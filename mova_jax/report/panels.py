"""The curves of a report: which metrics a panel has, and how it is labelled."""

import math
from collections.abc import Mapping

from mova_jax.evaluation.evaluator import EVALUATIONS
from mova_jax.evaluation.leak import CHANCE
from mova_jax.losses.terms import TERMS
from mova_jax.report.plots import Panel
from mova_jax.report.run_metrics import DIRECTIONS, MASKS, RANK_METRICS, WATCHED, RunMetrics

CURVES_ON = "validation"  # the split that is evaluated while training


def loss_panels(metrics: RunMetrics) -> list[Panel]:
    """The total loss and each term, unweighted."""
    return [
        Panel(label, {"": metrics.curve(f"train/{term}")})
        for term, label in metrics.losses().items()
    ]


def watched_panels(metrics: RunMetrics) -> list[Panel]:
    """Other metrics of training: in-batch recall, scales, gradient norm, learning rate."""
    panels = []
    for title, lines in WATCHED.items():
        percent = title.endswith("%")
        train = {label: f"train/{name}" for label, name in lines.items()}
        if curves := metrics.curves(train, 100 if percent else 1):
            panels.append(Panel(title, curves, percent=percent))
    return panels


def gradient_panels(metrics: RunMetrics) -> list[Panel]:
    """The norm of the gradient of each weighted term at each mask network."""
    panels = []
    for network in ("tmn", "cmn"):
        lines = {term: f"gradient/{term}/{network}" for term in TERMS}
        if curves := metrics.curves(lines):
            panels.append(Panel(f"norm of the gradient at the {network.upper()}", curves))
    return panels


def retrieval_panels(metrics: RunMetrics) -> list[Panel]:
    """Recall at 1 and 10 in both directions, a line a score."""
    panels = []
    for key in ("r1", "r10"):
        for direction, title in DIRECTIONS.items():
            scores = metrics.scores(CURVES_ON)
            lines = metrics.curves({s: f"{CURVES_ON}/{s}/{direction}/{key}" for s in scores})
            chance = metrics.chance(CURVES_ON, direction).get(key, math.nan)
            if lines:
                title = f"{title}, {RANK_METRICS[key]} in %"
                panels.append(Panel(title, lines, chance, percent=True))
    return panels


def mask_panels(metrics: RunMetrics) -> list[Panel]:
    """The open share of the masks in training, and the leak on validation."""
    density = metrics.curves({label: f"train/{name}" for name, label in MASKS.items()}, 100)
    panels = [Panel("open in training, in %", density, percent=True)] if density else []
    leaks = {
        split_unit(label)[0].removeprefix("leak, "): f"{CURVES_ON}/{name}"
        for name, label in EVALUATIONS["leak"].labels.items()
    }
    if curves := metrics.curves(leaks, 100):
        panels.append(Panel("leak on validation, in %", curves, 100 * CHANCE, percent=True))
    return panels


def labelled_panels(metrics: RunMetrics, labels: Mapping[str, str]) -> list[Panel]:
    """One panel for each labelled metric of an evaluation."""
    panels = []
    for name, label in labels.items():
        _, factor = split_unit(label)
        if curves := metrics.curves({"": f"{CURVES_ON}/{name}"}, factor):
            panels.append(Panel(label, curves, percent=factor != 1))
    return panels


def split_unit(label: str) -> tuple[str, float]:
    """The label of a metric without its unit, and the factor from the metric to that unit."""
    return label.removesuffix(", %"), 100.0 if label.endswith("%") else 1.0
