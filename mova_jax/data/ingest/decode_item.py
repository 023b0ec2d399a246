"""Decodes items to records, in several processes.

    work = functools.partial(decode_item, fps=1.0, short_side=224)
    for item, (record, reason, warnings) in decode_all(items, work, workers=4): ...

Results come in the order of the items. A video that fails does not stop the others: its result has
a reason in place of a record.
"""

import collections
import concurrent.futures
import contextlib
import itertools
import json
import math
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

import numpy as np

from mova_jax.data.annotations import Item
from mova_jax.data.images import CODECS
from mova_jax.data.ingest import video_reader
from mova_jax.data.shards import Caption, VideoRecord
from mova_jax.data.storage import local_file
from mova_jax.data.worker_pool import exit_with_parent

DIED = "the decoder's process died on it (a crash, or no memory)"


class Decoded(NamedTuple):
    """A decoded item: its record, or the reason why it has none."""

    record: VideoRecord | None
    reason: str
    warnings: tuple[str, ...]


def decode_item(item: Item, fps: float, short_side: int, codec: str = "jpeg") -> Decoded:
    """Decodes one item to a record; every error becomes a reason."""
    try:
        return decode_or_raise(item, fps, short_side, codec)
    except Exception as error:
        return Decoded(None, reason_of(error), ())


def reason_of(error: Exception) -> str:
    """The reason to store for an error."""
    if isinstance(error, video_reader.DecodeError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def decode_or_raise(item: Item, fps: float, short_side: int, codec: str) -> Decoded:
    """Like `decode_item`, but raises errors.

    Raises:
        DecodeError: the video cannot be decoded.
        OSError: it cannot be read, or cannot be copied from its URL.
    """
    encode = CODECS[codec]
    frames, image, shape = [], None, (0, 0)
    with contextlib.ExitStack() as stack:
        try:
            path = stack.enter_context(local_file(item.path))
        except FileNotFoundError:
            raise video_reader.DecodeError("no such file") from None
        reader = video_reader.VideoReader(path, fps, short_side, start=item.start, end=item.end)
        for frame in reader:
            repeated = frame is image
            frames.append(frames[-1] if repeated else encode(frame))
            image, shape = frame, frame.shape
    captions, warnings = _place(item, reader.duration)
    if not captions:
        return Decoded(None, "no sentence lies within the cut", ())
    record = VideoRecord(
        id=item.id,
        frames=tuple(frames),
        height=shape[0],
        width=shape[1],
        timestamps=np.arange(len(frames), dtype=np.float32) / np.float32(fps),
        duration=reader.duration,
        captions=captions,
        alternatives=item.alternatives,
        source=item.video,
        truth=json.dumps({"domain": item.domain}) if item.domain else "",
    )
    return Decoded(record, "", (*item.warnings, *reader.warnings, *warnings))


def _place(item: Item, duration: float) -> tuple[tuple[Caption, ...], list[str]]:
    """Converts the times of sentences to the clock of the cut; drops sentences outside of it."""
    placed, warnings = [], []
    is_cut = (item.start, item.end) != (0.0, math.inf)
    for caption in item.captions:
        cut = [
            (max(0.0, start - item.start), min(duration, end - item.start))
            for start, end in caption.windows
        ]
        inside = [(start, end) for start, end in cut if start < end]
        if not caption.timed:
            placed.append(caption)
        elif inside:
            placed.append(Caption(caption.text, *inside[0], tuple(inside[1:])))
        elif not is_cut:
            placed.append(Caption(caption.text))
            warnings.append(
                f"a sentence is kept without its times, {caption.start} to {caption.end} s, "
                f"for the video ends at {duration:.1f} s"
            )
    return tuple(placed), warnings


def decode_all(
    items: Iterable[Any],
    work: Callable[[Any], Any],
    workers: int,
    *,
    died: Any = Decoded(None, DIED, ()),  # noqa: B008
    ahead: int = 4,
) -> Iterator[tuple[Any, Any]]:
    """Yields (item, work(item)) in the order of the items.

    With more than one worker, an item that kills its process is the only one that fails.

    Args:
        items: consumed as workers become free.
        work: a function of a module, or a partial of one.
        workers: processes; 0 or 1 works in this process.
        died: the result of an item that killed its process.
        ahead: how many items a worker may be ahead of the one that is yielded next.
    """
    items = iter(items)
    if workers <= 1:
        yield from ((item, work(item)) for item in items)
        return
    pool = _pool(workers)
    pending: collections.deque = collections.deque()
    try:
        while True:
            for item in itertools.islice(items, ahead * workers - len(pending)):
                pending.append((item, _submit(pool, work, item)))
            if not pending:
                return
            item, future = pending.popleft()
            try:
                result = future.result()
            except BrokenProcessPool:
                pool.shutdown(wait=False)
                rest = [item, *(waiting for waiting, _ in pending)]
                pending.clear()
                yield from _one_by_one(rest, work, died)
                pool = _pool(workers)
            else:
                yield item, result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _submit(pool, work: Callable[[Any], Any], item: Any) -> concurrent.futures.Future:
    """Submits an item; in a broken pool, its future fails like those that were pending."""
    try:
        return pool.submit(work, item)
    except BrokenProcessPool as error:
        future: concurrent.futures.Future = concurrent.futures.Future()
        future.set_exception(error)
        return future


def _one_by_one(items: list[Any], work: Callable[[Any], Any], died: Any):
    """Works on items in a pool of one process, to find the item that kills its process."""
    pool = _pool(1)
    try:
        for item in items:
            try:
                result = pool.submit(work, item).result()
            except BrokenProcessPool:
                pool.shutdown(wait=False)
                pool, result = _pool(1), died
            yield item, result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _pool(workers: int) -> concurrent.futures.ProcessPoolExecutor:
    return concurrent.futures.ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=exit_with_parent,
        initargs=(os.getpid(),),
    )
