"""The training loop: batches in; steps, metrics, evaluations and checkpoints out.

The host runs one step ahead of the devices: while they compute step n, it reads the metrics of
step n - 1 and fetches the batch of step n + 1. A run that is stopped and started again takes the
same steps on the same batches as one that never stopped.
"""

import contextlib
import dataclasses
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from mova_jax.config import Config
from mova_jax.parallel import sharding
from mova_jax.parallel.processes import AnyProcessFlag
from mova_jax.training.bad_records import BadRecords
from mova_jax.training.checkpoint import Checkpoints
from mova_jax.training.profiler import Trace
from mova_jax.training.progress import Progress, Work
from mova_jax.training.state import TrainState
from mova_jax.training.term_gradients import TermGradients
from mova_jax.training.utilization import Utilization
from mova_jax.training.workdir import RunError
from mova_jax.typing import Batch
from mova_jax.utils.metric_log import MetricWriter

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]


class StopSignal:
    """Turns Ctrl-C and SIGTERM into a request to stop after the current step.

    A second Ctrl-C ends the process at once; the checkpoints saved before stay whole.
    """

    def __init__(self):
        self.number = 0

    @property
    def requested(self) -> bool:
        """Whether this process received a signal."""
        return self.number != 0

    def agreed(self, flag: AnyProcessFlag) -> bool:
        """Whether to stop before the next step; every process of the run gets the same answer."""
        if not flag(self.requested):
            return False
        self.number = self.number or signal.SIGTERM  # another process received the signal
        return True

    @contextlib.contextmanager
    def caught(self) -> Iterator["StopSignal"]:
        """Handles the signals inside the block and restores their handlers after it."""
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
        # Not `print`: the signal may interrupt one.
        os.write(2, b"\nstopping: this step is finished and saved first\n")


class _PrefetchedBatch(NamedTuple):
    """A batch on the devices."""

    batch: Batch
    video_ids: np.ndarray
    data_state: dict[str, Any]  # of the iterator after this batch
    work: Work


class _FinishTime:
    """When the devices finished a step, in seconds of the monotonic clock; None until then."""

    def __init__(self, metrics: dict[str, jax.Array]):
        self.seconds: float | None = None
        threading.Thread(target=self._wait, args=[metrics], daemon=True).start()

    def _wait(self, metrics: dict[str, jax.Array]) -> None:
        with contextlib.suppress(Exception):  # of the step: raised where its metrics are read
            jax.block_until_ready(metrics)
        self.seconds = time.monotonic()


class _PendingStep(NamedTuple):
    """A step that was started and whose metrics are still on the devices."""

    step: int
    metrics: dict[str, jax.Array]
    fetched: _PrefetchedBatch
    finished: _FinishTime


class Loop:
    """Takes steps until the end, a signal, or a loss that is not finite."""

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
        term_gradients: TermGradients | None = None,
        trace: Trace | None = None,
        utilization: Utilization | None = None,
        bad_records: BadRecords | None = None,
    ):
        """Takes the parts of a run.

        Args:
            config: of the run.
            mesh: the batches are put on its devices.
            train_step: from `make_train_step`; donates its state.
            batches: iterator with `get_state`; its next batch is that of the next step.
            checkpoints: of the run.
            writer: writes the metrics.
            progress: shows the progress and measures the rates.
            evaluate: parameters to validation metrics, among them `t2v/r1` and `blend/weight`;
                None without a validation split.
            name_videos: `video_id`s to names, for error messages.
            term_gradients: measures a training batch at each validation, for models with masks.
            trace: profiles some of the steps.
            utilization: measures how well the devices are used.
            bad_records: counts the records that could not be read.
        """
        self._config, self._mesh, self._train_step = config, mesh, train_step
        self._batches, self._checkpoints = batches, checkpoints
        self._writer, self._progress = writer, progress
        self._evaluate, self._name_videos = evaluate, name_videos
        self._term_gradients, self._trace = term_gradients, trace or Trace()
        self._utilization, self._bad_records = utilization, bad_records
        self._stop_flag, self._bad_records_flag = AnyProcessFlag(mesh), AnyProcessFlag(mesh)
        self._pending: _PendingStep | None = None

    def run(self, state: TrainState, stop: StopSignal) -> TrainState:
        """Trains from `state` to the end or to a stop signal, and saves the last state.

        Returns:
            The last state; its `step` is below `config.train.steps` after a stop signal.

        Raises:
            RunError: a loss or gradient was not finite, or too many records could not be read;
                the last good state is saved.
        """
        cfg, step = self._config.train, int(state.step)
        data_state, fetched = self._batches.get_state(), None
        while step < cfg.steps and not stop.agreed(self._stop_flag):
            fetched = fetched or self._fetch()
            self._check_records(state, data_state)
            state, metrics = self._start_step(step + 1, state, fetched)
            step, data_state = step + 1, fetched.data_state
            self._flush_metrics(state)  # of the step before, while the devices compute this one
            self._pending = _PendingStep(step, metrics, fetched, _FinishTime(metrics))
            fetched = self._prefetch(state, data_state) if step < cfg.steps else None
            if step % cfg.eval_every == 0 or step == cfg.steps:
                self._validate(state, data_state)
                self._save(state, data_state)
            elif step % cfg.checkpoint_every == 0:
                self._save(state, data_state)
        self._save_and_wait(state, data_state)
        return state

    def _start_step(
        self, number: int, state: TrainState, fetched: _PrefetchedBatch
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Starts a step on the devices; its results are not there yet when this returns."""
        self._trace.before(number)
        with jax.profiler.StepTraceAnnotation("train", step_num=number):
            state, metrics = self._train_step(state, fetched.batch)
        self._trace.after(number, metrics)
        return state, metrics

    def _fetch(self) -> _PrefetchedBatch:
        """Waits for the next batch and puts it on the devices."""
        start = time.monotonic()
        arrays = next(self._batches)
        wait_s = self._idle_since(start)
        if self._bad_records:
            self._bad_records.observe(arrays)
        batch = sharding.put_batch(self._mesh, arrays, self._config.train.microbatch)
        videos, frames = batch.frame_mask.shape
        work = Work(videos, videos * frames, wait_s)
        return _PrefetchedBatch(batch, arrays["video_id"], self._batches.get_state(), work)

    def _idle_since(self, start: float) -> float:
        """Seconds from `start` to now in which the devices had no step to compute."""
        now = time.monotonic()
        if self._pending is None:
            return now - start
        finished = self._pending.finished.seconds
        return 0.0 if finished is None else now - max(start, finished)

    def _prefetch(self, state: TrainState, data_state: dict[str, Any]) -> _PrefetchedBatch:
        """Fetches the next step's batch; saves before it lets an error pass."""
        try:
            return self._fetch()
        except Exception:
            # Only alone: other processes would take their next step and never join a save.
            if jax.process_count() == 1:
                self._save_and_wait(state, data_state)
            raise

    def _check_records(self, state: TrainState, data_state: dict[str, Any]) -> None:
        """Saves and raises in every process when one of them has too many bad records."""
        if self._bad_records and self._bad_records_flag(self._bad_records.too_many):
            self._save_and_wait(state, data_state)
            raise RunError(self._bad_records.summary())

    def _flush_metrics(self, state: TrainState) -> None:
        """Reads, shows and writes the metrics of the pending step, if there is one.

        Args:
            state: after the pending step or after the next one; saved when the metrics are bad.
        """
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        metrics = {name: float(value) for name, value in jax.device_get(pending.metrics).items()}
        if not metrics["finite"]:
            self._stop_not_finite(pending, metrics, state)
        self._progress.update(pending.step, metrics["loss"], pending.fetched.work)
        if pending.step % self._config.train.log_every == 0 or pending.step == 1:
            named = {f"train/{name}": value for name, value in metrics.items()}
            rates = self._progress.rates()
            if self._utilization:
                step_s = rates.get("time/step_s")
                rates |= self._utilization.metrics(pending.fetched.batch, step_s)
            if self._bad_records and self._bad_records.count:
                rates["data/bad_records"] = self._bad_records.count
            self._writer.write(pending.step, named | rates)

    def _validate(self, state: TrainState, data_state: dict[str, Any]) -> None:
        """Evaluates on the validation split; saves the state if it is the best so far.

        Beside it, the gradients of the terms are measured on the batch of the step before.
        """
        batch = self._pending.fetched.batch
        self._flush_metrics(state)
        step = int(state.step)
        if self._term_gradients:
            with self._progress.paused():
                self._writer.write(step, self._term_gradients(state.params, batch, state.step))
        if self._evaluate is None:
            return
        with self._progress.paused():
            metrics = self._evaluate(state.weights)
        self._writer.write(step, {f"validation/{k}": value for k, value in metrics.items()})
        score, weight = metrics["t2v/r1"], metrics.get("blend/weight", 0.0)
        with self._progress.paused():
            best = self._checkpoints.save_best(state, data_state, score, weight)
        self._progress.message(
            f"step {step}: validation T2V R@1 {score:.1f} % of {metrics['gallery']:.0f} videos"
            + (", the best so far" if best else "")
        )

    def _save(self, state: TrainState, data_state: dict[str, Any]) -> None:
        """Starts to save the state; metrics first, so that a resumed run has all lines before."""
        self._flush_metrics(state)
        with self._progress.paused():
            self._checkpoints.save_last(state, data_state)

    def _save_and_wait(self, state: TrainState, data_state: dict[str, Any]) -> None:
        """Saves the state and returns when it is on disk."""
        self._save(state, data_state)
        self._checkpoints.wait()

    def _stop_not_finite(
        self, pending: _PendingStep, metrics: dict[str, float], state: TrainState
    ) -> None:
        """Saves the state before the bad step, which left it unchanged, and raises."""
        names = ", ".join(self._name_videos(pending.fetched.video_ids))
        state = dataclasses.replace(state, finite=~state.finite)
        self._checkpoints.save_last(state, {"next_batch": pending.step - 1})
        self._checkpoints.wait()
        terms = ", ".join(f"{k} {v:.4g}" for k, v in sorted(metrics.items()) if k != "finite")
        raise RunError(
            f"the loss or its gradient is not finite at step {pending.step}: {terms}.\n"
            f"The batch: {names}.\n"
            f"The state after step {pending.step - 1}, the last good one, is saved in "
            f"{self._checkpoints.folder / 'last'}. Look at these videos, or start in another "
            "workdir with a lower optim.learning_rate or optim.clip_norm."
        )
