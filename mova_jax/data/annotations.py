"""What is said of a folder of videos: a JSONL, one video or one cut of a video a line.

In:  captions.jsonl, with the fields of `FIELDS`.
Out: `read_annotations` gives the usable lines as `Item`s and the reasons against the others,
     `assign_splits` shares the items out over splits.
"""

import collections
import hashlib
import json
import math
import os
import posixpath
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mova_jax.data.records import Caption

FIELDS = """\
  video         path of the file, relative to the folder of the JSONL, inside of it
  caption       what happens in the video, one text of any length; or
  captions      its sentences in order: texts, or {"text", "start", "end"} with seconds.
                With both, `captions` are the caption and `caption` is an alternative
  alternatives  optional, further captions of the whole video: a list of texts
  id            optional, unique; otherwise the path (and the cut)
  start, end    optional, seconds: use only this part of the video. The times of sentences are
                always those of the file; sentences outside of the part are left out
  split         optional; otherwise shared out by --splits, cuts of one video together
Other fields are ignored."""

_SPLIT_NAMES = {"val": "validation", "valid": "validation"}
_SHOWN = 300  # characters of an id or a reason, which repeat what may be megabytes
LONGEST = 1e7  # seconds; what is beyond is no time in a video
SPLIT_NAME = re.compile(r"[a-z][a-z0-9_]*")


class InputError(Exception):
    """Input or settings from which nothing can be made; the message says what to do."""


class Item(NamedTuple):
    """A usable line of the JSONL."""

    id: str
    video: str  # relative path, without detours
    path: Path
    captions: tuple[Caption, ...]  # with the times of the file
    alternatives: tuple[str, ...]
    start: float
    end: float
    split: str  # '' when to be shared out
    warnings: tuple[str, ...]


def read_annotations(path: str | os.PathLike) -> tuple[list[Item], list[dict[str, str]]]:
    """Reads a JSONL.

    Returns:
        The usable lines in order, and {"id", "reason"} of the others.

    Raises:
        InputError: when there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no file {path}; --input is a JSONL, one video a line.")
    items, skipped, seen = [], [], {}
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            name = f"line {number}"
            try:
                fields = _fields(line)
                name = _identity(fields)
                if name in seen:
                    raise ValueError(f"the id was already used in line {seen[name]}")
                items.append(_item(name, fields, path.parent))
                seen[name] = number
            except ValueError as error:
                where = "" if name == f"line {number}" else f"line {number}: "
                skipped.append({"id": name[:_SHOWN], "reason": f"{where}{error}"[:_SHOWN]})
    return items, skipped


def _fields(line: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(line.strip())
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at column {error.colno})") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise ValueError(f"not a JSON object but {type(fields).__name__}")
    if not isinstance(fields.get("video"), str) or not fields["video"]:
        raise ValueError(f"`video` must be a path, got {fields.get('video')!r}")
    if "\0" in fields["video"] or _unicode(fields["video"]) != fields["video"]:
        raise ValueError(f"the path {fields['video']!r} has a null byte or is not valid Unicode")
    return fields


def _identity(fields: dict[str, Any]) -> str:
    name = fields.get("id")
    if name is None:
        cut = [fields.get("start"), fields.get("end")]
        name = fields["video"] + ("" if cut == [None, None] else f"#{cut[0]}-{cut[1]}")
    if isinstance(name, bool) or not isinstance(name, str | int) or not _clean(str(name)):
        raise ValueError(f"`id` must be a text, got {name!r}")
    return _clean(str(name))


def _item(name: str, fields: dict[str, Any], folder: Path) -> Item:
    video = fields["video"]
    inside = posixpath.normpath(video)
    if posixpath.isabs(video) or inside.split("/")[0] == "..":
        raise ValueError(f"the path {video!r} leaves the folder of the JSONL")
    start, end = fields.get("start"), fields.get("end")
    start, end = 0.0 if start is None else start, math.inf if end is None else end
    if not (_is_time(start) and (end == math.inf or _is_time(end)) and start < end):
        raise ValueError(f"the cut must have 0 <= start < end in seconds, got {start!r}, {end!r}")
    split = fields.get("split") or ""
    split = _SPLIT_NAMES.get(split, split) if isinstance(split, str) else None
    if split is None or (split and not SPLIT_NAME.fullmatch(split)):
        raise ValueError(f"`split` must be a lower case name, got {fields['split']!r}")
    captions, alternatives, warnings = _captions(fields)
    return Item(
        id=name,
        video=inside,
        path=folder / inside,
        captions=captions,
        alternatives=alternatives,
        start=float(start),
        end=float(end),
        split=split,
        warnings=warnings,
    )


def _captions(fields: dict[str, Any]):
    """The sentences, the alternatives and what was not in order about them."""
    whole, listed = fields.get("caption"), fields.get("captions")
    others = fields.get("alternatives") or []
    if not isinstance(whole, str | None) or not isinstance(listed, list | None):
        raise ValueError("`caption` must be a text and `captions` a list")
    if not isinstance(others, list) or not all(isinstance(text, str) for text in others):
        raise ValueError("`alternatives` must be a list of texts")
    sentences, warnings = [], []
    for position, entry in enumerate(listed or []):
        entry = {"text": entry} if isinstance(entry, str) else entry
        if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
            raise ValueError(f"captions[{position}] must be a text or have a `text`: {entry!r}")
        start, end = entry.get("start"), entry.get("end")
        timed = _is_time(start) and _is_time(end) and start < end
        if not timed and (start, end) != (None, None):
            warnings.append(
                f"captions[{position}] is kept without its times, which must be "
                f"0 <= start < end in seconds: {start!r}, {end!r}"
            )
        times = (float(start), float(end)) if timed else (-1.0, -1.0)
        sentences.append(Caption(_clean(entry["text"]), *times))
    sentences = [sentence for sentence in sentences if sentence.text]
    alternatives = [_clean(text) for text in ([whole] if whole else []) + others]
    alternatives = [text for text in alternatives if text]
    if not sentences:
        if not alternatives:
            raise ValueError("the caption is empty")
        sentences = [Caption(alternatives.pop(0))]
    return tuple(sentences), tuple(alternatives), tuple(warnings)


def _is_time(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 <= value < LONGEST


def _clean(text: str) -> str:
    """One line of valid Unicode without null bytes."""
    return " ".join(_unicode(text.replace("\0", " ")).split())


def _unicode(text: str) -> str:
    """The text without half characters, which JSON can express and files cannot hold."""
    return text.encode("utf-8", "replace").decode()


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
