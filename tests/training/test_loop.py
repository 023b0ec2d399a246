"""The loop with simulated time, a step without a model, and saves that only count."""

import io
import threading
import time
from types import SimpleNamespace
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from mova_jax.parallel import mesh as mesh_lib
from mova_jax.training.bad_records import BadRecords
from mova_jax.training.loop import Loop, StopSignal, _FinishTime
from mova_jax.training.progress import Progress
from mova_jax.training.workdir import RunError
from mova_jax.utils.metric_log import MetricWriter, read_metrics
from tests import tiny


class State(NamedTuple):
    step: int
    params: None = None
    weights: None = None


class Batches:
    def __iter__(self):
        return self

    def __next__(self):
        return tiny.batch_arrays()

    def get_state(self):
        return {}


class Simulation:
    """Times of a loop: 1 s a step, 100 s a save, 1,000 s the best one, 10,000 s an evaluation."""

    def __init__(self):
        self.now, self.saved = 0.0, []

    def clock(self):
        return self.now

    def step(self, state, batch):
        self.now += 1
        return State(state.step + 1), {"loss": jnp.float32(1), "finite": jnp.bool_(True)}

    def evaluate(self, weights):
        self.now += 10_000
        return {"t2v/r1": 0.0, "gallery": 8.0}

    def save_last(self, state, data_state):
        self.now += 100
        self.saved.append(state.step)

    def save_best(self, *_):
        self.now += 1000
        return True

    def wait(self):
        pass

    def run(self, workdir, batches=None, **parts):
        """The progress after eight steps, with saves every two and evaluations every four."""
        progress = Progress(8, 0, stream=io.StringIO(), clock=self.clock)
        every = {"train__log_every": 1, "train__checkpoint_every": 2, "train__eval_every": 4}
        config = tiny.config(train__steps=8, **every)
        with MetricWriter(workdir, tensorboard=False) as writer:
            loop = Loop(
                config,
                mesh_lib.make_mesh(data=1),
                self.step,
                batches or Batches(),
                checkpoints=self,
                writer=writer,
                progress=progress,
                evaluate=self.evaluate,
                name_videos=list,
                **parts,
            )
            loop.run(State(0), StopSignal())
        return progress


def test_saving_and_evaluating_count_in_no_rate(tmp_path):
    simulation = Simulation()
    progress = simulation.run(tmp_path)
    assert simulation.now > 20_000
    assert set(simulation.saved) == {2, 4, 6, 8}
    # The host reads the metrics of a step one step later, but for the last before a save.
    assert progress.rates()["time/step_s"] == pytest.approx(1.0, rel=0.2)


def test_gradients_of_terms_are_measured_on_the_last_batch_and_count_in_no_rate(tmp_path):
    simulation, measured = Simulation(), []

    def term_gradients(params, batch, step):
        simulation.now += 5000
        measured.append((int(batch.video_id[0]), int(step)))
        return {"gradient/frame/tmn": float(len(measured))}

    class Numbered(Batches):
        count = 0

        def __next__(self):
            self.count += 1
            return tiny.batch_arrays() | {"video_id": np.full(tiny.B, self.count)}

    progress = simulation.run(tmp_path, Numbered(), term_gradients=term_gradients)
    rows = [row for row in read_metrics(tmp_path / "metrics.jsonl") if "gradient/frame/tmn" in row]
    assert [(row["step"], row["gradient/frame/tmn"]) for row in rows] == [(4, 1), (8, 2)]
    assert measured == [(4, 4), (8, 8)]
    assert progress.rates()["time/step_s"] == pytest.approx(1.0, rel=0.2)


def test_only_waiting_after_the_devices_are_done_counts():
    """Of a wait of 1.2 s, the devices compute for 1.0: 0.2 s are lost, and none while they work."""
    step = SimpleNamespace(finished=SimpleNamespace(seconds=None))
    loop = SimpleNamespace(_pending=step)
    start = time.monotonic() - 1.2
    assert Loop._idle_since(loop, start) == 0.0
    step.finished.seconds = start + 1.0
    assert Loop._idle_since(loop, start) == pytest.approx(0.2, abs=0.1)
    step.finished.seconds = start - 5.0  # before the wait began
    assert Loop._idle_since(loop, start) == pytest.approx(1.2, abs=0.1)
    loop._pending = None
    assert Loop._idle_since(loop, start) == pytest.approx(1.2, abs=0.1)


def test_the_end_of_a_step_is_noted_when_its_metrics_are_there():
    done = threading.Event()
    finished = _FinishTime({"loss": SimpleNamespace(block_until_ready=done.wait)})
    assert finished.seconds is None
    done.set()
    for _ in range(1000):
        if finished.seconds is not None:
            break
        time.sleep(0.01)
    assert finished.seconds <= time.monotonic()


def test_too_many_bad_records_save_the_state_and_stop_the_run(tmp_path):
    class Unreadable(Batches):
        def __next__(self):
            arrays, first = tiny.batch_arrays(), len(reported)
            frame_mask = arrays["frame_mask"] & False
            return arrays | {"frame_mask": frame_mask, "video_id": first + np.arange(tiny.B)}

    reported, simulation = [], Simulation()
    bad_records = BadRecords(str, reported.append)
    with pytest.raises(RunError, match="too many records are damaged"):
        simulation.run(tmp_path, Unreadable(), bad_records=bad_records)
    # The third batch of four is read after the second step.
    assert simulation.saved[-1] == 2
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["data/bad_records"]) for row in rows] == [(1, 8), (2, 12)]
