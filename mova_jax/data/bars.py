"""Progress bars, alike wherever data are made or read."""

import sys
from collections.abc import Iterable

from tqdm import tqdm


def bar_of(
    name: str,
    total: int,
    items: Iterable | None = None,
    disable: bool = False,
    unit: str = "video",
    delay: float = 0.0,
) -> tqdm:
    """A bar with videos a second and the time left; every ten seconds where there is no terminal.

    Args:
        name: what is shown in front.
        total: number of videos, or of another unit.
        items: iterated over by the bar; None for a bar that is moved on by `update`.
        disable: shows nothing.
        unit: what is counted.
        delay: seconds before it is shown; what is done by then shows nothing.
    """
    seconds = 0.2 if sys.stderr.isatty() else 10.0
    return tqdm(items, name, total, unit=unit, mininterval=seconds, disable=disable, delay=delay)
