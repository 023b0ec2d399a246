"""Evaluates splits with a finished model; figures and ranks stay in a folder.

    evaluate_splits(evaluator, params, ["test"], "runs/base", blend_weight=10.0, step=640)

FOLDER/metrics.jsonl      gets a line for each split
FOLDER/ranks/SPLIT.npz    has the rank of every query

Splits that the folder has already are left out, so that a stopped evaluation goes on.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mova_jax.evaluation.evaluator import Evaluator
from mova_jax.parallel.processes import barrier, log_main
from mova_jax.training.workdir import RANKS
from mova_jax.utils.metric_log import METRICS_FILE, MetricWriter, read_metrics
from mova_jax.utils.trackers import Tracker

_DONE = "checkpoint_step"  # a metric that only this evaluation writes


def evaluate_splits(
    evaluator: Evaluator,
    params: Any,
    splits: Sequence[str],
    folder: str | os.PathLike,
    *,
    blend_weight: float,
    step: int,
    checkpoint_step: int | None = None,
    tracker: Tracker | None = None,
) -> None:
    """Evaluates the splits that the folder does not have yet.

    Args:
        evaluator: of the model on the data.
        params: of the model.
        splits: their names, which the data have.
        folder: for figures and ranks; shared by all processes.
        blend_weight: of the modular score, chosen on validation.
        step: under which the figures are written; later lines of the file are dropped.
        checkpoint_step: of the parameters; by default `step`.
        tracker: gets the figures too.
    """
    folder = Path(folder)
    done = evaluated_splits(folder, step)
    barrier("the splits to evaluate are known")  # before the main process writes more metrics
    checkpoint_step = step if checkpoint_step is None else checkpoint_step
    with MetricWriter(folder, resume_step=step, tracker=tracker) as writer:
        for split in (split for split in splits if split not in done):
            log_main(f"Evaluating on {split} with the checkpoint of step {checkpoint_step}")
            ranks = folder / RANKS / f"{split}.npz"
            metrics = evaluator.evaluate(params, split, blend_weight, final=True, ranks_file=ranks)
            metrics[_DONE] = float(checkpoint_step)
            writer.write(step, {f"{split}/{name}": value for name, value in metrics.items()})


def evaluated_splits(folder: str | os.PathLike, step: int) -> set[str]:
    """Splits with figures of `evaluate_splits` at a step."""
    path = Path(folder) / METRICS_FILE
    rows = read_metrics(path) if path.exists() else []
    names = [name for row in rows if row["step"] == step for name in row]
    return {name.removesuffix(f"/{_DONE}") for name in names if name.endswith(f"/{_DONE}")}
