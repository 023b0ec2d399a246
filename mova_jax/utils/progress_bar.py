"""Progress bars over videos."""

import sys
from collections.abc import Iterable

from tqdm import tqdm


def bar_of(
    name: str,
    total: int,
    items: Iterable | None = None,
    disable: bool = False,
    *,
    unit: str = "video",
    delay: float = 0.0,
    initial: int = 0,
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
    """
    return tqdm(
        items,
        name,
        total,
        unit=unit,
        mininterval=0.2 if sys.stderr.isatty() else 10.0,
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
