"""The results of all readers of annotations: items, and skipped entries with their reasons.

An `Item` is one video, or one cut of a video, with its captions. The checks that all readers share
(texts, times, names of splits) are here too, and `assign_splits`, which distributes items over
splits where the annotations name none.
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

SHOWN = 300  # characters of an id or a reason, which may quote megabytes
LONGEST = 1e7  # seconds; larger numbers are no time in a video
QUERIES = CAPTION, ALL = "caption", "all"  # the queries for a video: its caption, or all captions
SPLIT_NAME = re.compile(r"[a-z][a-z0-9_]*")

_SPLIT_NAMES = {"val": "validation", "valid": "validation", "validate": "validation"}


class InputError(Exception):
    """Input or settings that cannot be used; the message says what to do."""


class Item(NamedTuple):
    """A usable entry: a video, or a cut of it, with its captions."""

    id: str
    video: str  # normalised relative path
    path: Path | str  # a str when it is a URL
    captions: tuple[Caption, ...]  # with the times of the file
    alternatives: tuple[str, ...]
    start: float
    end: float
    split: str  # '' when it is assigned later
    warnings: tuple[str, ...]
    domain: str = ""  # such as surveillance; evaluations can tell domains apart


@dataclasses.dataclass
class Reading:
    """The result of reading annotations.

    Attributes:
        items: the usable entries, in order.
        skipped: {"id", "reason"} of the others.
        warnings: {"id", "reason"} of files that were read, but not as a matter of course.
        source: name of the annotations, for messages.
        hint: the form of an entry, for the message when none is usable.
        expected: published number of entries of each split.
        named: number of entries in the annotations, by split.
        found: number of those that are usable and have a file.
        missing: ids without a file in the videos folder, by split.
        unit: of these numbers.
        queries: the queries in evaluation: the `caption` of a video, or `all` its captions.
    """

    items: list[Item] = dataclasses.field(default_factory=list)
    skipped: list[dict[str, str]] = dataclasses.field(default_factory=list)
    warnings: list[dict[str, str]] = dataclasses.field(default_factory=list)
    source: str = ""
    hint: str = ""
    expected: dict[str, int] = dataclasses.field(default_factory=dict)
    named: dict[str, int] = dataclasses.field(default_factory=dict)
    found: dict[str, int] = dataclasses.field(default_factory=dict)
    missing: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    unit: str = "videos"
    queries: str = CAPTION


def split_name(split: Any) -> str:
    """The normalised name of a split; '' where none is given.

    Raises:
        ValueError: when it is no name of a split.
    """
    name = split or ""
    name = _SPLIT_NAMES.get(name, name) if isinstance(name, str) else None
    if name is None or (name and not SPLIT_NAME.fullmatch(name)):
        raise ValueError(f"`split` must be a lower case name, got {split!r}")
    return name


def cut_of(start: Any, end: Any) -> tuple[float, float]:
    """The part of a video that is used, in seconds; None means its start or its end.

    Raises:
        ValueError: when these are no times in order.
    """
    start, end = 0.0 if start is None else start, math.inf if end is None else end
    if not (is_time(start) and (end == math.inf or is_time(end)) and start < end):
        raise ValueError(f"the cut must have 0 <= start < end in seconds, got {start!r}, {end!r}")
    return float(start), float(end)


def sentence_of(
    text: str, start: Any = None, end: Any = None, others: Iterable[list] = ()
) -> tuple[Caption, str]:
    """A sentence with its times, and the fault of the times or ''.

    Args:
        text: the sentence.
        start: of its window, seconds; None without.
        end: of its window, seconds; None without.
        others: further windows [start, end], none longer than the first; empty ones are left out.
    """
    timed = is_time(start) and is_time(end) and start < end
    times = (float(start), float(end)) if timed else (-1.0, -1.0)
    more = tuple((float(first), float(last)) for first, last in others if first < last)
    wrong = ""
    if not timed and (start, end) != (None, None):
        wrong = (
            "is kept without its times, which must be "
            f"0 <= start < end in seconds: {start!r}, {end!r}"
        )
    return Caption(clean(text), *times, more), wrong


def longest_first(windows: Any, name: str) -> tuple[float, float, list[list[float]]]:
    """Start and end of the longest of several windows, and the others in their order.

    What reads one window of a sentence takes the longest.

    Raises:
        ValueError: when they are no list of [start, end]; names the field.
    """
    if not (isinstance(windows, list) and windows and all(map(is_span, windows))):
        raise ValueError(f"`{name}` must be a list of [start, end] in seconds, got {windows!r}")
    longest = max(range(len(windows)), key=lambda i: windows[i][1] - windows[i][0])
    return *windows[longest], windows[:longest] + windows[longest + 1 :]


def is_span(value: Any) -> bool:
    """Whether a value is a list of two numbers of seconds."""
    return isinstance(value, list) and len(value) == 2 and all(map(is_time, value))


def is_time(value: Any) -> bool:
    """Whether a value is a number of seconds that a video may have."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 <= value < LONGEST


def clean(text: str) -> str:
    """One line of valid Unicode without null bytes."""
    return " ".join(valid_unicode(text.replace("\0", " ")).split())


def valid_unicode(text: str) -> str:
    """The text without lone surrogates, which JSON can express and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()


def is_unicode(name: str) -> bool:
    """Whether the name of a file is UTF-8 on the disk; others have lone surrogates here."""
    return valid_unicode(name) == name


def printable(text: str) -> str:
    """The text with lone surrogates as escapes, so that names of files stay different."""
    return text.encode(errors="backslashreplace").decode()


def noted(name: str, reason: object) -> dict[str, str]:
    """An entry of `Reading.skipped` or `Reading.warnings`, cut to a readable length."""
    return {"id": printable(str(name))[:SHOWN], "reason": printable(str(reason))[:SHOWN]}


def assign_splits(items: Iterable[Item], shares: Iterable[tuple[str, float]]) -> list[Item]:
    """Distributes the items without a split over splits, by a hash of the path of the video.

    So a video keeps its split when others are added, and cuts of one video stay together. An empty
    split gets one video of the largest split, if that has at least two.
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
