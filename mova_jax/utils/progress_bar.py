"""Progress bars over videos, alike wherever data are made."""

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
    """A bar with videos a second and the time left; every ten seconds where there is no terminal.

    Args:
        name: what is shown in front.
        total: number of videos, or of another unit.
        items: iterated over by the bar; None for a bar that is moved on by `update`.
        disable: shows nothing.
        unit: what is counted.
        delay: seconds before it is shown; what is done by then shows nothing.
        initial: videos that were done before, which do not count as this call's speed.
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
    """Moves a bar on by a video of so many frames, and shows the frames a second so far."""
    bar.frames = getattr(bar, "frames", 0) + frames
    if not bar.disable and (elapsed := bar.format_dict["elapsed"]) > 0:
        bar.set_postfix_str(f"{bar.frames / elapsed:,.0f} frame/s", refresh=False)
    bar.update()
