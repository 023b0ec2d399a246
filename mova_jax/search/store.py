"""An index of videos on disk: one folder a video, with its frame vectors.

    index = open_index("index")
    for entry in index.entries:
        entry.source, entry.duration, index.vectors(entry.id), index.times(entry.id)

    INDEX/index.json            format, model, frames a second, width of the vectors
    INDEX/videos/ID/            vectors.npy f16[f d], times.npy f32[f], thumbs.jpg, entry.json
    INDEX/removed/ID.json       videos that were taken out, which stay out
    INDEX/skipped/              files that could not be read, with the reason

ID is a hash of the file's content, so that a file which was moved or copied is recognised. Every
folder and file is written aside and renamed: what has its name is whole, whatever was killed, and
several writers may work on one index. The vectors are those that `FrameEncoder` makes; any score of
a video follows from them exactly.
"""

import contextlib
import dataclasses
import datetime
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float16

from mova_jax.utils import atomic
from mova_jax.utils.lock import lock

FORMAT = 1
MANIFEST = "index.json"
_VIDEOS, _REMOVED, _SKIPPED = "videos", "removed", "skipped"
_ENTRY, _VECTORS, _TIMES, _THUMBS = "entry.json", "vectors.npy", "times.npy", "thumbs.jpg"
_READ = 2**20  # bytes at a time


class StoreError(Exception):
    """An index that cannot be used; the message says why and what to do."""


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """A file of a video, as it was when it was indexed."""

    path: str
    size: int  # bytes
    mtime_ns: int

    @classmethod
    def of(cls, path: str | os.PathLike) -> "SourceFile":
        """The file as it is now."""
        stat = os.stat(path)
        return cls(os.path.abspath(path), stat.st_size, stat.st_mtime_ns)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A video of an index."""

    id: str
    files: tuple[SourceFile, ...]  # with this content; at least one
    duration: float  # seconds
    frames: int
    added: str  # ISO date and time, UTC
    warnings: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """Path of the file; of several with the same content, of the first."""
        return self.files[0].path

    @property
    def hash(self) -> str:
        """Of the content."""
        return self.id

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self.files[0].size


class Index:
    """An index as it was when it was opened; `open_index` again to see what was added."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any], entries: list[Entry]):
        """Takes what `open_index` read."""
        self.folder, self.manifest, self.entries = folder, manifest, entries
        self._by_id = {entry.id: entry for entry in entries}

    def __getitem__(self, video: str) -> Entry:
        """The entry of an id.

        Raises:
            StoreError: there is none.
        """
        if video not in self._by_id:
            raise StoreError(f"{self.folder} has no video {video}")
        return self._by_id[video]

    def vectors(self, video: str) -> Float16[np.ndarray, "f d"]:
        """The frame vectors of a video, mapped from the disk."""
        return self._array(video, _VECTORS, mapped=True)

    def times(self, video: str) -> Float[np.ndarray, "f"]:
        """The times of its frames, seconds."""
        return self._array(video, _TIMES)

    def thumbnails(self, video: str) -> Path | None:
        """A strip of small pictures of a video; None where it has none."""
        path = self._path(video, _THUMBS)
        return path if path.is_file() else None

    def _array(self, video: str, name: str, mapped: bool = False) -> np.ndarray:
        path = self._path(video, name)
        try:
            return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{path} cannot be read ({error}): remove the folder {path.parent} and embed the "
                f"video {self[video].source} again"
            ) from error

    def _path(self, video: str, name: str) -> Path:
        return self.folder / _VIDEOS / self[video].id / name


def open_index(folder: str | os.PathLike) -> Index:
    """Opens an index for reading.

    Videos whose entry cannot be read are left out; `broken_entries` lists them.

    Raises:
        StoreError: it is no index, or one of a later version.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest is None:
        raise StoreError(
            f"{folder} is no index: it has no {MANIFEST}; make one with python -m mova_jax.embed"
        )
    entries = [entry for entry in map(_read_entry, _video_folders(folder)) if entry]
    return Index(folder, manifest, sorted(entries, key=lambda entry: (entry.source, entry.id)))


def broken_entries(folder: str | os.PathLike) -> list[Path]:
    """Folders of videos whose entry cannot be read."""
    return [path for path in _video_folders(Path(folder)) if _read_entry(path) is None]


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of an index; None where there is none.

    Raises:
        StoreError: it cannot be read, or is of a later version.
    """
    path = folder / MANIFEST
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        version = found["format"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} cannot be read: {error!r}") from error
    if version != FORMAT:
        raise StoreError(f"{path} has format {version}, this version reads {FORMAT}")
    return found


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
        (self.folder / _VIDEOS).mkdir(parents=True, exist_ok=True)
        with self._lock():
            known = read_manifest(self.folder)
            if known is None:
                made = {"format": FORMAT, **about}
                atomic.write_text(self.folder / MANIFEST, json.dumps(made, indent=1))
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
        """Adds a video; whole or not at all, and not twice.

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
        target = self.folder / _VIDEOS / video
        aside = target.with_name(f".{video}.{uuid.uuid4().hex}.partial")
        aside.mkdir()
        try:
            np.save(aside / _VECTORS, vectors)
            np.save(aside / _TIMES, times)
            if thumbnails:
                (aside / _THUMBS).write_bytes(thumbnails)
            (aside / _ENTRY).write_text(_to_json(entry), encoding="utf-8")
            with self._lock():
                if not target.is_dir():  # another writer may have been faster
                    aside.rename(target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def add_file(self, video: str, file: SourceFile) -> str:
        """Notes a file whose content the index has: `moved` or `copy`."""
        with self._lock():
            entry = self.entries()[video]
            others = [one for one in entry.files if one.path != file.path]
            left = [one for one in others if os.path.exists(one.path)]
            files = (*left, file) if left else (file,)
            changed = dataclasses.replace(entry, files=files)
            atomic.write_text(self.folder / _VIDEOS / video / _ENTRY, _to_json(changed))
        return "copy" if left else "moved"

    def remove(self, video: str) -> None:
        """Takes a video out; its files are not indexed again until `restore`."""
        with self._lock():
            entry = self.entries()[video]
            atomic.write_text(self.folder / _REMOVED / f"{video}.json", _to_json(entry))
            _delete(self.folder / _VIDEOS / video)

    def removed(self) -> set[str]:
        """Ids that were taken out."""
        return {path.stem for path in (self.folder / _REMOVED).glob("[0-9a-f]*.json")}

    def restore(self, video: str) -> None:
        """Lets a video in again, which the next `embed` adds."""
        (self.folder / _REMOVED / f"{video}.json").unlink(missing_ok=True)

    def skip(self, file: SourceFile, reason: str) -> None:
        """Notes a file that cannot be read, so that it is not tried again while it is the same."""
        name = hashlib.blake2b(os.fsencode(file.path), digest_size=12).hexdigest()
        value = {**dataclasses.asdict(file), "reason": reason}
        atomic.write_text(self.folder / _SKIPPED / f"{name}.json", json.dumps(value))

    def skipped(self) -> dict[SourceFile, str]:
        """The files that could not be read, and the reasons."""
        found = {}
        for path in (self.folder / _SKIPPED).glob("[0-9a-f]*.json"):
            with contextlib.suppress(ValueError, KeyError, OSError):
                value = json.loads(path.read_text(encoding="utf-8"))
                reason = value.pop("reason")
                found[SourceFile(**value)] = reason
        return found

    def compact(self) -> dict[str, int]:
        """Deletes what killed writers left, broken entries, and videos whose files are all gone.

        Call it while no other writer works: a half-written folder may be theirs.

        Returns:
            The number of each: `leftovers`, `broken`, `missing`.
        """
        with self._lock():
            leftovers = [
                path
                for folder in (_VIDEOS, _REMOVED, _SKIPPED, "")
                for path in (self.folder / folder).glob(".*.partial")
            ]
            broken = broken_entries(self.folder)
            missing = [
                self.folder / _VIDEOS / entry.id
                for entry in self.entries().values()
                if not any(os.path.exists(file.path) for file in entry.files)
            ]
            for path in (*leftovers, *broken, *missing):
                _delete(path)
        return {"leftovers": len(leftovers), "broken": len(broken), "missing": len(missing)}

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """Held for the moments in which entries change."""
        with lock(self.folder, wait=True):
            yield


def content_id(path: str | os.PathLike) -> str:
    """The id of a file: 32 hexadecimal digits of a hash of its content."""
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as stream:
        while block := stream.read(_READ):
            digest.update(block)
    return digest.hexdigest()


def _video_folders(folder: Path) -> list[Path]:
    try:
        names = sorted(name for name in os.listdir(folder / _VIDEOS) if not name.startswith("."))
    except FileNotFoundError:
        return []
    return [folder / _VIDEOS / name for name in names]


def _to_json(entry: Entry) -> str:
    return json.dumps(dataclasses.asdict(entry), indent=1)


def _read_entry(folder: Path) -> Entry | None:
    """The entry of a video's folder; None when it cannot be read, or names another video."""
    try:
        value = json.loads((folder / _ENTRY).read_text(encoding="utf-8"))
        files = tuple(SourceFile(**file) for file in value.pop("files"))
        entry = Entry(files=files, **value | {"warnings": tuple(value["warnings"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
    whole = all((folder / name).is_file() for name in (_VECTORS, _TIMES))
    return entry if files and entry.id == folder.name and whole else None


def _delete(path: Path) -> None:
    """Deletes a file or a folder; a folder is renamed first, so that no reader sees half of it."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    aside = path.with_name(f".{path.name.strip('.')}.deleted.partial")
    path.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)
