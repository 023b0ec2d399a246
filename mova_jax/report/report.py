"""The report of a run: one HTML file that needs nothing else, and its figures as files.

In: a workdir with `metrics.jsonl` (see `utils/metric_log.py`) and `config.json`, and the timelines
of a few videos. Out: `report.html` and `plots/*.png` in the workdir. What a run did not measure is
left out, so a run without masks or without timed sentences has a shorter report.

    write_report(workdir, timelines=[Timeline(...), ...])
"""

import base64
import html
import json
import math
import os
import platform
from collections.abc import Iterable
from pathlib import Path

import jax
import numpy as np

from mova_jax.evaluation.timeline import Timeline
from mova_jax.report import page, plots
from mova_jax.report import run_metrics as names
from mova_jax.report.plots import Panel
from mova_jax.report.run_metrics import FIGURES, WAYS, RunMetrics
from mova_jax.utils.metric_log import METRICS_FILE

__all__ = ["Timeline", "write_report"]

RATES = {
    "time/videos_per_s": ("videos a second", "{:.1f}"),
    "time/frames_per_s": ("frames a second", "{:.0f}"),
    "time/step_s": ("seconds a step", "{:.3g}"),
    "time/data_wait_share": ("share of the time spent waiting for data", "{:.1%}"),
}


def write_report(workdir: str | os.PathLike, timelines: list[Timeline]) -> Path:
    """Writes `plots/*.png` and `report.html`, each aside first and then renamed.

    Args:
      workdir: holds `metrics.jsonl` and `config.json`.
      timelines: videos to show, valid frames only; may be empty.

    Returns:
      The path of `report.html`.

    Raises:
      FileNotFoundError: when the workdir holds no metrics or no config.
      ValueError: for metrics that cannot be read.
    """
    workdir = Path(workdir)
    metrics = names.read_run(_existing(workdir / METRICS_FILE))
    config = json.loads(_existing(workdir / "config.json").read_text(encoding="utf-8"))
    warmup = _warmup_steps(config)
    figures = dict(_figures(metrics, timelines, warmup))
    (workdir / "plots").mkdir(exist_ok=True)
    for name, image in figures.items():
        _write(workdir / "plots" / f"{name}.png", image)
    sections = [
        _retrieval(metrics, config, figures),
        _grounding(metrics, config),
        _timelines(timelines, figures),
        _masks(metrics, config, timelines, figures),
        _training(figures, warmup),
        _run(metrics, config),
    ]
    title = f"mova_jax: {workdir.resolve().name}"
    text = page.document(title, _headline(metrics, config), sections)
    return _write(workdir / "report.html", text.encode())


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: a report needs the workdir of a run, with config.json and "
            f"{METRICS_FILE}"
        )
    return path


def _write(path: Path, content: bytes) -> Path:
    aside = path.with_name(path.name + ".part")
    aside.write_bytes(content)
    aside.replace(path)
    return path


def _warmup_steps(config: dict) -> int:
    """How many steps were on single frames; 0 for runs from before there was such a thing."""
    train = config.get("train", {})
    return round(train.get("image_share", 0) * train.get("steps", 0))


def _figures(
    metrics: RunMetrics, timelines: list[Timeline], warmup: int
) -> Iterable[tuple[str, bytes]]:
    for name, panels, columns in (
        ("retrieval", _retrieval_panels(metrics), 2),
        ("masks", _mask_panels(metrics), 2),
        ("losses", _loss_panels(metrics), 3),
        ("watched", _watched_panels(metrics), 2),
    ):
        if panels:
            yield name, plots.small_multiples(panels, columns, warmup)
    for i, item in enumerate(timelines, 1):
        if item.sentences:
            yield f"timeline_{i}", plots.timeline(item)
        if item.text_concepts is not None or item.video_concepts is not None:
            yield f"concepts_{i}", plots.concepts(item)


def _loss_panels(metrics: RunMetrics) -> list[Panel]:
    return [
        Panel(names.LOSSES.get(term, term), {"": metrics.curve(f"train/{term}")})
        for term in metrics.losses()
    ]


def _watched_panels(metrics: RunMetrics) -> list[Panel]:
    panels = []
    for title, lines in names.WATCHED.items():
        percent = title.endswith("%")
        train = {label: f"train/{name}" for label, name in lines.items()}
        curves = metrics.curves(train, 100 if percent else 1)
        if curves:
            panels.append(Panel(title, curves, percent=percent))
    return panels


def _retrieval_panels(metrics: RunMetrics) -> list[Panel]:
    panels = []
    for key in ("r1", "r10"):
        for way, title in WAYS.items():
            scores = metrics.scores("validation")
            lines = metrics.curves({s: f"validation/{s}/{way}/{key}" for s in scores})
            chance = metrics.chance("validation", way).get(key, math.nan)
            if lines:
                panels.append(Panel(f"{title}, {FIGURES[key]} in %", lines, chance, percent=True))
    return panels


def _mask_panels(metrics: RunMetrics) -> list[Panel]:
    kept = {label: f"train/{name}" for name, label in names.MASKS.items()}
    leaks = {label: f"validation/leak/{k}" for k, label in names.LEAKS.items() if k != "chance"}
    kept, leaks = metrics.curves(kept, 100), metrics.curves(leaks, 100)
    panels = [Panel("kept by the masks in training, in %", kept, percent=True)] if kept else []
    if leaks:
        chance = metrics.last("validation/leak/chance")
        chance = math.nan if chance is None else 100 * chance
        panels.append(Panel("leak on validation, in %", leaks, chance, percent=True))
    return panels


def _headline(metrics: RunMetrics, config: dict) -> list[tuple[str, str, str]]:
    """The few figures at the top: (what, value, beside what)."""
    facts = []
    for split in metrics.ranked_splits()[:1]:
        gallery = metrics.last(f"{split}/gallery")
        for way, title in WAYS.items():
            value = metrics.last(f"{split}/{way}/r1")
            if value is None:
                continue
            notes = [split, f"{_score_of_record(metrics, split)} score"]
            notes += [f"{gallery:.0f} videos"] if gallery else []
            chance = metrics.chance(split, way)
            notes += [f"chance {chance['r1']:.2g} %"] if chance else []
            facts.append((f"{title}, R@1", f"{value:.1f} %", ", ".join(notes)))
    for split, kind in metrics.grounded()[:1]:
        value = metrics.last(f"{split}/grounding/{kind}/hit")
        chance = metrics.last(f"{split}/grounding/{kind}/chance")
        notes = [split, f"{names.KINDS.get(kind, kind)} score"]
        notes += [] if chance is None else [f"random frame {100 * chance:.1f} %"]
        facts.append(("best frame in its event", f"{100 * value:.1f} %", ", ".join(notes)))
    facts.append(("training", f"{metrics.last_step():,}", f"steps, seed {_seed(config)}"))
    return facts


def _score_of_record(metrics: RunMetrics, split: str) -> str:
    return "blend" if "blend" in metrics.scores(split) else "global"


def _retrieval(metrics: RunMetrics, config: dict, figures: dict[str, bytes]) -> str:
    parts = [_retrieval_table(metrics, split, config) for split in metrics.ranked_splits()]
    if "retrieval" in figures:
        parts.append(page.figure(_data_url(figures["retrieval"]), *page.RETRIEVAL_CURVES))
    return page.section("Retrieval", page.RETRIEVAL, parts)


def _retrieval_table(metrics: RunMetrics, split: str, config: dict) -> str:
    rows = []
    for score in metrics.scores(split):
        weight = metrics.last(f"{split}/{score}/weight")
        cells = [score if weight is None else f"{score}|weight {weight:g}"]
        for name in (f"{split}/{score}/{way}/{key}" for way in WAYS for key in FIGURES):
            low, high = metrics.last(name + "_low"), metrics.last(name + "_high")
            interval = "" if low is None or high is None else f"|{low:.1f} to {high:.1f}"
            cells.append(_number(metrics.last(name)) + interval)
        rows.append(cells)
    chance = [metrics.chance(split, way).get(key) for way in WAYS for key in FIGURES]
    if None not in chance:
        rows.append(["chance", *(_number(value) for value in chance)])
    gallery = metrics.last(f"{split}/gallery")
    captions = metrics.last(f"{split}/gallery_captions")
    step = metrics.last(f"{split}/checkpoint_step") or metrics.last_step(f"{split}/t2v/r1")
    caption = [f"{split} split", f"checkpoint of step {step:,.0f}"]
    caption += [f"gallery of {names.gallery_description(gallery, captions)}"] if gallery else []
    caption += [f"seed {_seed(config)}", f"score of record: {_score_of_record(metrics, split)}"]
    groups = [("", 1), *((title, len(FIGURES)) for title in WAYS.values())]
    return page.table(", ".join(caption), ["score", *list(FIGURES.values()) * 2], rows, groups)


def _grounding(metrics: RunMetrics, config: dict) -> str:
    rows = []
    for split, kind in metrics.grounded():
        keys = ("hit", "chance", "auc", "miou", "miou_whole", "miou_ceiling")
        cells = [_percent(metrics.last(f"{split}/grounding/{kind}/{key}")) for key in keys]
        cells.insert(3, "50.0" if cells[2] else "")
        counts = (metrics.last(f"{split}/grounding/{kind}/{k}") for k in ("sentences", "left_out"))
        cells += ["" if count is None else f"{count:.0f}" for count in counts]
        rows.append([f"{split}, {names.KINDS.get(kind, kind)}", *cells])
    if not rows:
        return ""
    header = ["split, score", "hit", "chance", "AUC", "chance", "mIoU", "whole video", "ceiling"]
    header += ["counted", "left out"]
    groups = [("", 1), ("best frame, %", 2), ("frame order, %", 2), ("segment, %", 3)]
    groups.append(("sentences", 2))
    caption = f"seed {_seed(config)}"
    return page.section("Grounding", page.GROUNDING, [page.table(caption, header, rows, groups)])


def _timelines(timelines: list[Timeline], figures: dict[str, bytes]) -> str:
    parts = []
    for i, item in enumerate(timelines, 1):
        if f"timeline_{i}" in figures:
            image = _data_url(figures[f"timeline_{i}"])
            alt = " / ".join(item.sentences)
            parts.append(page.figure(image, f"Video {item.video_id}", "", alt=alt, wide=True))
    return page.section("Timelines", page.TIMELINES, parts)


def _masks(
    metrics: RunMetrics, config: dict, timelines: list[Timeline], figures: dict[str, bytes]
) -> str:
    parts = [_mask_table(metrics, config)]
    if "masks" in figures:
        parts.append(page.figure(_data_url(figures["masks"]), *page.MASK_CURVES))
    text = page.CONCEPTS
    for i, item in enumerate(timelines, 1):
        if f"concepts_{i}" in figures:
            image = _data_url(figures[f"concepts_{i}"])
            parts.append(page.figure(image, f"Video {item.video_id}", text, wide=True))
            text = ""
    return page.section("Concept masks", page.MASKS, [part for part in parts if part])


def _mask_table(metrics: RunMetrics, config: dict) -> str:
    """Kept share and leak of every split that was evaluated, in percent."""
    keys = [*names.MASKS, *(f"leak/{key}" for key in names.LEAKS)]
    rows = []
    for split in names.SPLITS:
        cells = [_percent(metrics.last(f"{split}/{key}")) for key in keys]
        if any(cells):
            rows.append([split, *cells])
    if not rows:
        return ""
    header = ["split", *names.MASKS.values(), *names.LEAKS.values()]
    groups = [("", 1), ("kept by the masks, %", 2), ("leak, %", 3)]
    return page.table(f"seed {_seed(config)}", header, rows, groups)


def _training(figures: dict[str, bytes], warmup: int) -> str:
    words = {"losses": page.LOSS_CURVES, "watched": page.WATCHED_CURVES}
    parts = [page.figure(_data_url(figures[k]), *words[k]) for k in words if k in figures]
    text = f"Shaded: the first {warmup:,} steps, on single frames with one sentence each."
    return page.section("Training", text if warmup else "", parts)


def _run(metrics: RunMetrics, config: dict) -> str:
    rows = [["steps", f"{metrics.last_step():,}"], ["seed", str(_seed(config))]]
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
    text = html.escape(json.dumps(config, indent=2))
    details = f"<details><summary>config.json</summary><pre>{text}</pre></details>"
    return page.section("The run", "", [page.table("", ["", ""], rows), details])


def _number(value: float | None) -> str:
    """Two digits at least, so that a chance of 0.4 is not rounded away."""
    if value is None:
        return ""
    return f"{value:.1f}" if value >= 1 or value == 0 else f"{value:.2g}"


def _percent(share: float | None) -> str:
    return "" if share is None else _number(100 * share)


def _seed(config: dict) -> object:
    """The seed at the top of the config, else the first one below."""
    if "seed" in config:
        return config["seed"]
    nested = (_seed(value) for value in config.values() if isinstance(value, dict))
    return next((seed for seed in nested if seed != "not given"), "not given")


def _hardware() -> str:
    kinds = sorted({device.device_kind for device in jax.devices()})
    return f"{jax.device_count()} x {', '.join(kinds)}, {os.cpu_count()} {platform.machine()} cores"


def _data_url(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode()
