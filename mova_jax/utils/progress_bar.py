"""Progress bars over videos."""

import sys
from collections.abc import Iterable
from typing import TextIO

from tqdm import tqdm

# In place of a bar, where there is no terminal.
_LINE = (
    "{desc}: {percentage:3.0f}% {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
)


class _Lines:
    """Writes each state of a bar as a line of its own, for logs."""

    def __init__(self, stream: TextIO):
        self._stream, self._last = stream, ""

    def write(self, text: str) -> None:
        line = text.replace("\x1b[A", "").strip("\r\n ")  # moves of the cursor
        if line and line != self._last:
            self._stream.write(f"{line}\n")
            self._last = line

    def flush(self) -> None:
        self._stream.flush()


def bar_of(
    name: str,
    total: int,
    items: Iterable | None = None,
    disable: bool = False,
    *,
    unit: str = "video",
    delay: float = 0.0,
    initial: int = 0,
    unit_scale: bool = False,
) -> tqdm:
    """A bar with videos a second and the time left; without a terminal, a line every ten seconds.

    Args:
        name: the label in front.
        total: number of videos, or of another unit.
        items: iterated over by the bar; None for a bar that `update` advances.
        disable: shows nothing.
        unit: of the count.
        delay: seconds before it is shown; work that is done by then shows nothing.
        initial: videos that were done before, which do not count towards the speed.
        unit_scale: shows large counts as k, M and G.
    """
    live = sys.stderr.isatty()
    return tqdm(
        items,
        name,
        total,
        unit=unit,
        unit_scale=unit_scale,
        file=sys.stderr if live else _Lines(sys.stderr),
        bar_format=None if live else _LINE,
        mininterval=0.2 if live else 10.0,
        disable=disable,
        delay=delay,
        initial=initial,
    )


def show_frames(bar: tqdm, frames: int) -> None:
    """Advances a bar by a video of `frames` frames, and shows the frames a second so far."""
    bar.frames = getattr(bar, "frames", 0) + frames
    if not bar.disable and (elapsed := bar.format_dict["elapsed"]) > 0:
        bar.set_postfix_str(f"{bar.frames / elapsed:,.0f} frame/s", refresh=False)
    bar.update()
