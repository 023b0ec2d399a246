"""The training loop: batches in, steps, metrics, evaluations and checkpoints out.

The host runs one step ahead of the devices: while step n is computed, the batch of step n + 1 is
fetched and the metrics of step n - 1 are read. A run that is stopped and started again takes the
same steps on the same batches as one that never stopped.
"""

import contextlib
import dataclasses
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from mova_jax.config import Config
from mova_jax.parallel import mesh as mesh_lib
from mova_jax.parallel.processes import AnyProcessFlag
from mova_jax.training.bad_records import BadRecords
from mova_jax.training.checkpoint import Checkpoints
from mova_jax.training.profiler import Trace
from mova_jax.training.progress import Progress, Work
from mova_jax.training.state import TrainState
from mova_jax.training.utilization import Utilization
from mova_jax.training.workdir import RunError
from mova_jax.typing import Batch
from mova_jax.utils.metric_log import MetricWriter

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]


class StopSignal:
    """Ctrl-C and SIGTERM as a request to stop after the step at hand.

    A second Ctrl-C leaves at once; what was saved before stays whole.
    """

    def __init__(self):
        self.number = 0

    def agreed(self, vote: AnyProcessFlag) -> bool:
        """Whether to stop before the next step: the same answer in every process of the run."""
        if not vote(self.requested):
            return False
        self.number = self.number or signal.SIGTERM  # it was another process that was told
        return True

    @property
    def requested(self) -> bool:
        """Whether to stop."""
        return self.number != 0

    @contextlib.contextmanager
    def caught(self) -> Iterator["StopSignal"]:
        """Inside, the signals are requests; afterwards, they are what they were."""
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(number, self._request) for number in numbers]
        try:
            yield self
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)

    def _request(self, number, frame) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number
        # Not `print`: the signal may have come in the middle of one.
        os.write(2, b"\nstopping: this step is finished and saved first\n")


class _PrefetchedBatch(NamedTuple):
    """A batch on the devices, and what has to be remembered of it."""

    batch: Batch
    video_ids: np.ndarray
    data_state: dict[str, Any]  # of the iterator after this batch
    work: Work


class _PendingStep(NamedTuple):
    """A step whose metrics were not read yet."""

    step: int
    metrics: dict[str, jax.Array]
    fetched: _PrefetchedBatch


class Loop:
    """Runs steps until the end, a signal, or a loss that is not finite."""

    def __init__(
        self,
        config: Config,
        mesh: jax.sharding.Mesh,
        train_step: TrainStep,
        batches: Any,
        *,
        checkpoints: Checkpoints,
        writer: MetricWriter,
        progress: Progress,
        evaluate: Callable[[Any], dict[str, float]] | None,
        name_videos: Callable[[np.ndarray], list[str]],
        trace: Trace | None = None,
        utilization: Utilization | None = None,
        bad_records: BadRecords | None = None,
    ):
        """Takes what a run is made of.

        Args:
            config: of the run.
            mesh: that batches are put on.
            train_step: from `make_train_step`; donates its state.
            batches: iterator with `get_state`, standing at the batch of the next step.
            checkpoints: where to save.
            writer: where metrics go.
            progress: what is shown.
            evaluate: parameters to validation figures, `t2v/r1` and `blend/weight` among them;
                None without a validation split.
            name_videos: `video_id`s to names, for errors.
            trace: of some steps.
            use: measures how well the devices are used.
            damage: watches for records that could not be read.
        """
        self._config, self._mesh, self._train_step = config, mesh, train_step
        self._batches, self._checkpoints = batches, checkpoints
        self._writer, self._progress = writer, progress
        self._evaluate, self._name_videos = evaluate, name_videos
        self._trace, self._utilization, self._bad_records = (
            trace or Trace(),
            utilization,
            bad_records,
        )
        self._stop_flag, self._bad_records_flag = AnyProcessFlag(mesh), AnyProcessFlag(mesh)

    def run(self, state: TrainState, stop: StopSignal) -> TrainState:
        """Trains from where `state` stands; saves when it leaves.

        Returns:
            The last state; its `step` is below `config.train.steps` when it was told to stop.

        Raises:
            RunError: a loss or gradient was not finite; the state before it is saved.
        """
        cfg, step = self._config.train, int(state.step)
        data_state, ahead, counts_at = self._batches.get_state(), None, None
        while step < cfg.steps and not stop.agreed(self._stop_flag):
            fetched = ahead or self._fetch()
            if self._bad_records and self._bad_records_flag(self._bad_records.too_many):
                if counts_at:
                    self._flush_metrics(
                        counts_at, state
                    )  # its figures are told like those of any step
                self._stop_damaged(state, data_state)
            self._trace.before(step + 1)
            with jax.profiler.StepTraceAnnotation("train", step_num=step + 1):
                state, metrics = self._train_step(state, fetched.batch)
            self._trace.after(step + 1, metrics)
            step, data_state = step + 1, fetched.data_state
            if counts_at:
                self._flush_metrics(counts_at, state)
            counts_at = _PendingStep(step, metrics, fetched)
            try:
                ahead = self._fetch() if step < cfg.steps else None
            except Exception:
                if jax.process_count() > 1:
                    raise  # the others go on to their next step, and would never join a save
                self._flush_metrics(counts_at, state)
                self._checkpoints.save_last(state, data_state)
                self._checkpoints.wait()
                raise
            if step % cfg.eval_every == 0 or step == cfg.steps:
                counts_at = self._flush_metrics(counts_at, state)
                self._validate(step, state, data_state)
                with self._progress.paused():
                    self._checkpoints.save_last(state, data_state)
            elif step % cfg.checkpoint_every == 0:
                counts_at = self._flush_metrics(counts_at, state)
                with self._progress.paused():
                    self._checkpoints.save_last(state, data_state)
        if counts_at:
            self._flush_metrics(counts_at, state)
        self._checkpoints.save_last(state, data_state)
        self._checkpoints.wait()
        return state

    def _fetch(self) -> _PrefetchedBatch:
        start = time.monotonic()
        arrays = next(self._batches)
        wait_s = time.monotonic() - start
        if self._bad_records:
            self._bad_records.observe(arrays)
        batch = mesh_lib.put_batch(self._mesh, arrays, self._config.train.microbatch)
        videos, frames = batch.frame_mask.shape
        work = Work(videos, videos * frames, wait_s)
        return _PrefetchedBatch(batch, arrays["video_id"], self._batches.get_state(), work)

    def _flush_metrics(self, counts_at: _PendingStep, state: TrainState) -> None:
        """Reads the metrics of a step that was taken; tells and writes them."""
        metrics = {name: float(value) for name, value in jax.device_get(counts_at.metrics).items()}
        if not metrics["finite"]:
            self._stop_not_finite(counts_at, metrics, state)
        self._progress.update(counts_at.step, metrics["loss"], counts_at.fetched.work)
        if counts_at.step % self._config.train.log_every == 0 or counts_at.step == 1:
            named = {f"train/{name}": value for name, value in metrics.items()}
            rates = self._progress.rates()
            if self._utilization:
                rates |= self._utilization.figures(
                    counts_at.fetched.batch, rates.get("time/step_s")
                )
            if self._bad_records and self._bad_records.count:
                rates["data/damaged_records"] = self._bad_records.count
            self._writer.write(counts_at.step, named | rates)

    def _validate(self, step: int, state: TrainState, data_state: dict[str, Any]) -> None:
        """Evaluates on validation, and saves the state if it is the best so far."""
        if self._evaluate is None:
            return
        with self._progress.paused():
            figures = self._evaluate(state.weights)
        self._writer.write(step, {f"validation/{k}": value for k, value in figures.items()})
        score, weight = figures["t2v/r1"], figures.get("blend/weight", 0.0)
        with self._progress.paused():
            best = self._checkpoints.save_best(state, data_state, score, weight)
        self._progress.message(
            f"step {step}: validation T2V R@1 {score:.1f} % of {figures['gallery']:.0f} videos"
            + (", the best so far" if best else "")
        )

    def _stop_damaged(self, state: TrainState, data_state: dict[str, Any]) -> None:
        """Saves, and raises in every process."""
        self._checkpoints.save_last(state, data_state)
        self._checkpoints.wait()
        raise RunError(self._bad_records.summary())

    def _stop_not_finite(
        self, counts_at: _PendingStep, metrics: dict[str, float], state: TrainState
    ):
        """Saves the last good state, at which the step left it, and raises."""
        names = ", ".join(self._name_videos(counts_at.fetched.video_ids))
        state = dataclasses.replace(state, finite=~state.finite)
        before = {"next_batch": counts_at.step - 1}
        self._checkpoints.save_last(state, before)
        self._checkpoints.wait()
        terms = ", ".join(f"{k} {v:.4g}" for k, v in sorted(metrics.items()) if k != "finite")
        raise RunError(
            f"the loss or its gradient is not finite at step {counts_at.step}: {terms}.\n"
            f"The batch: {names}.\n"
            f"The state after step {counts_at.step - 1}, the last good one, is saved in "
            f"{self._checkpoints.folder / 'last'}. Look at these videos, or start in another "
            "workdir with a lower optim.learning_rate or optim.clip_norm."
        )
