"""Tasks: one record to make, under a key that names all it depends on.

    tasks = tasks_of(items, options)
    run_task(tasks[0], partial_output, options)    # in any process that sees the videos

The key is a hash of everything that the record depends on and of nothing else, so a stored record
with that key is the one that the task would make. `to_json` and `from_json` carry tasks to other
machines.
"""

import dataclasses
import errno
import functools
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from mova_jax.data import storage
from mova_jax.data.annotations import Item
from mova_jax.data.ingest.decode_item import decode_or_raise, reason_of
from mova_jax.data.ingest.partial_output import ItemResult, PartialOutput
from mova_jax.data.shards import SCHEMA_VERSION, Caption, ShardError, serialize

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
# Their versions decide the pixels of a frame and the bytes that store it.
_LIBRARIES = ("av", "pillow", "simplejpeg")


@dataclasses.dataclass(frozen=True)
class DecodeOptions:
    """How videos become records.

    Attributes:
        fps: frames a second.
        short_side: of the frames, pixels; 0 keeps the size of the video.
        codec: a key of `images.CODECS`.
    """

    fps: float
    short_side: int
    codec: str


class Task(NamedTuple):
    """An item and the key of its record."""

    cache_key: str
    item: Item


def tasks_of(items: Iterable[Item], options: DecodeOptions) -> list[Task]:
    """The task of each item; reads size and time of each video, but opens none.

    Raises:
        OSError: when a folder at a URL cannot be listed.
    """
    listing = functools.cache(lambda url: storage.Folder(url).stamps())  # once a folder
    libraries = {library: importlib.metadata.version(library) for library in _LIBRARIES}
    common = {"schema": SCHEMA_VERSION, **libraries, **dataclasses.asdict(options)}
    tasks = []
    for item in items:
        version = _version_of(item, listing)
        fields = {k: v for k, v in item._asdict().items() if k not in ("path", "split")}
        text = json.dumps([common, version, fields], sort_keys=True, default=_values)
        tasks.append(Task(hashlib.sha256(text.encode()).hexdigest()[:32], item))
    return tasks


def _version_of(item: Item, listing: Callable[[str], dict[str, str]]) -> str:
    """A text that changes when the video of an item changes; '' when there is no video."""
    if storage.is_url(item.path):
        return listing(os.fspath(item.path).removesuffix(f"/{item.video}")).get(item.video, "")
    try:
        info = os.stat(item.path)
    except OSError:
        return ""
    return f"{info.st_size}-{info.st_mtime_ns}"


def run_task(task: Task, partial_output: PartialOutput, options: DecodeOptions) -> ItemResult:
    """Makes and stores the record of a task, unless it is stored already.

    A failure of the video becomes the reason of the result. The reason is stored too, unless
    another try may succeed.

    Raises:
        ShardError: when the record cannot be stored.
    """
    if known := partial_output.result(task.cache_key):
        return known
    data, retry = b"", False
    try:
        decoded = decode_or_raise(task.item, options.fps, options.short_side, options.codec)
        if record := decoded.record:
            data = serialize(record)
            texts = (record.caption, *record.alternatives)
            counts = len(record.frames), len(record.captions)
            result = ItemResult.of(data, *counts, texts, decoded.warnings)
        else:
            result = ItemResult(reason=decoded.reason)
    except Exception as error:
        causes = (error, error.__cause__)
        if any(isinstance(cause, OSError) and cause.errno in _DISK_FULL for cause in causes):
            raise ShardError(f"{task.item.id}: {error}; make room, and run again.") from error
        retry = any(isinstance(cause, OSError | MemoryError) for cause in causes)
        result = ItemResult(reason=reason_of(error))
    partial_output.store(task.cache_key, result, data, retry)
    return result


def to_json(task: Task) -> list[Any]:
    """A task as values that JSON knows."""
    fields = task.item._asdict() | {"path": os.fspath(task.item.path)}
    fields["captions"] = [_values(caption) for caption in task.item.captions]
    return [task.cache_key, fields]


def from_json(values: list[Any]) -> Task:
    """The task of `to_json`."""
    cache_key, fields = values
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    fields["captions"] = tuple(_caption(*values) for values in fields["captions"])
    path = fields["path"]
    return Task(cache_key, Item(**fields | {"path": path if storage.is_url(path) else Path(path)}))


def _values(caption: Caption) -> tuple:
    """A caption as values; without further windows as before there were any, for the cache keys."""
    values = dataclasses.astuple(caption)
    return values if caption.others else values[:-1]


def _caption(text: str, start: float, end: float, others: Iterable[list[float]] = ()) -> Caption:
    return Caption(text, start, end, tuple(map(tuple, others)))
