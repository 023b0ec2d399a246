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

from mova_jax.utils import atomic
from mova_jax.utils.trackers import Tracker

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
# Last parts of names that earlier versions wrote, and those they are read as.
RENAMED = {
    "kept_text": "text_mask_density",
    "kept_video": "video_mask_density",
    "damaged_records": "bad_records",
}


class MetricLogError(ValueError):
    """A metric log that cannot be read; the message says what to do."""


def read_metrics(path: str | os.PathLike) -> list[dict[str, float]]:
    """Reads a `metrics.jsonl`, also one that an earlier version wrote.

    Args:
        path: The file. A run killed while writing leaves half a last line, which is left out.

    Returns:
        One dict a line, in order: `step` (int) and the metrics; nan for one that was not finite.
        Names of earlier versions are replaced by those of `RENAMED`.

    Raises:
        MetricLogError: a line other than the last is not a JSON object with a `step`.
    """
    rows = []
    lines = pathlib.Path(path).read_bytes().split(b"\n")
    # A complete line ends in a newline: after the last one there is nothing or half a line.
    for number, line in enumerate(lines[:-1], start=1):
        try:
            row = json.loads(line)
            row["step"] = int(row["step"])
        except (ValueError, TypeError, KeyError) as error:
            raise MetricLogError(
                f"{path}, line {number}: expected a JSON object with a step, got "
                f"{line[:80]!r}. Remove the line, or the file to do without its history."
            ) from error
        rows.append(
            {_current(name): math.nan if value is None else value for name, value in row.items()}
        )
    return rows


def last_metrics(path: str | os.PathLike) -> dict[str, float]:
    """The last value of each metric of a `metrics.jsonl`; empty when there is no such file."""
    found: dict[str, float] = {}
    for row in read_metrics(path) if pathlib.Path(path).exists() else []:
        found |= row
    return found


def _current(name: str) -> str:
    """The name under which a metric is written now."""
    group, slash, last = name.rpartition("/")
    return group + slash + RENAMED.get(last, last)


class MetricWriter:
    """Appends metrics to `metrics.jsonl` and TensorBoard and flushes each line."""

    def __init__(
        self,
        workdir: str | os.PathLike,
        *,
        resume_step: int | None = None,
        tensorboard: bool = True,
        tracker: Tracker | None = None,
    ):
        """Opens the files of a workdir, which is made when there is none.

        Args:
            workdir: Folder of the run.
            resume_step: The step from which the run resumes: later lines, left by a run that was
                killed after its last save, are dropped. None for a new run, which drops all lines.
            tensorboard: Whether event files are written too.
            tracker: Gets the metrics too; it is not closed with the files.
        """
        self._file = self._events = None
        self._tracker = tracker
        self._open_events: Callable[[], Any] | None = None
        if jax.process_index() != 0:
            return
        workdir = pathlib.Path(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        path = workdir / METRICS_FILE
        if path.exists():
            _truncate_after(path, -1 if resume_step is None else resume_step)
        self._file = path.open("a", encoding="utf-8")
        if tensorboard:
            # TensorBoard hides the events of earlier files from the purged step on.
            purge = 0 if resume_step is None else resume_step + 1
            self._open_events = functools.partial(
                _event_writer, str(workdir / TENSORBOARD_FOLDER), purge_step=purge
            )

    def write(self, step: int, metrics: Mapping[str, float | Float[Array, ""]]) -> None:
        """Writes the metrics of one step as one line.

        Args:
            step: Steps done when the metrics were measured.
            metrics: Flat names and scalars; device values are fetched here. Numbers that are not
                finite are written as null, since JSON has no such numbers.
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
        if self._tracker is not None:
            self._tracker.log(int(step), values)

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
    # Imported here: tensorboardX imports PyTorch where it is installed, which takes over a second.
    # The first metrics are written while the devices compute the next step.
    import tensorboardX

    return tensorboardX.SummaryWriter(folder, purge_step=purge_step)


def _to_line(step: int, values: Mapping[str, float]) -> str:
    finite = {name: value if math.isfinite(value) else None for name, value in values.items()}
    return json.dumps({"step": int(step)} | finite, allow_nan=False) + "\n"


def _truncate_after(path: pathlib.Path, last_step: int) -> None:
    """Drops the lines after `last_step`, and half a last line."""
    rows = [(row.pop("step"), row) for row in read_metrics(path)]
    lines = [_to_line(step, row) for step, row in rows if step <= last_step]
    atomic.write_text(path, "".join(lines), durable=True)
