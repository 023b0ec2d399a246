"""The report of a run: one HTML file that needs nothing else, and its figures as files.

In: a workdir with `metrics.jsonl` (a JSON object a line: `step` and flat names) and `config.json`,
and the timelines of a few videos. Out: `report.html` and `plots/*.png` in the workdir. What a run
did not measure is left out, so a run without masks or without timed sentences has a shorter
report.

    write_report(workdir, timelines=[Timeline(...), ...])
"""

import base64
import dataclasses
import html
import json
import math
import os
import platform
from collections.abc import Iterable
from pathlib import Path

import jax
import numpy as np

from mova_jax.evaluation import report_page as page
from mova_jax.evaluation import report_plots as plots
from mova_jax.evaluation.report_plots import Curve, Panel, Timeline

__all__ = ["Timeline", "write_report"]

WAYS = {"t2v": "text → video", "v2t": "video → text"}
FIGURES = {"r1": "R@1", "r5": "R@5", "r10": "R@10", "mdr": "MdR", "mnr": "MnR"}
SCORES = ("global", "modular", "blend")
LOSSES = {
    "loss": "total loss",
    "global": "global contrast, L_g",
    "tv": "frame contrast, L_tv",
    "sfdm": "same frame, different masks",
    "dfsm": "different frames, same mask",
    "sparsity": "sparsity, L_s",
}
NOT_LOSSES = ("kept", "leak", "rate", "scale", "norm", "wait", "seconds", "share", "epoch", "count")


@dataclasses.dataclass(frozen=True)
class Metrics:
    """Values by name and step; a step that was run again after a resume counts once, the last."""

    series: dict[str, dict[int, float]]
    unreadable: int  # lines that are no JSON object with a step

    def curve(self, name: str) -> Curve:
        """The steps and values of one name, in the order of the steps."""
        points = sorted(self.series[name].items())
        return Curve(*np.array(points, float).T)

    def last(self, name: str) -> float | None:
        """The value at the greatest step, None when the name was never written."""
        points = self.series.get(name)
        return points[max(points)] if points else None

    def last_step(self) -> int:
        return max((max(points) for points in self.series.values()), default=0)

    def splits(self, ending: str) -> list[str]:
        """Splits that have a name with this ending, the test split first."""
        found = {name[: -len(ending) - 1] for name in self.series if name.endswith("/" + ending)}
        known = {"test": 0, "ood_time": 1, "ood_domain": 2, "validation": 9}
        return sorted((s for s in found if "/" not in s), key=lambda s: (known.get(s, 5), s))

    def scores(self, split: str) -> list[str]:
        """Names of the scores that were ranked on this split."""
        found = {n.split("/")[1] for n in self.series if n.startswith(f"{split}/") and "/t2v/" in n}
        return [s for s in SCORES if s in found] + sorted(found - set(SCORES))


def write_report(workdir: str | os.PathLike, timelines: list[Timeline]) -> Path:
    """Writes `plots/*.png` and `report.html`, each aside first and then renamed.

    Args:
      workdir: holds `metrics.jsonl` and `config.json`.
      timelines: videos to show, valid frames only; may be empty.

    Returns:
      The path of `report.html`.

    Raises:
      FileNotFoundError: when the workdir holds no metrics or no config.
    """
    workdir = Path(workdir)
    metrics = read_metrics(workdir / "metrics.jsonl")
    config = json.loads(_existing(workdir / "config.json").read_text())
    figures = dict(_figures(metrics, timelines))
    (workdir / "plots").mkdir(exist_ok=True)
    for name, image in figures.items():
        _write(workdir / "plots" / f"{name}.png", image)
    sections = [
        _retrieval(metrics, config, figures),
        _grounding(metrics),
        _timelines(timelines, figures),
        _masks(metrics, timelines, figures),
        _training(metrics, figures),
        _run(metrics, config),
    ]
    text = page.document(f"mova_jax: {workdir.resolve().name}", _headline(metrics), sections)
    return _write(workdir / "report.html", text.encode())


def read_metrics(path: Path) -> Metrics:
    """Reads a metrics file, whose last line may be cut off by a killed run."""
    series: dict[str, dict[int, float]] = {}
    unreadable = 0
    for line in _existing(path).read_text(errors="replace").splitlines():
        try:
            record = json.loads(line)
            step = int(record.pop("step"))
        except (ValueError, KeyError, TypeError, AttributeError):
            unreadable += bool(line.strip())
            continue
        for name, value in record.items():
            if isinstance(value, int | float) and math.isfinite(value):
                series.setdefault(name, {})[step] = float(value)
    return Metrics(series, unreadable)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: a report needs the workdir of a run, with config.json and "
            "metrics.jsonl"
        )
    return path


def _write(path: Path, content: bytes) -> Path:
    aside = path.with_name(path.name + ".part")
    aside.write_bytes(content)
    aside.replace(path)
    return path


def _figures(metrics: Metrics, timelines: list[Timeline]) -> Iterable[tuple[str, bytes]]:
    for name, panels, columns in (
        ("losses", _loss_panels(metrics), 3),
        ("retrieval", _retrieval_panels(metrics), 2),
        ("masks", _mask_panels(metrics), 2),
    ):
        if panels:
            yield name, plots.small_multiples(panels, columns)
    for i, item in enumerate(timelines, 1):
        if item.sentences:
            yield f"timeline_{i}", plots.timeline(item)
        if item.text_concepts is not None or item.video_concepts is not None:
            yield f"concepts_{i}", plots.concepts(item)


def _loss_panels(metrics: Metrics) -> list[Panel]:
    names = [n for n in metrics.series if n.startswith("train/") and n.count("/") == 1]
    terms = [n.removeprefix("train/") for n in names]
    terms = [t for t in terms if not any(word in t for word in NOT_LOSSES) and "_per_" not in t]
    order = [t for t in LOSSES if t in terms] + sorted(set(terms) - set(LOSSES))
    return [Panel(LOSSES.get(t, t), {"": metrics.curve(f"train/{t}")}) for t in order]


def _retrieval_panels(metrics: Metrics) -> list[Panel]:
    panels = []
    for key in ("r1", "r10"):
        for way, title in WAYS.items():
            names = {s: f"validation/{s}/{way}/{key}" for s in metrics.scores("validation")}
            lines = {s: metrics.curve(n) for s, n in names.items() if n in metrics.series}
            chance = _chance(metrics, "validation", way)[key]
            if lines:
                panels.append(Panel(f"{title}, {FIGURES[key]} in %", lines, chance, percent=True))
    return panels


def _mask_panels(metrics: Metrics) -> list[Panel]:
    kept, leak = {}, {}
    for name in sorted(metrics.series):
        split, _, rest = name.partition("/")
        if len(metrics.series[name]) < 2 or split not in ("train", "validation"):
            continue
        curve = metrics.curve(name)
        curve = Curve(curve.steps, 100 * curve.values)
        label = "" if split == "train" else " (val.)"
        if rest.startswith("kept_"):
            kept[rest.removeprefix("kept_") + label] = curve
        elif rest.startswith("leak/") and rest != "leak/chance":
            leak[rest.removeprefix("leak/").replace("_", " ") + label] = curve
    panels = [Panel("dimensions kept in %", kept, percent=True)] if kept else []
    if leak:
        chance = metrics.last("validation/leak/chance")
        chance = float("nan") if chance is None else 100 * chance
        panels.append(Panel("leak in %", leak, chance, percent=True))
    return panels


def _headline(metrics: Metrics) -> list[tuple[str, str, str]]:
    """The few figures at the top: (what, value, beside what)."""
    facts = []
    for split in metrics.splits("global/t2v/r1")[:1]:
        name = "blend" if "blend" in metrics.scores(split) else "global"
        gallery = metrics.last(f"{split}/gallery")
        note = f"{split}, {name} score" + (f", of {gallery:.0f} videos" if gallery else "")
        for way in WAYS:
            value = metrics.last(f"{split}/{name}/{way}/r1")
            if value is not None:
                facts.append((f"{WAYS[way]} R@1", f"{value:.1f} %", note))
    for split in metrics.splits("grounding/hit")[:1]:
        chance = metrics.last(f"{split}/grounding/chance")
        note = "" if chance is None else f"a random frame: {100 * chance:.1f} %"
        value = metrics.last(f"{split}/grounding/hit")
        facts.append(("best frame in its event", f"{100 * value:.1f} %", note))
    facts.append(("training", f"{metrics.last_step():,}", "steps"))
    return facts


def _chance(metrics: Metrics, split: str, way: str) -> dict[str, float]:
    """What guessing would give; nan when the gallery is not known."""
    videos = metrics.last(f"{split}/gallery")
    captions = metrics.last(f"{split}/gallery_captions")
    size = videos if way == "t2v" else captions or videos
    if not size:
        return dict.fromkeys(FIGURES, float("nan"))
    recall = {f"r{k}": 100 * min(1.0, k / size) for k in (1, 5, 10)}
    return recall | {"mdr": (size + 1) / 2, "mnr": (size + 1) / 2}


def _retrieval(metrics: Metrics, config: dict, figures: dict[str, bytes]) -> str:
    parts = [_retrieval_table(metrics, s, config) for s in metrics.splits("global/t2v/r1")]
    if "retrieval" in figures:
        parts.append(page.figure(_data_url(figures["retrieval"]), *page.RETRIEVAL_CURVES))
    return page.section("Retrieval", page.RETRIEVAL, parts)


def _retrieval_table(metrics: Metrics, split: str, config: dict) -> str:
    rows = []
    for score in metrics.scores(split):
        weight = metrics.last(f"{split}/{score}/weight")
        cells = [score if weight is None else f"{score}, weight {weight:g}"]
        for way in WAYS:
            for key in FIGURES:
                name = f"{split}/{score}/{way}/{key}"
                value, low = metrics.last(name), metrics.last(name + "_low")
                cell = "" if value is None else f"{value:.1f}"
                if low is not None:
                    cell += f"|{low:.0f} to {metrics.last(name + '_high'):.0f}"
                cells.append(cell)
        rows.append(cells)
    chance = [_chance(metrics, split, way)[key] for way in WAYS for key in FIGURES]
    if not math.isnan(chance[0]):
        rows.append(["chance", *(f"{value:.1f}" for value in chance)])
    gallery = metrics.last(f"{split}/gallery")
    captions = metrics.last(f"{split}/gallery_captions")
    caption = [f"split: {split}"]
    caption += [f"gallery: {gallery:.0f} videos"] if gallery else []
    caption += [f"{captions:.0f} captions"] if captions else []
    caption += [f"seed: {_seed(config)}", _hardware()]
    groups = [("", 1), *((title, len(FIGURES)) for title in WAYS.values())]
    return page.table(", ".join(caption), ["score", *list(FIGURES.values()) * 2], rows, groups)


def _grounding(metrics: Metrics) -> str:
    rows = []
    for split in metrics.splits("grounding/hit"):
        value = {
            key: metrics.last(f"{split}/grounding/{key}")
            for key in ("hit", "chance", "auc", "miou", "miou_whole", "miou_ceiling")
        }
        cells = ["" if v is None else f"{100 * v:.1f}" for v in value.values()]
        cells.insert(3, "50.0" if cells[2] else "")
        counts = [metrics.last(f"{split}/grounding/{key}") for key in ("sentences", "left_out")]
        rows.append([split, *cells, *("" if n is None else f"{n:.0f}" for n in counts)])
    if not rows:
        return ""
    header = ["split", "hit", "chance", "AUC", "chance", "mIoU", "whole video", "ceiling"]
    header += ["sentences", "left out"]
    groups = [("", 1), ("best frame, %", 2), ("frame order, %", 2), ("segment, %", 3), ("", 2)]
    return page.section("Grounding", page.GROUNDING, [page.table("", header, rows, groups)])


def _timelines(timelines: list[Timeline], figures: dict[str, bytes]) -> str:
    parts = []
    for i, item in enumerate(timelines, 1):
        if f"timeline_{i}" in figures:
            image = _data_url(figures[f"timeline_{i}"])
            alt = " / ".join(item.sentences)
            parts.append(page.figure(image, f"Video {item.video_id}", "", alt=alt, wide=True))
    return page.section("Timelines", page.TIMELINES, parts)


def _masks(metrics: Metrics, timelines: list[Timeline], figures: dict[str, bytes]) -> str:
    parts = [_mask_table(metrics)]
    if "masks" in figures:
        parts.append(page.figure(_data_url(figures["masks"]), *page.MASK_CURVES))
    text = page.CONCEPTS
    for i, item in enumerate(timelines, 1):
        if f"concepts_{i}" in figures:
            image = _data_url(figures[f"concepts_{i}"])
            parts.append(page.figure(image, f"Video {item.video_id}", text, wide=True))
            text = ""
    return page.section("Concept masks", page.MASKS, [part for part in parts if part])


def _mask_table(metrics: Metrics) -> str:
    """Kept share and leak of every split that was evaluated, in percent."""
    found = [name.partition("/") for name in metrics.series]
    found = [(s, n) for s, _, n in found if s != "train" and n.startswith(("kept_", "leak/"))]
    if not found:
        return ""
    names = sorted({n for _, n in found}, key=lambda n: (n == "leak/chance", n))
    rows = []
    for split in sorted({s for s, _ in found}):
        values = (metrics.last(f"{split}/{name}") for name in names)
        rows.append([split, *("" if v is None else f"{100 * v:.1f}" for v in values)])
    return page.table("", ["split", *(_mask_label(name) + ", %" for name in names)], rows)


def _mask_label(name: str) -> str:
    if name == "leak/chance":
        return "leak by chance"
    return name.replace("kept_", "kept by the mask from the ").replace("/", ", ").replace("_", " ")


def _training(metrics: Metrics, figures: dict[str, bytes]) -> str:
    if "losses" not in figures:
        return ""
    image = _data_url(figures["losses"])
    return page.section("Training", "", [page.figure(image, *page.LOSS_CURVES)])


def _run(metrics: Metrics, config: dict) -> str:
    rows = [["steps", f"{metrics.last_step():,}"], ["seed", str(_seed(config))]]
    for name, label in (("videos_per_s", "videos a second"), ("frames_per_s", "frames a second")):
        if f"train/{name}" in metrics.series:
            rate = float(np.median(metrics.curve(f"train/{name}").values))
            rows.append([label, f"{rate:.1f} (median over training)"])
    rows.append(["report written on", _hardware()])
    if metrics.unreadable:
        rows.append(["metrics.jsonl", f"{metrics.unreadable} lines could not be read, left out"])
    text = html.escape(json.dumps(config, indent=2))
    details = f"<details><summary>config.json</summary><pre>{text}</pre></details>"
    return page.section("The run", "", [page.table("", ["", ""], rows), details])


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
