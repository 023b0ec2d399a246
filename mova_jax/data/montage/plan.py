"""The plan of a montage: which items it shows, for how long, and which of them it names.

    plans = draw_plans(seed=0, split="test", available=1000, videos=128, settings=settings)
    plans[0]                    # [Shown(item=7, frames=5, named=False), ...]

In `train` items are drawn for each video by itself. In every other split an item that a video names
is in no other video, neither named nor unnamed, so that a caption has one right answer.
"""

import dataclasses
import math
import zlib
from typing import NamedTuple

import numpy as np

from mova_jax.data.annotations import InputError

TRAIN = "train"


class Shown(NamedTuple):
    """An item of a montage."""

    item: int  # its number in its split
    frames: int  # how many are stored while it is shown, each for `PlanSettings.every` seconds
    named: bool  # whether the caption speaks of it


@dataclasses.dataclass(frozen=True)
class PlanSettings:
    """Lengths of montages; pairs are the lowest and the highest value, all equally likely."""

    items: tuple[int, int] = (12, 12)  # in a video
    duration: tuple[float, float] | None = None  # of a video, seconds, in place of `items`
    named: tuple[int, int] = (4, 4)  # items that the caption names; fewer in a video of fewer
    seconds: tuple[float, float] = (5.0, 15.0)  # an item is shown, rounded to multiples of `every`
    every: float = 1.0  # seconds between two stored frames

    @property
    def frames(self) -> tuple[int, int]:
        """Frames of an item, lowest and highest."""
        low, high = (seconds / self.every for seconds in self.seconds)
        return max(1, math.ceil(low - 1e-9)), math.floor(high + 1e-9)

    def check(self) -> None:
        """Checks the settings.

        Raises:
            InputError: names the setting, its value and what it must be.
        """
        low, high = self.frames if 0 < self.every < math.inf else (1, 0)
        wrong = [
            ("items", self.items, "1 or more", 1 <= self.items[0] <= self.items[1]),
            ("named", self.named, "1 or more", 1 <= self.named[0] <= self.named[1]),
            (
                "duration",
                self.duration,
                "seconds, at least those of an item",
                self.duration is None or self.seconds[1] <= self.duration[0] <= self.duration[1],
            ),
            (
                "seconds",
                self.seconds,
                f"above 0, with a multiple of every = {self.every} seconds between them",
                0 < self.seconds[0] <= self.seconds[1] < math.inf and low <= high,
            ),
        ]
        for key, value, expected, fits in wrong:
            if not fits:
                raise InputError(f"{key} must be {expected}, lowest first; got {value}.")


def draw_plans(
    seed: int, split: str, available: int, videos: int, settings: PlanSettings
) -> list[list[Shown]]:
    """The plans of all videos of a split; they depend on the arguments alone.

    Args:
        seed: not negative.
        split: its name.
        available: items of the split.
        videos: to plan.
        settings: of their lengths.

    Raises:
        InputError: the split has too few items.
    """
    key = np.random.SeedSequence([seed, zlib.crc32(split.encode())])
    first, *each = (np.random.default_rng(k) for k in key.spawn(videos + 1))
    frames = [_lengths(rng, settings) for rng in each]
    named = [
        min(len(counts), int(rng.integers(settings.named[0], settings.named[1] + 1)))
        for rng, counts in zip(each, frames, strict=True)
    ]
    order = first.permutation(available)
    total = 0 if split == TRAIN else sum(named)
    others = max(len(f) - (n if total else 0) for f, n in zip(frames, named, strict=True))
    if total + others > available:
        raise InputError(
            f"{split} has {available:,} pictures or clips, too few for {videos:,} videos with up "
            f"to {max(map(len, frames)):,} each, which need {total + others:,}"
            + (" (outside of train, one that is named is in one video only)" if total else "")
            + ": make fewer videos, with fewer items."
        )
    plans, done = [], 0
    for rng, counts, n in zip(each, frames, named, strict=True):
        if total:
            own, done = order[done : done + n], done + n
            rest = rng.choice(order[total:], len(counts) - n, replace=False)
        else:
            drawn = rng.permutation(available)[: len(counts)]
            own, rest = drawn[:n], drawn[n:]
        plans.append(_mixed(rng, own, rest, counts))
    return plans


def _lengths(rng: np.random.Generator, settings: PlanSettings) -> list[int]:
    """The frames of each item of a video."""
    low, high = settings.frames
    if settings.duration is None:
        return rng.integers(low, high + 1, rng.integers(*settings.items, endpoint=True)).tolist()
    left = round(rng.uniform(*settings.duration) / settings.every)
    counts = []
    while left > 0:
        count = int(rng.integers(low, high + 1))
        counts.append(count if left - count >= low else left)  # the last may be longer or shorter
        left -= counts[-1]
    return counts


def _mixed(rng: np.random.Generator, own, rest, counts: list[int]) -> list[Shown]:
    """Named and other items in random order."""
    items = [*((int(i), True) for i in own), *((int(i), False) for i in rest)]
    order = rng.permutation(len(items))
    return [
        Shown(items[at][0], frames, items[at][1]) for at, frames in zip(order, counts, strict=True)
    ]
