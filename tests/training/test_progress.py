"""Progress on the console and the rates, by a clock that the test moves."""

import io

import jax
import jax.numpy as jnp
import pytest

from mova_jax.training import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    """A clock that stands still until the test moves it."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def work(wait_s=0.0, videos=4, frames=32):
    return progress.Work(videos, frames, wait_s)


def test_only_process_0_prints(monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    stream = Terminal()
    with progress.Progress(10, 0, stream=stream) as bar:
        bar.update(1, 1.0, work(0.0))
        bar.message("hello")
    assert stream.getvalue() == ""


def test_rates_are_of_the_last_steps_without_the_first_and_pauses():
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
        "time/goodput": 1.5 / 62,  # half a second of the second step was waiting
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


def test_goodput_counts_from_the_start_of_the_process_and_no_step_that_compiles():
    clock = Clock()
    bar = progress.Progress(100, 0, stream=io.StringIO(), clock=clock, started=clock.now - 10)
    for videos, seconds in ((8, 40), (8, 5), (4, 30), (4, 5)):
        clock.now += seconds
        bar.update(1, 1.0, work(videos=videos))
    assert bar.rates()["time/goodput"] == pytest.approx(10 / 90)


def test_rates_restart_when_the_size_of_batches_changes():
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


def test_the_time_left_is_shown_after_the_warm_up():
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
