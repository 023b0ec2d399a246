"""The tables of a report, as HTML, from the metrics of a run."""

import os
import platform
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mova_jax.report import page
from mova_jax.report.panels import split_unit
from mova_jax.report.run_metrics import (
    DIRECTIONS,
    FRAME_SCORES,
    RANK_METRICS,
    RunMetrics,
    gallery_description,
)

NOTES = {"dual_softmax": "reads all queries at once"}  # below the names of scores
RATES = {
    "time/videos_per_s": ("videos a second", "{:.1f}"),
    "time/frames_per_s": ("frames a second", "{:.0f}"),
    "time/step_s": ("seconds a step", "{:.3g}"),
    "time/data_wait_share": ("share of the time spent waiting for data", "{:.1%}"),
}


def retrieval_table(metrics: RunMetrics, split: str, config: dict[str, Any]) -> str:
    """A row for each score and one for chance; recalls, median and mean rank both ways."""
    rows = []
    for score in metrics.scores(split):
        weight = metrics.last(f"{split}/{score}/weight")
        note = f"weight {weight:g}" if weight is not None else NOTES.get(score, "")
        cells = [f"{score}|{note}".rstrip("|")]
        for name in (f"{split}/{score}/{way}/{key}" for way in DIRECTIONS for key in RANK_METRICS):
            low, high = metrics.last(name + "_low"), metrics.last(name + "_high")
            interval = "" if low is None or high is None else f"|{low:.1f} to {high:.1f}"
            cells.append(_number(metrics.last(name)) + interval)
        rows.append(cells)
    chance = [metrics.chance(split, way).get(key) for way in DIRECTIONS for key in RANK_METRICS]
    if None not in chance:
        rows.append(["chance", *(_number(value) for value in chance)])
    gallery = metrics.last(f"{split}/gallery")
    captions = metrics.last(f"{split}/gallery_captions")
    step = metrics.last(f"{split}/checkpoint_step") or metrics.last_step(f"{split}/t2v/r1")
    caption = [f"{split} split", f"checkpoint of step {step:,.0f}"]
    caption += [f"gallery of {gallery_description(gallery, captions)}"] if gallery else []
    caption += [f"seed {seed_of(config)}", f"score of record: {score_of_record(metrics, split)}"]
    groups = [("", 1), *((title, len(RANK_METRICS)) for title in DIRECTIONS.values())]
    header = ["score", *list(RANK_METRICS.values()) * 2]
    return page.table(", ".join(caption), header, rows, groups)


def grounding_table(metrics: RunMetrics, config: dict[str, Any]) -> str:
    """A row for each split and frame score; '' without any."""
    rows = []
    for split, score in metrics.grounded():
        prefix = f"{split}/grounding/{score}"
        keys = ("hit", "chance", "auc", "miou", "miou_whole", "miou_ceiling")
        cells = [_number(metrics.last(f"{prefix}/{key}"), 100) for key in keys]
        cells.insert(3, "50.0" if cells[2] else "")
        counts = (metrics.last(f"{prefix}/{key}") for key in ("sentences", "left_out"))
        cells += ["" if count is None else f"{count:.0f}" for count in counts]
        rows.append([f"{split}, {FRAME_SCORES.get(score, score)}", *cells])
    if not rows:
        return ""
    header = ["split, score", "hit", "chance", "AUC", "chance", "mIoU", "whole video", "ceiling"]
    header += ["counted", "left out"]
    groups = [("", 1), ("best frame, %", 2), ("frame order, %", 2), ("segment, %", 3)]
    groups.append(("sentences", 2))
    return page.table(f"seed {seed_of(config)}", header, rows, groups)


def labelled_table(metrics: RunMetrics, labels: Mapping[str, str], config: dict[str, Any]) -> str:
    """A row for each split, a column for each label that has a value; '' without any."""
    labels = {name: label for name, label in labels.items() if metrics.splits_with([name])}
    rows = []
    for split in metrics.splits_with(labels):
        values = ((metrics.last(f"{split}/{name}"), label) for name, label in labels.items())
        rows.append([split, *(_number(value, split_unit(label)[1]) for value, label in values)])
    if not rows:
        return ""
    return page.table(f"seed {seed_of(config)}", ["split", *labels.values()], rows)


def run_table(metrics: RunMetrics, config: dict[str, Any]) -> str:
    """Steps, speed, and the first step that was not finite."""
    rows = [["steps", f"{metrics.last_step():,}"], ["seed", str(seed_of(config))]]
    for name, (label, form) in RATES.items():
        if name in metrics.series:
            rate = float(np.median(metrics.curve(name).values))
            rows.append([label, f"{form.format(rate)} (median over training)"])
    bad = [step for step, fine in metrics.series.get("train/finite", {}).items() if not fine]
    if bad:
        rows.append(
            ["not finite", f"loss or gradient at step {min(bad):,}: nothing was learned after it"]
        )
    rows.append(["report written on", _hardware()])
    return page.table("", ["", ""], rows)


def score_of_record(metrics: RunMetrics, split: str) -> str:
    """The score that `<split>/t2v/...` is of."""
    return "blend" if "blend" in metrics.scores(split) else "global"


def seed_of(config: dict[str, Any]) -> object:
    """The seed of a run."""
    return config.get("seed", "not given")


def _number(value: float | None, factor: float = 1.0) -> str:
    """At least two digits, so that a chance of 0.4 is not rounded away; '' for None."""
    if value is None:
        return ""
    value *= factor
    return f"{value:.1f}" if value >= 1 or value == 0 else f"{value:.2g}"


def _hardware() -> str:
    kinds = sorted({device.device_kind for device in jax.devices()})
    return f"{jax.device_count()} x {', '.join(kinds)}, {os.cpu_count()} {platform.machine()} cores"
