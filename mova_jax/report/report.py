"""Writes the report of a run: one HTML file without external resources, and its images as files.

In: a workdir with `metrics.jsonl` (see `utils/metric_log.py`) and `config.json`, and the timelines
of a few videos. Out: `report.html` and `plots/*.png` in the workdir. Sections without metrics are
left out, so a run without masks or without timed sentences has a shorter report.

    write_report(workdir, timelines=[Timeline(...), ...])

Each entry of `EVALUATIONS` has a section: retrieval, grounding and masks have sections of their
own below, every other one a table and curves of its labelled metrics.
"""

import base64
import html
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mova_jax.evaluation.evaluator import EVALUATIONS
from mova_jax.evaluation.timeline import Timeline
from mova_jax.report import page, panels, plots, tables
from mova_jax.report.run_metrics import DIRECTIONS, FRAME_SCORES, RunMetrics, read_run
from mova_jax.utils import atomic
from mova_jax.utils.metric_log import METRICS_FILE

WITH_OWN_SECTION = ("retrieval", "grounding", "masks", "leak")


def write_report(workdir: str | os.PathLike, timelines: list[Timeline]) -> Path:
    """Writes `plots/*.png` and `report.html`, each whole or not at all.

    Args:
        workdir: with `metrics.jsonl` and `config.json`.
        timelines: videos to show, valid frames only; may be empty.

    Returns:
        The path of `report.html`.

    Raises:
        FileNotFoundError: the workdir has no metrics or no config.
        ValueError: the metrics cannot be read.
    """
    workdir = Path(workdir)
    metrics = read_run(_existing(workdir / METRICS_FILE))
    config = json.loads(_existing(workdir / "config.json").read_text(encoding="utf-8"))
    warmup = _warmup_steps(config)
    images = dict(_images(metrics, timelines, warmup))
    for name, image in images.items():
        atomic.write_bytes(workdir / "plots" / f"{name}.png", image)
    sections = [
        _retrieval(metrics, config, images),
        page.section("Grounding", page.GROUNDING, [tables.grounding_table(metrics, config)]),
        _timelines(timelines, images),
        _masks(metrics, config, timelines, images),
        *_other_evaluations(metrics, config, images),
        _training(images, warmup),
        _run(metrics, config),
    ]
    title = f"mova_jax: {workdir.resolve().name}"
    path = workdir / "report.html"
    atomic.write_text(path, page.document(title, _headline(metrics, config), sections))
    return path


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: a report needs the workdir of a run, with config.json and "
            f"{METRICS_FILE}"
        )
    return path


def _warmup_steps(config: dict[str, Any]) -> int:
    """The number of steps on single frames; 0 for runs from before there were any."""
    train = config.get("train", {})
    return round(train.get("image_share", 0) * train.get("steps", 0))


def _images(
    metrics: RunMetrics, timelines: list[Timeline], warmup: int
) -> Iterable[tuple[str, bytes]]:
    """PNGs by file name: curves over training, then timelines and concept masks by video."""
    curves = {
        "retrieval": panels.retrieval_panels(metrics),
        "masks": panels.mask_panels(metrics),
        "losses": panels.loss_panels(metrics),
        "watched": panels.watched_panels(metrics),
        "gradients": panels.gradient_panels(metrics),
    }
    for name, evaluation in EVALUATIONS.items():
        if name not in WITH_OWN_SECTION:
            curves[f"evaluation_{name}"] = panels.labelled_panels(metrics, evaluation.labels)
    for name, found in curves.items():
        if found:
            yield name, plots.small_multiples(found, 3 if name == "losses" else 2, warmup)
    for i, item in enumerate(timelines, 1):
        if item.sentences:
            yield f"timeline_{i}", plots.timeline(item)
        if item.text_concepts is not None or item.video_concepts is not None:
            yield f"concepts_{i}", plots.concepts(item)


def _headline(metrics: RunMetrics, config: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The main results at the top of the page: (label, value, notes)."""
    facts = []
    for split in metrics.splits_with(["t2v/r1"])[:1]:
        gallery = metrics.last(f"{split}/gallery")
        for direction, title in DIRECTIONS.items():
            value = metrics.last(f"{split}/{direction}/r1")
            if value is None:
                continue
            notes = [split, f"{tables.score_of_record(metrics, split)} score"]
            notes += [f"{gallery:.0f} videos"] if gallery else []
            chance = metrics.chance(split, direction)
            notes += [f"chance {chance['r1']:.2g} %"] if chance else []
            facts.append((f"{title}, R@1", f"{value:.1f} %", ", ".join(notes)))
    for split, score in metrics.grounded()[:1]:
        value = metrics.last(f"{split}/grounding/{score}/hit")
        chance = metrics.last(f"{split}/grounding/{score}/chance")
        notes = [split, f"{FRAME_SCORES.get(score, score)} score"]
        notes += [] if chance is None else [f"random frame {100 * chance:.1f} %"]
        facts.append(("best frame in its event", f"{100 * value:.1f} %", ", ".join(notes)))
    notes = f"steps, seed {tables.seed_of(config)}"
    return [*facts, ("training", f"{metrics.last_step():,}", notes)]


def _retrieval(metrics: RunMetrics, config: dict[str, Any], images: dict[str, bytes]) -> str:
    splits = metrics.splits_with(["t2v/r1"])
    parts = [tables.retrieval_table(metrics, split, config) for split in splits]
    if "retrieval" in images:
        parts.append(page.figure(_data_url(images["retrieval"]), *page.RETRIEVAL_CURVES))
    return page.section("Retrieval", page.RETRIEVAL, parts)


def _timelines(timelines: list[Timeline], images: dict[str, bytes]) -> str:
    parts = []
    for i, item in enumerate(timelines, 1):
        if f"timeline_{i}" in images:
            image = _data_url(images[f"timeline_{i}"])
            alt = " / ".join(item.sentences)
            parts.append(page.figure(image, f"Video {item.video_id}", "", alt=alt, wide=True))
    return page.section("Timelines", page.TIMELINES, parts)


def _masks(
    metrics: RunMetrics,
    config: dict[str, Any],
    timelines: list[Timeline],
    images: dict[str, bytes],
) -> str:
    labels = {**EVALUATIONS["masks"].labels, **EVALUATIONS["leak"].labels}
    parts = [tables.labelled_table(metrics, labels, config)]
    if "masks" in images:
        parts.append(page.figure(_data_url(images["masks"]), *page.MASK_CURVES))
    text = page.CONCEPTS
    for i, item in enumerate(timelines, 1):
        if f"concepts_{i}" in images:
            image = _data_url(images[f"concepts_{i}"])
            parts.append(page.figure(image, f"Video {item.video_id}", text, wide=True))
            text = ""
    return page.section("Concept masks", page.MASKS, parts)


def _other_evaluations(
    metrics: RunMetrics, config: dict[str, Any], images: dict[str, bytes]
) -> Iterable[str]:
    """A table and the curves of each evaluation without a section of its own."""
    for name, evaluation in EVALUATIONS.items():
        if name in WITH_OWN_SECTION:
            continue
        parts = [tables.labelled_table(metrics, evaluation.labels, config)]
        if image := images.get(f"evaluation_{name}"):
            parts.append(page.figure(_data_url(image), *page.EVALUATION_CURVES))
        yield page.section(evaluation.title, evaluation.text, parts)


def _training(images: dict[str, bytes], warmup: int) -> str:
    captions = {"losses": page.LOSS_CURVES, "watched": page.WATCHED_CURVES}
    captions["gradients"] = page.GRADIENT_CURVES
    parts = [page.figure(_data_url(images[k]), *captions[k]) for k in captions if k in images]
    text = f"Shaded: the first {warmup:,} steps, on single frames with one sentence each."
    return page.section("Training", text if warmup else "", parts)


def _run(metrics: RunMetrics, config: dict[str, Any]) -> str:
    text = html.escape(json.dumps(config, indent=2))
    details = f"<details><summary>config.json</summary><pre>{text}</pre></details>"
    return page.section("The run", "", [tables.run_table(metrics, config), details])


def _data_url(image: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(image).decode()
