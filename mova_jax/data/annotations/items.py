"""What every reader of annotations yields: items, and the reasons against the entries left out.

An `Item` is one video, or one cut of a video, with its captions. Here are also the checks that all
readers share (texts, times, names of splits), and `assign_splits`, which shares items out over
splits where their owner names none.
"""

import collections
import dataclasses
import hashlib
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mova_jax.data.shards import Caption

SHOWN = 300  # characters of an id or a reason, which repeat what may be megabytes
LONGEST = 1e7  # seconds; what is beyond is no time in a video
QUERIES = CAPTION, ALL = "caption", "all"  # what asks for a video: its caption, or all it has
SPLIT_NAME = re.compile(r"[a-z][a-z0-9_]*")

_SPLIT_NAMES = {"val": "validation", "valid": "validation", "validate": "validation"}


class InputError(Exception):
    """Input or settings from which nothing can be made; the message says what to do."""


class Item(NamedTuple):
    """A usable entry: a video or a cut of it, with what is said of it."""

    id: str
    video: str  # relative path, without detours
    path: Path | str  # a text where it is a URL
    captions: tuple[Caption, ...]  # with the times of the file
    alternatives: tuple[str, ...]
    start: float
    end: float
    split: str  # '' when to be shared out
    warnings: tuple[str, ...]


@dataclasses.dataclass
class Reading:
    """What a reader made of a set of annotations.

    Attributes:
        items: the usable entries, in order.
        skipped: {"id", "reason"} of the others.
        source: what was read, for messages.
        hint: what an entry must look like, for the message when none is usable.
        expected: entries that each split should have, as its owner published them.
        named: entries that the annotations have, by split.
        found: those of them that are usable and have a file.
        missing: ids whose file is not in the videos folder, by split.
        unit: what is counted.
        queries: whether `caption` or `all` captions of a video ask for it, where it is tested.
    """

    items: list[Item] = dataclasses.field(default_factory=list)
    skipped: list[dict[str, str]] = dataclasses.field(default_factory=list)
    source: str = ""
    hint: str = ""
    expected: dict[str, int] = dataclasses.field(default_factory=dict)
    named: dict[str, int] = dataclasses.field(default_factory=dict)
    found: dict[str, int] = dataclasses.field(default_factory=dict)
    missing: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    unit: str = "videos"
    queries: str = CAPTION


def split_name(split: Any) -> str:
    """The name of a split as it is used here; '' where none is given.

    Raises:
        ValueError: when it cannot be one.
    """
    name = split or ""
    name = _SPLIT_NAMES.get(name, name) if isinstance(name, str) else None
    if name is None or (name and not SPLIT_NAME.fullmatch(name)):
        raise ValueError(f"`split` must be a lower case name, got {split!r}")
    return name


def cut_of(start: Any, end: Any) -> tuple[float, float]:
    """The part of a video that is used; None stands for its start or its end.

    Raises:
        ValueError: when these are no seconds in order.
    """
    start, end = 0.0 if start is None else start, math.inf if end is None else end
    if not (is_time(start) and (end == math.inf or is_time(end)) and start < end):
        raise ValueError(f"the cut must have 0 <= start < end in seconds, got {start!r}, {end!r}")
    return float(start), float(end)


def sentence_of(text: str, start: Any = None, end: Any = None) -> tuple[Caption, str]:
    """A sentence with its times, and what was wrong with the times ('' when nothing was)."""
    timed = is_time(start) and is_time(end) and start < end
    times = (float(start), float(end)) if timed else (-1.0, -1.0)
    wrong = ""
    if not timed and (start, end) != (None, None):
        wrong = (
            "is kept without its times, which must be "
            f"0 <= start < end in seconds: {start!r}, {end!r}"
        )
    return Caption(clean(text), *times), wrong


def is_time(value: Any) -> bool:
    """Whether a value is a number of seconds that a video may have."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 <= value < LONGEST


def clean(text: str) -> str:
    """One line of valid Unicode without null bytes."""
    return " ".join(valid_unicode(text.replace("\0", " ")).split())


def valid_unicode(text: str) -> str:
    """The text without half characters, which JSON can express and files cannot hold."""
    return text.encode("utf-8", "replace").decode()


def skipped_entry(name: str, reason: object) -> dict[str, str]:
    """An entry of `Reading.skipped`, cut to what a person reads."""
    return {"id": str(name)[:SHOWN], "reason": str(reason)[:SHOWN]}


def assign_splits(items: Iterable[Item], shares: Iterable[tuple[str, float]]) -> list[Item]:
    """Shares out the items that name no split, by a hash of the video's path.

    So a video stays in its split when others are added, and cuts of one video stay together. A
    split that nothing fell into gets one video of the largest, as long as that has two.
    """
    items, shares = list(items), list(shares)
    named = {item.video: item.split for item in items if item.split}
    points = {item.video: _point(item.video) for item in items if item.video not in named}
    bounds = np.cumsum([share for _, share in shares])
    bounds = bounds / bounds[-1]
    of_video = {
        video: shares[int(np.searchsorted(bounds, point, "right"))][0]
        for video, point in points.items()
    }
    for split, share in shares:
        counts = collections.Counter(of_video.values())
        if share > 0 and split not in named.values() and not counts[split] and counts:
            largest, count = counts.most_common(1)[0]
            if count > 1:
                videos = [video for video, where in of_video.items() if where == largest]
                of_video[min(videos, key=points.get)] = split
    of_video |= named
    return [item if item.split else item._replace(split=of_video[item.video]) for item in items]


def _point(text: str) -> float:
    """A number in [0, 1) that depends on the text only."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48
