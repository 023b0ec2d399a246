"""The metrics of a run on disk: `metrics.jsonl`, one JSON object a line, and TensorBoard.

Metrics are scalars under flat names such as `test/t2v/r1`. In a run of several processes only
process 0 writes.
"""

import functools
import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Self

import jax
from jaxtyping import Array, Float

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"


def read_metrics(path: str | os.PathLike) -> list[dict[str, float]]:
    """Reads a `metrics.jsonl`.

    Args:
        path: The file. A run killed while writing leaves half a last line, which is left out.

    Returns:
        One dict a line, in order: `step` (int) and the metrics; nan for one that was not finite.

    Raises:
        ValueError: a line other than the last is not a JSON object with a `step`.
    """
    rows = []
    lines = pathlib.Path(path).read_bytes().split(b"\n")
    # Every whole line ends in a newline, so what follows the last one is nothing or half a line.
    for number, line in enumerate(lines[:-1], start=1):
        try:
            row = json.loads(line)
            row["step"] = int(row["step"])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(
                f"{path}, line {number}: expected a JSON object with a step, got "
                f"{line[:80]!r}. Remove the line, or the file to do without its history."
            ) from error
        rows.append({name: math.nan if value is None else value for name, value in row.items()})
    return rows


class MetricWriter:
    """Appends metrics to `metrics.jsonl` and TensorBoard, each line flushed when it is written."""

    def __init__(
        self,
        workdir: str | os.PathLike,
        *,
        resume_step: int | None = None,
        tensorboard: bool = True,
    ):
        """Opens the files of a workdir, which is made when there is none.

        Args:
            workdir: Folder of the run.
            resume_step: The step that the run goes on from: later lines, left by a run that was
                killed after its last save, are dropped. None for a run that starts from nothing,
                which drops every line.
            tensorboard: Whether event files are written too.
        """
        self._file = self._events = None
        self._open_events: Callable[[], Any] | None = None
        if jax.process_index() != 0:
            return
        workdir = pathlib.Path(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        path = workdir / METRICS_FILE
        if path.exists():
            _keep_until(path, -1 if resume_step is None else resume_step)
        self._file = path.open("a", encoding="utf-8")
        if tensorboard:
            # TensorBoard hides what earlier event files hold from the purged step on.
            purge = 0 if resume_step is None else resume_step + 1
            self._open_events = functools.partial(
                _event_writer, str(workdir / TENSORBOARD_FOLDER), purge_step=purge
            )

    def write(self, step: int, metrics: Mapping[str, float | Float[Array, ""]]) -> None:
        """Writes the metrics of one step as one line.

        Args:
            step: Steps done when the metrics were measured.
            metrics: Flat names and scalars; device values are fetched here. What is not finite
                becomes null in the file, for JSON has no such numbers.
        """
        if self._file is None:
            return
        values = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
        self._file.write(_to_line(step, values))
        self._file.flush()
        if self._open_events is not None and self._events is None:
            self._events = self._open_events()
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, value, int(step))
            self._events.flush()

    def close(self) -> None:
        """Closes the files; may be called twice."""
        if self._file is not None:
            self._file.close()
        if self._events is not None:
            self._events.close()
        self._file = self._events = self._open_events = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _event_writer(folder: str, *, purge_step: int):
    """An event file in a folder."""
    # Imported here: tensorboardX imports PyTorch wherever that is installed (over a second). The
    # first metrics are written while the devices are at the next step.
    import tensorboardX

    return tensorboardX.SummaryWriter(folder, purge_step=purge_step)


def _to_line(step: int, values: Mapping[str, float]) -> str:
    finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
    return json.dumps({"step": int(step)} | finite, allow_nan=False) + "\n"


def _keep_until(path: pathlib.Path, last_step: int) -> None:
    """Drops the lines of `path` after `last_step`, and half a last line; aside, then renamed."""
    aside = path.with_name(path.name + ".aside")
    with aside.open("w", encoding="utf-8") as file:
        for row in read_metrics(path):
            step = row.pop("step")
            if step <= last_step:
                file.write(_to_line(step, row))
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
