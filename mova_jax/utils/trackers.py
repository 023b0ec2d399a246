"""Experiment trackers that get the metrics of a run too: Weights & Biases, Trackio.

    tracker = open_tracker("wandb", "runs/base", {"train.steps": 640})
    tracker.log(10, {"train/loss": 0.5})
    tracker.finish()

A tracker is chosen by `log.tracker`, and imported only then. The run has one id, in
`WORKDIR/tracker_id`, under which it goes on when it resumes. Steps that are taken again after a
kill are logged again, with the same figures. Projects, addresses and offline modes are set by the
tracker's own environment variables, such as WANDB_MODE=offline or TRACKIO_SPACE_ID.
"""

import importlib.util
import os
import pathlib
import uuid
from collections.abc import Mapping
from typing import Any, Protocol

from mova_jax.utils import atomic

NONE, WANDB, TRACKIO = "none", "wandb", "trackio"
ID_FILE = "tracker_id"
PROJECT = "mova_jax"


class TrackerError(Exception):
    """A tracker that cannot start; the message says what to do."""


class Tracker(Protocol):
    """Where metrics go."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Sends the metrics of a step; a step may come several times."""

    def finish(self) -> None:
        """Waits until all metrics are kept."""


def check_tracker(name: str) -> None:
    """Checks that a tracker is installed, before anything that takes time.

    Raises:
        TrackerError: it is not.
    """
    if name != NONE and importlib.util.find_spec(name) is None:
        raise TrackerError(
            f"log.tracker is {name}, which is not installed: pip install {name} (see "
            "requirements-trackers.txt), or leave the key out"
        )


def open_tracker(
    name: str, workdir: str | os.PathLike, config: Mapping[str, Any]
) -> Tracker | None:
    """Starts the tracker of a run, or goes on with it.

    Args:
        name: `wandb`, `trackio`, or `none`, for which there is no tracker.
        workdir: of the run; its last part is the name that the tracker shows.
        config: keys and values of the run, to be shown with it.

    Raises:
        TrackerError: it is not installed, or does not start.
    """
    if name == NONE:
        return None
    check_tracker(name)
    workdir = pathlib.Path(workdir).resolve()
    workdir.mkdir(parents=True, exist_ok=True)
    try:
        return _TRACKERS[name](workdir, _run_id(workdir), dict(config))
    except Exception as error:
        raise TrackerError(
            f"log.tracker is {name}, which does not start: {error}. Mend that, or start with "
            "--config.log.tracker=none: the metrics are in metrics.jsonl in any case."
        ) from error


def _run_id(workdir: pathlib.Path) -> str:
    """The id of the run, made when there is none yet."""
    path = workdir / ID_FILE
    if not path.exists():
        atomic.write_text(path, uuid.uuid4().hex[:12])
    return path.read_text(encoding="utf-8").strip()


class _Wandb:
    def __init__(self, workdir: pathlib.Path, run_id: str, config: dict[str, Any]):
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run_id,
            name=workdir.name,
            dir=workdir,
            config=config,
            resume="allow",
            allow_val_change=True,  # of keys that may change at a restart
        )
        # Its own steps only grow, and a step that comes again would be dropped.
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log({"step": step, **metrics})

    def finish(self) -> None:
        self._run.finish()


class _Trackio:
    def __init__(self, workdir: pathlib.Path, run_id: str, config: dict[str, Any]):
        import trackio

        # It finds a run by its name.
        name = f"{workdir.name}-{run_id}"
        self._run = trackio.init(PROJECT, name=name, config=config, resume="allow")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def finish(self) -> None:
        self._run.finish()


_TRACKERS = {WANDB: _Wandb, TRACKIO: _Trackio}
