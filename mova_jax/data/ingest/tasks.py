"""An item as a task: the record that has to be there at the end, under a name of its own.

    tasks = tasks_of(items, settings)
    do(tasks[0], unfinished, settings)      # in any process, on any machine that sees the videos

A task's key is made of all that its record depends on, and of nothing else, so that a record which
is there under that key is the one that would be made. `to_json` and `from_json` take tasks to other
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

_FULL = {errno.ENOSPC, errno.EDQUOT}
# Of which the pixels of a frame, and the bytes it is stored as, depend.
_LIBRARIES = ("av", "simplejpeg")


@dataclasses.dataclass(frozen=True)
class DecodeOptions:
    """How videos become records.

    Attributes:
        fps: frames a second.
        short_side: of the frames, pixels; 0 keeps the videos' own.
        codec: a key of `images.CODECS`.
    """

    fps: float
    short_side: int
    codec: str


class Task(NamedTuple):
    """An item and the key of its record."""

    key: str
    item: Item


def tasks_of(items: Iterable[Item], form: DecodeOptions) -> list[Task]:
    """The task of each item; looks at size and time of each video, and opens none.

    Raises:
        OSError: when a folder at a URL cannot be listed.
    """
    listing = functools.cache(lambda url: storage.Folder(url).stamps())  # once a folder
    versions = {library: importlib.metadata.version(library) for library in _LIBRARIES}
    common = {"schema": SCHEMA_VERSION, **versions, **dataclasses.asdict(form)}
    tasks = []
    for item in items:
        version = _version_of(item, listing)
        fields = {k: v for k, v in item._asdict().items() if k not in ("path", "split")}
        text = json.dumps([common, version, fields], sort_keys=True, default=dataclasses.astuple)
        tasks.append(Task(hashlib.sha256(text.encode()).hexdigest()[:32], item))
    return tasks


def _version_of(item: Item, listing: Callable[[str], dict[str, str]]) -> str:
    """A text that changes with an item's video; '' when there is none."""
    if storage.is_url(item.path):
        return listing(os.fspath(item.path).removesuffix(f"/{item.video}")).get(item.video, "")
    try:
        info = os.stat(item.path)
    except OSError:
        return ""
    return f"{info.st_size}-{info.st_mtime_ns}"


def run_task(task: Task, partial: PartialOutput, form: DecodeOptions) -> ItemResult:
    """Makes the record of a task and keeps it, unless it is there.

    What goes wrong with the video becomes a reason. It is remembered, unless another try may go
    well.

    Raises:
        ShardError: when the record cannot be stored.
    """
    known = partial.result(task.key)
    if known:
        return known
    data, may_pass = b"", False
    try:
        record, reason, warnings = decode_or_raise(task.item, form.fps, form.short_side, form.codec)
        if record is None:
            result = ItemResult(reason=reason)
        else:
            data = serialize(record)
            texts = (record.caption, *record.alternatives)
            result = ItemResult.of(data, len(record.frames), len(record.captions), texts, warnings)
    except Exception as error:
        causes = (error, error.__cause__)
        if any(isinstance(cause, OSError) and cause.errno in _FULL for cause in causes):
            raise ShardError(f"{task.item.id}: {error}; make room, and run again.") from error
        may_pass = any(isinstance(cause, OSError | MemoryError) for cause in causes)
        result = ItemResult(reason=reason_of(error))
    partial.keep(task.key, result, data, may_pass)
    return result


def to_json(task: Task) -> list[Any]:
    """A task in JSON's values."""
    fields = task.item._asdict() | {"path": os.fspath(task.item.path)}
    fields["captions"] = [dataclasses.astuple(caption) for caption in task.item.captions]
    return [task.key, fields]


def from_json(values: list[Any]) -> Task:
    """The task of `to_json`."""
    key, fields = values
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    fields["captions"] = tuple(Caption(*values) for values in fields["captions"])
    path = fields["path"]
    return Task(key, Item(**fields | {"path": path if storage.is_url(path) else Path(path)}))
