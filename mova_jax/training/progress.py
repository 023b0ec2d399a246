"""The progress of a run on the console, and its rates.

    with Progress(total_steps, restored_step) as progress:
        for step in range(restored_step + 1, total_steps + 1):
            ...
            progress.update(step, loss, Work(videos, frames, data_wait_s))
            writer.write(step, {"train/loss": loss, **progress.rates()})

Shows a bar on a terminal, elsewhere a line every ten seconds; only process 0 prints. The rates are
metrics under `time/`: they depend on the clock, and all other metrics of a run that resumes are
those of a run that never stopped.
"""

import collections
import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, Self, TextIO

import jax
import tqdm
from jaxtyping import Array, Float

_BAR = "{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"


class Work(NamedTuple):
    """The size of a step over all devices and processes, and the devices' wait for its data."""

    videos: int
    frames: int  # of all its videos
    wait_s: float


class Progress:
    """Shows how far training is, and measures its rates over the last steps."""

    def __init__(
        self,
        total_steps: int,
        start_step: int,
        *,
        warmup_steps: int = 0,
        window: int = 50,
        started: float | None = None,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Starts at `start_step` of `total_steps`.

        Args:
            total_steps: Steps at the end of the run.
            start_step: Steps done before, by the run that this one resumes.
            warmup_steps: First steps of another size than the others: until they are done, the
                time left is not shown.
            window: Number of steps over which rates are measured. The first step of a process,
                which compiles, is never among them.
            started: When the process began, by `clock`, for the goodput; now by default.
            stream: Where to print; standard error by default.
            clock: Returns seconds.
        """
        self._total, self._step, self._warmup = total_steps, start_step, warmup_steps
        self._clock, self._paused_s = clock, 0.0
        self._started = clock() if started is None else started
        self._in_steps_s = 0.0
        self._ends: collections.deque[tuple[float, Work]] = collections.deque(maxlen=window + 1)
        self._stream = stream or sys.stderr
        self._silent = jax.process_index() != 0
        self._bar = None
        if not self._silent and self._stream.isatty():
            self._bar = tqdm.tqdm(
                desc="train",
                total=total_steps,
                initial=start_step,
                file=self._stream,
                bar_format=_BAR,
                dynamic_ncols=True,
            )
        self._every_s = 0.5 if self._bar is not None else 10.0
        self._next_draw = -math.inf

    def update(self, step: int, loss: float | Float[Array, ""], work: Work) -> None:
        """Counts a step; shows the progress every half second, or ten without a terminal.

        Args:
            step: Steps done.
            loss: Of this step. A device value is fetched only when it is shown, so that steps may
                run ahead in between.
            work: Of this step.
        """
        now = self._clock() - self._paused_s
        if self._ends and work[:2] != self._ends[-1][1][:2]:
            self._ends.clear()  # this step compiled; those before it had another size
        if self._ends:
            self._in_steps_s += max(now - self._ends[-1][0] - work.wait_s, 0.0)
        self._ends.append((now, work))
        self._step = step
        if not self._silent and (now >= self._next_draw or step == self._total):
            self._next_draw = now + self._every_s
            self._draw(float(loss))

    def rates(self) -> dict[str, float]:
        """Rates of the last steps of the current size; empty until two were done.

        Returns:
            `time/step_s`, `time/videos_per_s`, `time/frames_per_s` over all devices;
            `time/data_wait_share`, the share of the time in which the devices had nothing to
            compute, for the next batch was not there;
            `time/goodput`, the share of the time since this process began that it spent in steps
            and not in starting, compiling, waiting for data, evaluating or saving.
        """
        steps = len(self._ends) - 1
        if steps < 1:
            return {}
        seconds = max(self._ends[-1][0] - self._ends[0][0], 1e-9)
        done = [work for _, work in self._ends][1:]
        return {
            "time/step_s": seconds / steps,
            "time/videos_per_s": sum(work.videos for work in done) / seconds,
            "time/frames_per_s": sum(work.frames for work in done) / seconds,
            "time/data_wait_share": sum(work.wait_s for work in done) / seconds,
            "time/goodput": self._in_steps_s / max(self._clock() - self._started, 1e-9),
        }

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time of the block, such as an evaluation or a save, out of all rates."""
        start = self._clock()
        try:
            yield
        finally:
            self._paused_s += self._clock() - start

    def message(self, text: str) -> None:
        """Prints a line above the bar."""
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        elif not self._silent:
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Ends the bar; may be called twice."""
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _draw(self, loss: float) -> None:
        parts = [f"loss {loss:.4f}"]
        if rates := self.rates():
            left = tqdm.tqdm.format_interval((self._total - self._step) * rates["time/step_s"])
            parts += [
                f"{rates['time/videos_per_s']:.1f} videos/s",
                f"{rates['time/frames_per_s']:.0f} frames/s",
                f"data wait {rates['time/data_wait_share']:.0%}",
            ]
            if self._step > self._warmup:
                parts.append(f"{left} left")
        if self._bar is None:
            print(
                f"step {self._step}/{self._total}", *parts, sep=", ", file=self._stream, flush=True
            )
        else:
            self._bar.n = self._step
            self._bar.set_postfix_str(", ".join(parts), refresh=False)
            self._bar.refresh()
