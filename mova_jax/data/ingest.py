"""A folder of videos with a JSONL to frame shards: what `python -m mova_jax.prepare` does.

In:  captions.jsonl, one video (or one cut of a video) a line; the fields are in `FIELDS`.
Out: shards of every split, `tokenizer/`, and the manifest with all that was skipped and why.

Reading (`read_annotations`), sharing out over splits (`assign_splits`), decoding in parallel
(`decode_all`) and writing (`ingest`) are four steps that can be called one by one. The output is
the same, byte for byte, for any number of workers.
"""

import collections
import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import math
import multiprocessing
import os
import posixpath
import re
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from mova_jax.data import decode, shards, tokenizer

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

TOKENIZER = "tokenizer"
_SPLIT_NAMES = {"val": "validation", "valid": "validation"}
_SPLIT = re.compile(r"[a-z][a-z0-9_]*")


class InputError(Exception):
    """Input or settings from which nothing can be made; the message says what to do."""


@dataclasses.dataclass(frozen=True)
class IngestSettings:
    """What is asked of `ingest`.

    Attributes:
        fps: frames a second.
        short_side: of the stored frames, pixels; 0 keeps the videos' own size.
        splits: share of each split, for videos that name none.
        vocab_size: of the tokenizer that is learned.
        tokenizer: folder of a pretrained CLIP tokenizer to use instead, or ''.
        max_tokens: longer captions are counted in the manifest.
        name: of the data set.
        licence: a note for the manifest.
    """

    fps: float = 1.0
    short_side: int = 224
    splits: tuple[tuple[str, float], ...] = (("train", 0.8), ("validation", 0.1), ("test", 0.1))
    vocab_size: int = 4096
    tokenizer: str = ""
    max_tokens: int = tokenizer.MAX_TOKENS
    name: str = "clips"
    licence: str = ""


class Item(NamedTuple):
    """A usable line of the JSONL."""

    id: str
    video: str  # relative path
    path: Path
    captions: tuple[shards.Caption, ...]  # with the times of the file
    alternatives: tuple[str, ...]
    start: float
    end: float
    split: str  # '' when to be shared out
    warnings: tuple[str, ...]


class Decoded(NamedTuple):
    """What became of an item: a record, or the reason why there is none."""

    record: shards.VideoRecord | None
    reason: str
    warnings: tuple[str, ...]


# ------------------------------------------------------------------------------------ annotations


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
                skipped.append({"id": name, "reason": f"line {number}: {error}"})
    return items, skipped


def _fields(line: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise ValueError(f"not a JSON object but {type(fields).__name__}")
    if not isinstance(fields.get("video"), str) or not fields["video"]:
        raise ValueError(f"`video` must be a path, got {fields.get('video')!r}")
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
    if posixpath.isabs(video) or inside.split("/")[0] == ".." or "\0" in video:
        raise ValueError(f"the path {video!r} leaves the folder of the JSONL")
    start, end = fields.get("start"), fields.get("end")
    start, end = 0.0 if start is None else start, math.inf if end is None else end
    if not (_is_time(start) and (end == math.inf or _is_time(end)) and start < end):
        raise ValueError(f"the cut must have 0 <= start < end in seconds, got {start!r}, {end!r}")
    split = fields.get("split") or ""
    split = _SPLIT_NAMES.get(split, split) if isinstance(split, str) else None
    if split is None or (split and not _SPLIT.fullmatch(split)):
        raise ValueError(f"`split` must be a lower case name, got {fields['split']!r}")
    captions, alternatives, warnings = _captions(fields)
    return Item(
        id=name,
        video=video,
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
        sentences.append(shards.Caption(_clean(entry["text"]), *times))
    sentences = [sentence for sentence in sentences if sentence.text]
    alternatives = [_clean(text) for text in ([whole] if whole else []) + others]
    alternatives = [text for text in alternatives if text]
    if not sentences:
        if not alternatives:
            raise ValueError("the caption is empty")
        sentences = [shards.Caption(alternatives.pop(0))]
    return tuple(sentences), tuple(alternatives), tuple(warnings)


def _is_time(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and value >= 0


def _clean(text: str) -> str:
    """One line of valid Unicode without null bytes."""
    return " ".join(text.replace("\0", " ").encode("utf-8", "replace").decode().split())


# ----------------------------------------------------------------------------------------- splits


def assign_splits(items: Iterable[Item], shares: Iterable[tuple[str, float]]) -> list[Item]:
    """Shares out the items that name no split, by a hash of the video's path.

    So a video stays in its split when others are added, and cuts of one video stay together. A
    split that nothing fell into gets one video of the largest, as long as that has two.
    """
    items, shares = list(items), list(shares)
    points = {item.video: _point(item.video) for item in items if not item.split}
    bounds = np.cumsum([share for _, share in shares])
    of_video = {
        video: shares[min(int(np.searchsorted(bounds / bounds[-1], point, "right")), len(shares) - 1)][0]
        for video, point in points.items()
    }
    named = {item.split for item in items if item.split}
    for split, share in shares:
        counts = collections.Counter(of_video.values())
        if share > 0 and split not in named and not counts[split] and counts:
            largest, count = counts.most_common(1)[0]
            if count > 1:
                videos = [video for video, where in of_video.items() if where == largest]
                of_video[min(videos, key=points.get)] = split
    return [item if item.split else item._replace(split=of_video[item.video]) for item in items]


def _point(text: str) -> float:
    """A number in [0, 1) that depends on the text only."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


# --------------------------------------------------------------------------------------- decoding


def decode_item(item: Item, fps: float, short_side: int) -> Decoded:
    """Decodes one item to a record; whatever goes wrong becomes a reason, so that the rest goes on."""
    try:
        cut = {"start": item.start, "end": item.end}
        reader = decode.VideoReader(item.path, fps, short_side, **cut)
        frames, image, shape = [], None, (0, 0)
        for frame in reader:
            repeated = frame is image
            frames.append(frames[-1] if repeated else decode.encode_jpeg(frame))
            image, shape = frame, frame.shape
        captions, warnings = _place(item, reader.duration)
        if not captions:
            return Decoded(None, "no sentence lies within the cut", ())
        record = shards.VideoRecord(
            id=item.id,
            frames=tuple(frames),
            height=shape[0],
            width=shape[1],
            timestamps=np.arange(len(frames), dtype=np.float32) / np.float32(fps),
            duration=reader.duration,
            captions=captions,
            alternatives=item.alternatives,
            source=item.video,
        )
        return Decoded(record, "", (*item.warnings, *reader.warnings, *warnings))
    except decode.DecodeError as error:
        return Decoded(None, str(error), ())
    except Exception as error:
        return Decoded(None, f"{type(error).__name__}: {error}", ())


def _place(item: Item, duration: float) -> tuple[tuple[shards.Caption, ...], list[str]]:
    """Moves times from the file's clock to the cut's, and keeps them within it."""
    placed, warnings = [], []
    is_cut = (item.start, item.end) != (0.0, math.inf)
    for caption in item.captions:
        start = max(0.0, caption.start - item.start)
        end = min(duration, caption.end - item.start)
        if not caption.timed:
            placed.append(caption)
        elif start < end:
            placed.append(shards.Caption(caption.text, start, end))
        elif not is_cut:
            placed.append(shards.Caption(caption.text))
            warnings.append(
                f"a sentence is kept without its times, {caption.start} to {caption.end} s, "
                f"for the video ends at {duration:.1f} s"
            )
    return tuple(placed), warnings


def decode_all(
    items: Iterable[Item], work: Callable[[Item], Decoded], workers: int
) -> Iterator[tuple[Item, Decoded]]:
    """Yields (item, work(item)) in the order of the items.

    With more than one worker, a video on which a worker process dies costs that video only.
    """
    items = iter(items)
    if workers <= 1:
        yield from ((item, work(item)) for item in items)
        return
    pool = _pool(workers)
    pending: collections.deque = collections.deque()
    try:
        while True:
            for item in items:
                pending.append((item, pool.submit(work, item)))
                if len(pending) >= 4 * workers:
                    break
            if not pending:
                return
            item, future = pending.popleft()
            try:
                result = future.result()
            except BrokenProcessPool:
                result = _alone(item, work)
                pool.shutdown(wait=False)
                pool = _pool(workers)
                rest = [waiting for waiting, _ in pending]
                pending = collections.deque((it, pool.submit(work, it)) for it in rest)
            yield item, result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _alone(item: Item, work: Callable[[Item], Decoded]) -> Decoded:
    """Tries an item in a process of its own, for another one may have broken the pool."""
    with _pool(1) as pool:
        try:
            return pool.submit(work, item).result()
        except BrokenProcessPool:
            return Decoded(None, "the decoder's process died on it (a crash, or no memory)", ())


def _pool(workers: int) -> concurrent.futures.ProcessPoolExecutor:
    return concurrent.futures.ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=signal.signal,  # Ctrl-C is for the parent, which ends the workers
        initargs=(signal.SIGINT, signal.SIG_IGN),
    )
