"""Trains objectives at equal steps with several seeds, and prints the table of docs/results.md.

    python -m benchmarks.compare_objectives [--objectives full global_only] [--seeds 0 1 2]
        [--jobs 2] [--workdir runs/compare] [--split test] [-- --config.train.steps=800]

Each run is `python -m mova_jax.main --config=configs/base.py:objective=NAME` with its own seed and
workdir; complete runs are read, not repeated. `--jobs` runs share the cores evenly. Flags after
`--` are given to every run. Cells have the mean over seeds, and the lowest and highest in brackets.

Below it, the differences of each two objectives in R@1 by the score of record, averaged over seeds,
with the paired interval over the choice of queries (`mova_jax/evaluation/paired.py`).
"""

import argparse
import concurrent.futures
import itertools
import os
import queue
import subprocess
import sys
from pathlib import Path

import numpy as np

from mova_jax.evaluation.paired import load_paired, paired_difference_over_seeds
from mova_jax.training.workdir import RANKS
from mova_jax.utils.metric_log import METRICS_FILE, last_metrics

OBJECTIVES = ("full", "frame_weighting", "global_only")
# (title, name in the metrics without the split, factor)
ROWS = {
    "T2V R@1, %": [
        ("global", "global/t2v/r1", 1),
        ("modular", "modular/t2v/r1", 1),
        ("blend", "blend/t2v/r1", 1),
    ],
    "V2T R@1, %": [
        ("global", "global/v2t/r1", 1),
        ("modular", "modular/v2t/r1", 1),
        ("blend", "blend/v2t/r1", 1),
    ],
    "Grounding": [
        ("best frame in its event by frame cosine, %", "grounding/frame/hit", 100),
        ("by modular score, %", "grounding/modular/hit", 100),
        ("a random frame, %", "grounding/frame/chance", 100),
        ("mIoU by frame cosine, %", "grounding/frame/miou", 100),
        ("mIoU by modular score, %", "grounding/modular/miou", 100),
        ("the whole video, %", "grounding/frame/miou_whole", 100),
        ("a frame's own sentence by frame cosine, %", "sentence_of_frame/frame/accuracy", 100),
        ("by modular score, %", "sentence_of_frame/modular/accuracy", 100),
        ("a random sentence, %", "sentence_of_frame/chance", 100),
    ],
    "Masks": [
        ("mᵀ open, %", "text_mask_density", 100),
        ("mᵀ open in named events, %", "text_mask_density/named", 100),
        ("mᵀ open in unnamed events, %", "text_mask_density/unnamed", 100),
        ("mᵀ open in gaps, %", "text_mask_density/gap", 100),
        ("mⱽ open, %", "video_mask_density", 100),
        ("leak, own masks, % (chance 50)", "leak/own_masks_auc", 100),
        ("leak, pair masks, % (chance 50)", "leak/pairs_auc", 100),
        ("blend weight", "blend/weight", 1),
    ],
}


def train(workdir: Path, objective: str, seed: int, cores: set[int], more: list[str]) -> None:
    """One run on some cores, with its log next to its workdir; a complete one returns at once."""
    command = [sys.executable, "-m", "mova_jax.main", f"--workdir={workdir}"]
    command += [f"--config=configs/base.py:objective={objective}", f"--config.seed={seed}", *more]
    workdir.parent.mkdir(parents=True, exist_ok=True)
    with workdir.with_suffix(".log").open("a") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(process.pid, cores)
        code = process.wait()
    print(f"{workdir}: exit code {code}", file=sys.stderr, flush=True)


def train_all(runs: list[tuple[Path, str, int]], jobs: int, more: list[str]) -> None:
    """All runs, `jobs` at a time, each on its own share of the cores."""
    every = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    free: queue.Queue[set[int]] = queue.Queue()
    for job in range(jobs):
        free.put(set(every[job::jobs]) or set(every))

    def one(run: tuple[Path, str, int]) -> None:
        cores = free.get()
        try:
            train(*run, cores, more)
        finally:
            free.put(cores)

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, runs))


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


def table(by_objective: dict[str, list[dict[str, float]]]) -> str:
    """Markdown: a row for each metric, a column for each objective."""
    names = list(by_objective)
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    seeds = [str(sum(bool(found) for found in by_objective[name])) for name in names]
    lines.append("| seeds | " + " | ".join(seeds) + " |")
    for group, rows in ROWS.items():
        for title, metric, factor in rows:
            cells = [
                cell([factor * found[metric] for found in by_objective[name] if metric in found])
                for name in names
            ]
            lines.append(f"| {group}: {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def differences(by_objective: dict[str, list[Path]], split: str) -> str:
    """Markdown: a row for each two objectives; their workdirs without ranks are left out."""
    files = {
        name: [path for w in workdirs if (path := w / RANKS / f"{split}.npz").exists()]
        for name, workdirs in by_objective.items()
    }
    lines = ["| R@1 of | T2V, points | V2T, points |", "|---|---|---|"]
    for one, other in itertools.combinations([name for name in files if files[name]], 2):
        cells = []
        for direction in ("t2v", "v2t"):
            ranks, video = load_paired(files[one] + files[other], direction)
            sides = ranks[: len(files[one])], ranks[len(files[one]) :]
            found = paired_difference_over_seeds(*sides, video_of_query=video)
            cells.append("{:+.1f} ({:+.1f} to {:+.1f})".format(*found))
        lines.append(f"| {one} minus {other} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Trains the missing runs and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objectives", nargs="+", default=OBJECTIVES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--workdir", type=Path, default=Path("runs/compare"))
    parser.add_argument("--split", default="test")
    parser.add_argument("--read_only", action="store_true", help="runs nothing")
    parser.add_argument("more", nargs="*", help="flags for every run, after --")
    args = parser.parse_args()
    runs = [
        (args.workdir / f"{objective}-{seed}", objective, seed)
        for seed in args.seeds
        for objective in args.objectives
    ]
    if not args.read_only:
        train_all(runs, args.jobs, args.more)
    found = {
        objective: [split_metrics(w, args.split) for w, name, _ in runs if name == objective]
        for objective in args.objectives
    }
    print(table(found))
    workdirs = {o: [w for w, name, _ in runs if name == o] for o in args.objectives}
    print("\n" + differences(workdirs, args.split))


if __name__ == "__main__":
    main()
