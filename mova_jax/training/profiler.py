"""A profiler trace of some steps.

    python -m mova_jax.main ... --profile_steps=20:23
    tensorboard --logdir WORKDIR/profile      # or load the trace into Perfetto

Its named scopes are the parts of the method: vision_tower, text_tower, tmn, cmn, sfdm ...
"""

import os
from pathlib import Path

import jax

FOLDER = "profile"


class Trace:
    """Traces the steps from `first` to `last`, numbered from 1; none by default."""

    def __init__(self, workdir: str | os.PathLike = "", first: int = 0, last: int = 0):
        """Writes nothing before step `first`; the trace goes to `workdir`/profile."""
        self._folder, self._first, self._last = Path(workdir) / FOLDER, first, last
        self._running = False

    def before(self, step: int) -> None:
        """Call before each step is started."""
        if not self._running and self._first <= step <= self._last:
            jax.profiler.start_trace(self._folder)
            self._running = True

    def after(self, step: int, result) -> None:
        """Call after each step is started; waits for `result` of the last traced one."""
        if self._running and step >= self._last:
            jax.block_until_ready(result)
            self.close()

    def close(self) -> None:
        """Ends and writes the trace; may be called twice."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
