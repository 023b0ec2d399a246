"""Writes an index of videos (`store.py`): entries come and go whole.

    writer = IndexWriter("index", {"model": ..., "fingerprint": ..., "fps": 1.0, "dim": 512})
    writer.add(content_id(path), SourceFile.of(path), vectors, times, duration)

Several writers may be open at a time, in processes of machines that share the folder and its locks
(`utils/lock.py`); where the file system has no locks, only one may.
What a method has done survives a loss of power (`utils/atomic.py`): a new version is on the disk
before the change that it announces, so that no packed copy is taken for newer than it is.
"""

import contextlib
import dataclasses
import datetime
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float16

from mova_jax.search.store import (
    ENTRY,
    FORMAT,
    MANIFEST,
    PACKED,
    PACKED_ENTRIES,
    PACKED_TIMES,
    PACKED_VECTORS,
    REMOVED,
    SKIPPED,
    THUMBS,
    TIMES,
    VECTORS,
    VERSION,
    VIDEOS,
    Entry,
    Index,
    SourceFile,
    StoreError,
    broken_entries,
    entry_to_json,
    open_index,
    read_entry,
    read_manifest,
    read_version,
    removed_ids,
)
from mova_jax.utils import atomic
from mova_jax.utils.lock import lock

_READ = 2**20  # bytes at a time
_LEFTOVER = 24 * 3600  # seconds after which no living writer still has a file aside


class IndexWriter:
    """Adds videos to an index and takes them out; several may be open at a time."""

    def __init__(self, folder: str | os.PathLike, about: Mapping[str, Any]):
        """Opens an index, or makes one.

        Args:
            folder: of the index.
            about: what its vectors depend on: `model`, `fingerprint`, `fps`, `dim`.

        Raises:
            StoreError: the index is of another model or rate.
        """
        self.folder = Path(folder)
        (self.folder / VIDEOS).mkdir(parents=True, exist_ok=True)
        with self._lock():
            known = read_manifest(self.folder)
            if known is None:
                made = {"format": FORMAT, **about}
                _write(self.folder / MANIFEST, json.dumps(made, indent=1))
                return
        for key in ("fingerprint", "fps"):
            if known[key] != about[key]:
                raise StoreError(
                    f"{self.folder} was made with {known['model']}, {key} {known[key]}, and now "
                    f"got {about['model']}, {key} {about[key]}: vectors of two kinds do not "
                    "compare; choose another --index"
                )

    def entries(self) -> dict[str, Entry]:
        """The videos by id, those that other writers added since too."""
        return {entry.id: entry for entry in open_index(self.folder).entries}

    def add(
        self,
        video: str,
        file: SourceFile,
        vectors: Float16[np.ndarray, "f d"],
        times: Float[np.ndarray, "f"],
        duration: float,
        *,
        thumbnails: bytes = b"",
        warnings: tuple[str, ...] = (),
    ) -> None:
        """Adds a video, whole or not at all; one that is there gets the file as a further copy.

        An entry that cannot be read is replaced.

        Args:
            video: its id, from `content_id`.
            file: it was read from.
            vectors: of its frames.
            times: of its frames, seconds.
            duration: seconds.
            thumbnails: a JPEG strip; empty for none.
            warnings: of the decoder.
        """
        added = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        entry = Entry(video, (file,), float(duration), len(times), added, warnings)
        target = self.folder / VIDEOS / video
        aside = target.with_name(f".{video}.{uuid.uuid4().hex}.partial")
        aside.mkdir()
        try:
            np.save(aside / VECTORS, vectors)
            np.save(aside / TIMES, times)
            if thumbnails:
                (aside / THUMBS).write_bytes(thumbnails)
            (aside / ENTRY).write_text(entry_to_json(entry), encoding="utf-8")
            atomic.sync_content(aside)
            with self._lock():
                if known := read_entry(self.folder, video):  # another writer was faster
                    self._add_file(known, file)
                else:
                    self._change()
                    if target.is_dir():  # damaged
                        _delete(target)
                    aside.rename(target)
                    atomic.sync_name(target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def add_file(self, video: str, file: SourceFile) -> str:
        """Notes a file whose content the index has: `same` path, `moved` or `copy`."""
        with self._lock():
            return self._add_file(self._entry(video), file)

    def drop_file(self, video: str, path: str) -> None:
        """Notes that a file has another content now; a video without a file is deleted."""
        with self._lock():
            entry = self._entry(video)
            self._change()
            if left := tuple(one for one in entry.files if one.path != path):
                self._set_files(entry, left)
            else:
                _delete(self.folder / VIDEOS / video)

    def _entry(self, video: str) -> Entry:
        entry = read_entry(self.folder, video)
        if entry is None:
            raise StoreError(f"{self.folder} has no video {video}: another command removed it")
        return entry

    def _add_file(self, entry: Entry, file: SourceFile) -> str:
        known = any(one.path == file.path for one in entry.files)
        others = [one for one in entry.files if one.path != file.path]
        left = [one for one in others if os.path.exists(one.path)]
        if file not in entry.files or len(left) < len(others):
            self._set_files(entry, (*left, file))
        return "same" if known else "copy" if left else "moved"

    def _set_files(self, entry: Entry, files: tuple[SourceFile, ...]) -> None:
        self._change()
        changed = entry_to_json(dataclasses.replace(entry, files=files))
        _write(self.folder / VIDEOS / entry.id / ENTRY, changed)

    def remove(self, video: str) -> None:
        """Takes a video out; its files are not indexed again until `restore`."""
        with self._lock():
            entry = self._entry(video)
            self._change()
            _write(self.folder / REMOVED / f"{video}.json", entry_to_json(entry))
            _delete(self.folder / VIDEOS / video)

    def removed(self) -> set[str]:
        """Ids that were taken out."""
        return removed_ids(self.folder)

    def restore(self, video: str) -> None:
        """Lets a video in again, which the next `embed` adds."""
        (self.folder / REMOVED / f"{video}.json").unlink(missing_ok=True)

    def skip(self, file: SourceFile, reason: str) -> None:
        """Notes a file that cannot be read, so that it is not tried again while it is the same."""
        name = hashlib.blake2b(os.fsencode(file.path), digest_size=12).hexdigest()
        value = {**dataclasses.asdict(file), "reason": reason}
        atomic.write_text(self.folder / SKIPPED / f"{name}.json", json.dumps(value))

    def skipped(self) -> dict[SourceFile, str]:
        """The files that could not be read, and the reasons."""
        found = {}
        for path in (self.folder / SKIPPED).glob("[0-9a-f]*.json"):
            with contextlib.suppress(ValueError, KeyError, OSError):
                value = json.loads(path.read_text(encoding="utf-8"))
                reason = value.pop("reason")
                found[SourceFile(**value)] = reason
        return found

    def compact(self) -> dict[str, int]:
        """Deletes what killed writers left, broken entries, and videos whose files are all gone.

        What was written less than a day ago is left: it may be that of a living writer.

        Returns:
            The number of each: `leftovers`, `broken`, `missing`.
        """
        with self._lock():
            leftovers = [
                path
                for folder in (VIDEOS, REMOVED, SKIPPED, "")
                for path in (self.folder / folder).glob(".*.partial")
                if _is_old(path)
            ]
            leftovers += [
                path for id in self.removed() if (path := self.folder / VIDEOS / id).is_dir()
            ]
            broken = broken_entries(self.folder)
            missing = [
                self.folder / VIDEOS / entry.id
                for entry in self.entries().values()
                if not any(os.path.exists(file.path) for file in entry.files)
            ]
            if missing:
                self._change()
            for path in (*leftovers, *broken, *missing):
                _delete(path)
        return {"leftovers": len(leftovers), "broken": len(broken), "missing": len(missing)}

    def pack(self) -> int:
        """Copies all vectors into one file, which opens and scans faster; returns their videos.

        Raises:
            StoreError: the vectors of a video cannot be read.
        """
        with self._lock():
            # Read before the entries: where there are no locks, another writer may change both now,
            # and a copy of a version that is over is not read.
            version = read_version(self.folder) or self._change()
            index, place = open_index(self.folder), self.folder / PACKED / version
            if index.entries and not place.is_dir():
                with atomic.replacing(place, durable=True) as aside:
                    aside.mkdir()
                    _write_packed(aside, index)
            for old in (self.folder / PACKED).glob("*"):  # what was killed here, too
                if old.name != place.name:
                    _delete(old)
        return len(index.entries)

    def _change(self) -> str:
        """Another version, before a change: a kill in between only makes the packed copy old."""
        version = uuid.uuid4().hex
        _write(self.folder / VERSION, version)
        return version

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Held for the moments in which entries change."""
        with lock(self.folder, wait=True, across_machines=True):
            yield


def content_id(path: str | os.PathLike) -> str:
    """The id of a file: 32 hexadecimal digits of a hash of its content."""
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as stream:
        while block := stream.read(_READ):
            digest.update(block)
    return digest.hexdigest()


def content_id_or_error(path: str | os.PathLike) -> str | OSError:
    """The id of a file, or why it cannot be read."""
    try:
        return content_id(path)
    except OSError as error:
        return error


def _write_packed(folder: Path, index: Index) -> None:
    with (
        (folder / PACKED_VECTORS).open("wb") as vectors,
        (folder / PACKED_TIMES).open("wb") as times,
    ):
        for entry in index.entries:
            some = index.vectors(entry.id), index.times(entry.id)
            if any(len(array) != entry.frames for array in some):
                raise StoreError(
                    f"{folder.parent.parent / VIDEOS / entry.id} does not have the {entry.frames} "
                    "frames of its entry: delete this folder, and embed the video again"
                )
            vectors.write(np.ascontiguousarray(some[0], np.float16).data)
            times.write(np.ascontiguousarray(some[1], np.float32).data)
    entries = [dataclasses.asdict(entry) for entry in index.entries]
    (folder / PACKED_ENTRIES).write_text(json.dumps(entries), encoding="utf-8")


def _write(path: Path, text: str) -> None:
    atomic.write_text(path, text, durable=True)


def _is_old(path: Path) -> bool:
    try:
        return path.stat().st_mtime < time.time() - _LEFTOVER
    except FileNotFoundError:
        return False


def _delete(path: Path) -> None:
    """Deletes a file or a folder; a folder is renamed first, so that no reader sees half of it."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    aside = path.with_name(f".{path.name.strip('.')}.{uuid.uuid4().hex}.partial")
    path.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)
