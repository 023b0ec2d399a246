"""Progress bars over videos, alike wherever data are made."""

import sys
from collections.abc import Iterable

from tqdm import tqdm


def bar_of(name: str, total: int, items: Iterable | None = None, disable: bool = False) -> tqdm:
    """A bar with videos a second and the time left; every ten seconds where there is no terminal.

    Args:
        name: what is shown in front.
        total: number of videos.
        items: iterated over by the bar; None for a bar that is moved on by `update`.
        disable: shows nothing.
    """
    seconds = 0.2 if sys.stderr.isatty() else 10.0
    return tqdm(items, name, total, unit="video", mininterval=seconds, disable=disable)
