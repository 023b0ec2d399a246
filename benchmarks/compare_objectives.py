"""Trains objectives for an equal time with several seeds, and prints the tables of docs/results.md.

    python -m benchmarks.compare_objectives [--objectives parts full] [--seeds 0 1 2]
        [--seconds 65] [--workdir runs/compare] [-- --config.data.eval_videos=1024]

For each seed, towers are first trained by `global_only` on single frames (`--warmup` steps), which
stands in for a pretrained CLIP. From these weights every objective then trains on videos for as
many steps as take it `--seconds` on all cores: steps are timed side by side in one process, when
nothing else runs, and written to steps.json. So the table does not depend on what else the machine
does while the runs are made. They are made one after the other: two that have a core each take
several times as long as one after the other on both. Complete runs are read, not repeated. Flags
after `--` are given to every run.

Cells have the mean over seeds, and the lowest and highest in brackets. Scores are those of record.
Below are the differences in R@1 to `--against`, averaged over seeds, with the paired interval over
the choice of queries (`mova_jax/evaluation/paired.py`).
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from benchmarks.train_step import random_batch
from configs.base import get_config
from mova_jax.config import from_config_dict
from mova_jax.evaluation.paired import load_paired, paired_difference_over_seeds
from mova_jax.parallel import mesh as mesh_lib
from mova_jax.parallel import sharding
from mova_jax.training.state import make_train_spec
from mova_jax.training.step import make_train_step
from mova_jax.training.workdir import RANKS
from mova_jax.utils.atomic import write_bytes
from mova_jax.utils.metric_log import METRICS_FILE, last_metrics

OBJECTIVES = (
    *("global_only", "clip4clip", "frame_weighting", "full"),
    *("parts", "part_concepts", "part_masks"),
    *("parts_ordered", "part_concepts_ordered", "part_masks_ordered"),
)
# Rows of the paper's ablation, set against `full` (mova_jax/config/presets.py).
ABLATION = ("cmn_only", "token_mask", "no_dfsm", "no_sfdm", "no_tv", "soft_masks")
SPLITS = ("test", "confusable", "ood_time", "ood_domain")
# (title, name in the metrics without the split, factor)
COLUMNS = (
    ("T2V R@1", "t2v/r1", 1),
    ("R@5", "t2v/r5", 1),
    ("R@10", "t2v/r10", 1),
    ("MdR", "t2v/mdr", 1),
    ("V2T R@1", "v2t/r1", 1),
    ("global R@1", "global/t2v/r1", 1),
    ("best frame in its event", "grounding/frame/hit", 100),
    ("a frame's own sentence", "sentence_of_frame/frame/accuracy", 100),
    ("leak, own masks", "leak/own_masks_auc", 100),
    ("mᵀ open: named", "text_mask_density/named", 100),
    ("unnamed", "text_mask_density/unnamed", 100),
    ("gaps", "text_mask_density/gap", 100),
    ("mⱽ open", "video_mask_density", 100),
)
STEPS = "steps.json"
BATCH_TEXTS = {"tokens": 96, "parts": (4, 40)}  # lengths of most batches of Storyboard


def step_seconds(objectives: list[str], rounds: int = 5) -> dict[str, float]:
    """Median seconds of a train step on videos, the objectives in turn in one process."""
    steps = {name: _ready_step(name) for name in objectives}
    seconds: dict[str, list[float]] = {name: [] for name in objectives}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def _ready_step(objective: str):
    """A function that takes one step of an objective; compiled, and run once."""
    made = get_config(f"objective={objective}")
    made.model.text.vocab_size = 1024
    config = from_config_dict(made)
    mesh = mesh_lib.make_mesh(config.mesh)
    spec = make_train_spec(config, mesh)
    train_step, state = make_train_step(spec, mesh), spec.initial()
    arrays = random_batch(config, BATCH_TEXTS["tokens"], BATCH_TEXTS["parts"])
    batch = sharding.put_batch(mesh, arrays)

    def step():
        nonlocal state
        state, metrics = train_step(state, batch)
        jax.block_until_ready(metrics)

    step()
    return step


def steps_of(workdir: Path, objectives: list[str], seconds: float) -> dict[str, int]:
    """Steps of each objective, from steps.json where they are there."""
    file, known = workdir / STEPS, read_steps(workdir)
    if missing := [name for name in objectives if name not in known]:
        # With those that are known, so that all are measured at one time.
        timed = step_seconds(sorted({*known, *missing}))
        scale = np.median([known[n]["step_s"] / timed[n] for n in known]) if known else 1.0
        for name in missing:
            step_s = scale * timed[name]
            known[name] = {"step_s": step_s, "steps": max(1, round(seconds / step_s))}
        workdir.mkdir(parents=True, exist_ok=True)
        write_bytes(file, json.dumps(known, indent=1).encode())
    return {name: known[name]["steps"] for name in objectives}


def read_steps(workdir: Path) -> dict[str, dict[str, float]]:
    """The content of steps.json; empty without."""
    file = workdir / STEPS
    return json.loads(file.read_text()) if file.exists() else {}


def warmed_towers(workdir: Path, seed: int, steps: int, more: list[str]) -> Path:
    """An export of towers that saw single frames only."""
    run, export = workdir / f"warmup-{seed}", workdir / f"towers-{seed}"
    if not export.exists():
        flags = [f"--config.train.steps={steps}", "--config.train.image_share=1.0"]
        flags += ["--config.eval.splits=()", f"--config.train.eval_every={steps}"]
        train(run, "global_only", seed, [*flags, *more])
        command = [sys.executable, "-m", "mova_jax.convert", "export", str(run), str(export)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return export / "pytorch"


def train(workdir: Path, objective: str, seed: int, more: list[str]) -> None:
    """One run, with its log next to its workdir; a complete one returns at once."""
    command = [sys.executable, "-m", "mova_jax.main", f"--workdir={workdir}"]
    command += [f"--config=configs/base.py:objective={objective}", f"--config.seed={seed}", *more]
    workdir.parent.mkdir(parents=True, exist_ok=True)
    with workdir.with_suffix(".log").open("a") as log:
        code = subprocess.run(command, stdout=log, stderr=log).returncode
    print(f"{workdir}: exit code {code}", file=sys.stderr, flush=True)


def split_metrics(workdir: Path, split: str) -> dict[str, float]:
    """The last value of every metric of a split; empty for a run that is not complete."""
    metrics, prefix = last_metrics(workdir / METRICS_FILE), f"{split}/"
    return {k.removeprefix(prefix): v for k, v in metrics.items() if k.startswith(prefix)}


def cell(values: list[float]) -> str:
    """Mean, lowest and highest value over the seeds."""
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{np.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def table(by_objective: dict[str, list[dict[str, float]]], steps: dict[str, int]) -> str:
    """Markdown: a row for each objective; columns without values are left out."""
    columns = [
        (title, metric, factor)
        for title, metric, factor in COLUMNS
        if any(metric in found for runs in by_objective.values() for found in runs)
    ]
    titles = ["objective", "steps", "seeds", *(title for title, _, _ in columns)]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for name, runs in by_objective.items():
        cells = [name, str(steps.get(name, "")), str(sum(bool(found) for found in runs))]
        for _, metric, factor in columns:
            cells.append(cell([factor * found[metric] for found in runs if metric in found]))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def tables(
    workdir: Path,
    seeds: Sequence[int],
    objectives: Sequence[str] = OBJECTIVES,
    against: str = "parts",
    splits: Sequence[str] = SPLITS,
) -> str:
    """Markdown: a table for each split, and the differences; of the runs that are complete."""
    steps = {name: known["steps"] for name, known in read_steps(workdir).items()}
    runs = {name: [workdir / f"{name}-{seed}" for seed in seeds] for name in objectives}
    found = {name: [split_metrics(run, SPLITS[0]) for run in dirs] for name, dirs in runs.items()}
    runs = {name: dirs for name, dirs in runs.items() if any(found[name])}
    blocks = []
    for split in splits:
        found = {name: [split_metrics(run, split) for run in dirs] for name, dirs in runs.items()}
        blocks.append(f"`{split}`:\n\n{table(found, steps)}")
    if against in runs:
        blocks.append(differences(runs, against, list(splits)))
    return "\n\n".join(blocks)


def differences(by_objective: dict[str, list[Path]], against: str, splits: list[str]) -> str:
    """Markdown: a row for each objective but one, with its differences to that one by split."""
    lines = [
        f"| minus {against}, points of R@1, T2V; V2T | " + " | ".join(splits) + " |",
        "|---" * (len(splits) + 1) + "|",
    ]
    for name in by_objective:
        if name == against:
            continue
        cells = []
        for split in splits:
            # Pairs of runs of one seed.
            files = [
                [w / RANKS / f"{split}.npz" for w in pair]
                for pair in zip(by_objective[name], by_objective[against], strict=True)
            ]
            files = [pair for pair in files if all(path.exists() for path in pair)]
            cells.append("; ".join(_difference(files, way) for way in ("t2v", "v2t")))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _difference(files: list[list[Path]], direction: str) -> str:
    if not files:
        return ""
    ones, others = zip(*files, strict=True)
    ranks, video = load_paired([*ones, *others], direction)
    sides = ranks[: len(ones)], ranks[len(ones) :]
    found = paired_difference_over_seeds(*sides, video_of_query=video)
    return "{:+.1f} ({:+.1f} to {:+.1f})".format(*found)


def main() -> None:
    """Trains the missing runs and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objectives", nargs="+", default=OBJECTIVES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=65, help="of training, a run")
    parser.add_argument("--warmup", type=int, default=240, help="steps on single frames")
    parser.add_argument("--against", default="parts")
    parser.add_argument("--workdir", type=Path, default=Path("runs/compare"))
    parser.add_argument("--splits", nargs="+", default=SPLITS)
    parser.add_argument("--read_only", action="store_true", help="runs nothing")
    parser.add_argument("more", nargs="*", help="flags for every run, after --")
    args = parser.parse_args()
    if not args.read_only:
        steps = steps_of(args.workdir, list(args.objectives), args.seconds)
        for seed in args.seeds:
            towers = warmed_towers(args.workdir, seed, args.warmup, args.more)
            for name in args.objectives:
                flags = [f"--config.train.steps={steps[name]}", f"--config.init_from={towers}"]
                flags += [f"--config.train.eval_every={steps[name]}"]
                flags += ["--config.train.image_share=0.0", *args.more]
                train(args.workdir / f"{name}-{seed}", name, seed, flags)
    print(tables(args.workdir, args.seeds, args.objectives, args.against, args.splits))


if __name__ == "__main__":
    main()
