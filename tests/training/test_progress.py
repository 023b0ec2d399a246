import io
import json
import math
import struct
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest
from tensorboardX.proto.event_pb2 import Event

from mova_jax.parallel import mesh as mesh_lib
from mova_jax.training import progress
from mova_jax.training.loop import Loop, StopSignal
from tests import tiny


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class State(NamedTuple):
    step: int
    weights: None = None


def work(wait_s=0.0, videos=4, frames=32):
    """A step of so many videos, with so many frames in all."""
    return progress.Work(videos, frames, wait_s)


def write_run(workdir, steps, *, resume_step=None, **options):
    """A run of one line a step; its metrics are the same whenever a step is done."""
    with progress.MetricWriter(workdir, resume_step=resume_step, **options) as writer:
        for step in steps:
            writer.write(step, {"train/loss": 1 / (step + 3), "train/lr": 1e-4 * step})


def read_events(workdir):
    events = []
    for path in sorted((workdir / progress.TENSORBOARD_FOLDER).iterdir()):
        data = path.read_bytes()
        while data:  # length u64, its checksum u32, the event, its checksum u32
            (length,) = struct.unpack("<Q", data[:8])
            events.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return events


def test_metrics_are_one_json_object_a_line_with_step_and_flat_names(tmp_path):
    with progress.MetricWriter(tmp_path / "new" / "run") as writer:
        writer.write(3, {"train/loss": jnp.float32(0.5), "test/t2v/r1": 25.0})
        # Read before the file is closed: every line is flushed.
        lines = (tmp_path / "new" / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 3, "train/loss": 0.5, "test/t2v/r1": 25.0}
    ]


def test_resumed_file_is_the_one_of_a_run_never_stopped(tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    write_run(whole, range(1, 10), tensorboard=False)
    write_run(stopped, range(1, 8), tensorboard=False)
    with (stopped / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "train/lo')  # killed while writing

    write_run(stopped, range(5, 10), resume_step=4, tensorboard=False)

    assert (stopped / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert [path.name for path in stopped.iterdir()] == ["metrics.jsonl"]


def test_a_run_from_nothing_drops_what_an_unsaved_one_left(tmp_path):
    write_run(tmp_path, range(0, 5), tensorboard=False)
    write_run(tmp_path, range(0, 2), tensorboard=False)
    assert [row["step"] for row in progress.read_metrics(tmp_path / "metrics.jsonl")] == [0, 1]


def test_values_that_are_not_finite_survive_writing_resuming_and_reading(tmp_path):
    with progress.MetricWriter(tmp_path, tensorboard=False) as writer:
        writer.write(1, {"train/loss": math.nan, "train/grad_norm": math.inf})
    write_run(tmp_path, [2], resume_step=1, tensorboard=False)

    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    first, second = progress.read_metrics(tmp_path / "metrics.jsonl")
    assert math.isnan(first["train/loss"]) and math.isnan(first["train/grad_norm"])
    assert second["train/loss"] == 0.2


@pytest.mark.parametrize("line", ["{not json}", "[1, 2]", '{"loss": 1}', '{"step": null}', ""])
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n' + line + '\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: expected a JSON object"):
        progress.read_metrics(path)


def test_tensorboard_gets_the_values_and_hides_the_dropped_steps(tmp_path):
    write_run(tmp_path, range(1, 6))
    first = read_events(tmp_path)
    write_run(tmp_path, range(4, 6), resume_step=3)

    values = {(e.step, v.tag): v.simple_value for e in first for v in e.summary.value}
    assert values[2, "train/loss"] == pytest.approx(0.2)
    assert len(values) == 10
    purged_from = [e.step for e in read_events(tmp_path) if e.HasField("session_log")]
    assert purged_from[-1] == 4


def test_only_process_0_writes_and_prints(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    write_run(tmp_path, range(3))
    stream = Terminal()
    with progress.Progress(10, 0, stream=stream) as bar:
        bar.update(1, 1.0, work(0.0))
        bar.message("hello")
    assert list(tmp_path.iterdir()) == []
    assert stream.getvalue() == ""


def test_rates_are_those_of_the_last_steps_without_the_first_and_pauses():
    clock = Clock()
    bar = progress.Progress(100, 0, window=3, stream=io.StringIO(), clock=clock)
    assert bar.rates() == {}
    clock.now += 60  # compiling
    bar.update(1, 1.0, work(30.0))
    assert bar.rates() == {}

    clock.now += 2
    bar.update(2, 1.0, work(0.5))
    expected = {
        "time/step_s": 2.0,
        "time/videos_per_s": 2.0,
        "time/frames_per_s": 16.0,
        "time/data_wait_share": 0.25,
        "time/goodput": 1.5 / 62,  # of two seconds of the second step one half was waiting
    }
    assert bar.rates() == pytest.approx(expected)

    with bar.paused():
        clock.now += 1000
    for step in (3, 4, 5):
        clock.now += 1
        bar.update(step, 1.0, work(0.0))
    assert bar.rates()["time/step_s"] == pytest.approx(1.0)
    assert bar.rates()["time/data_wait_share"] == 0.0
    assert bar.rates()["time/goodput"] == pytest.approx(4.5 / 1065)


def test_the_time_of_saving_and_of_validation_is_not_that_of_steps(tmp_path):
    clock = Clock()

    class Saves:
        def save_last(self, *_):
            clock.now += 100

        def save_best(self, *_):
            clock.now += 1000
            return True

        def wait(self):
            pass

    class Batches:
        def __iter__(self):
            return self

        def __next__(self):
            return tiny.batch_arrays()

        def get_state(self):
            return {}

    def step(state, batch):
        clock.now += 1
        return State(state.step + 1), {"loss": jnp.float32(1), "finite": jnp.bool_(True)}

    def evaluate(weights):
        clock.now += 10_000
        return {"t2v/r1": 0.0, "gallery": 8.0}

    bar = progress.Progress(8, 0, stream=io.StringIO(), clock=clock)
    config = tiny.config(train__steps=8, train__checkpoint_every=2, train__eval_every=4)
    with progress.MetricWriter(tmp_path, tensorboard=False) as writer:
        made = {"checkpoints": Saves(), "writer": writer, "progress": bar, "evaluate": evaluate}
        mesh = mesh_lib.make_mesh(data=1)
        loop = Loop(config, mesh, step, Batches(), name_videos=list, **made)
        loop.run(State(0), StopSignal())
    assert clock.now > 20_000
    # The host reads a step's metrics a step later, but for the last before a save.
    assert bar.rates()["time/step_s"] == pytest.approx(1.0, rel=0.2)


def test_goodput_counts_from_the_start_of_the_process_and_no_step_that_compiles():
    clock = Clock()
    bar = progress.Progress(100, 0, stream=io.StringIO(), clock=clock, started=clock.now - 10)
    for videos, seconds in ((8, 40), (8, 5), (4, 30), (4, 5)):
        clock.now += seconds
        bar.update(1, 1.0, work(videos=videos))
    assert bar.rates()["time/goodput"] == pytest.approx(10 / 90)


def test_rates_begin_anew_where_batches_change():
    clock = Clock()
    bar = progress.Progress(100, 0, stream=io.StringIO(), clock=clock)
    for step in (1, 2, 3):
        clock.now += 1
        bar.update(step, 1.0, work(videos=100, frames=100))
    assert bar.rates()["time/frames_per_s"] == pytest.approx(100)
    clock.now += 60  # compiling for the new shape
    bar.update(4, 1.0, work())
    assert bar.rates() == {}
    clock.now += 2
    bar.update(5, 1.0, work())
    assert bar.rates()["time/frames_per_s"] == pytest.approx(16)


def test_the_time_left_is_told_when_the_warm_up_is_over():
    clock, stream = Clock(), io.StringIO()
    with progress.Progress(60, 0, warmup_steps=20, stream=stream, clock=clock) as bar:
        for step in range(1, 41):
            clock.now += 1
            bar.update(step, 1.0, work())
    lines = stream.getvalue().splitlines()
    assert ["left" in line for line in lines] == [False, False, True, True]


def test_without_a_terminal_a_line_every_ten_seconds_and_at_the_end():
    clock, stream = Clock(), io.StringIO()
    with progress.Progress(50, 10, stream=stream, clock=clock) as bar:
        for step in range(11, 51):
            clock.now += 1
            bar.update(step, jnp.float32(step), work(0.25))
    lines = stream.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines] == [
        f"step {step}/50" for step in (11, 21, 31, 41, 50)
    ]
    assert lines[1] == (
        "step 21/50, loss 21.0000, 4.0 videos/s, 32 frames/s, data wait 25%, 00:29 left"
    )


def test_loss_is_fetched_only_when_it_is_shown():
    clock = Clock()
    fetched = []

    class Loss:
        def __float__(self):
            fetched.append(clock.now)
            return 1.0

    bar = progress.Progress(1000, 0, stream=io.StringIO(), clock=clock)
    for step in range(1, 101):
        clock.now += 0.25
        bar.update(step, Loss(), work(0.0))
    assert fetched == [100.25, 110.25, 120.25]


def test_bar_on_a_terminal_starts_at_the_resumed_step_and_lets_messages_through():
    clock, stream = Clock(), Terminal()
    with progress.Progress(20, 5, stream=stream, clock=clock) as bar:
        for step in (6, 7):
            clock.now += 1
            bar.update(step, 2.5, work(0.0))
        bar.message("validation/t2v/r1 12.5")
    text = stream.getvalue()
    assert "| 5/20 [" in text and "| 7/20 [" in text
    assert "loss 2.5000, 4.0 videos/s, 32 frames/s, data wait 0%, 00:13 left" in text
    assert "validation/t2v/r1 12.5\n" in text
