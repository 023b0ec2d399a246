"""An index of videos on disk: one folder a video, with its frame vectors.

    index = open_index("index")
    for entry in index.entries:
        entry.source, entry.duration, index.vectors(entry.id), index.times(entry.id)

    INDEX/index.json            format, model, frames a second, width of the vectors
    INDEX/videos/ID/            vectors.npy f16[f d], times.npy f32[f], thumbs.jpg, entry.json
    INDEX/removed/ID.json       videos that were taken out, which stay out
    INDEX/skipped/              files that could not be read, with the reason
    INDEX/indexing/             how far the commands are that run, see `progress.py`
    INDEX/version               another text after each change of the videos
    INDEX/.lock                 locked for the moments in which a command changes the index
    INDEX/packed/VERSION/       all entries, vectors and times of that version, a file of each

ID is a hash of the file's content, so that a file which was moved or copied is recognised. Every
folder and file is written aside and renamed: what has its name is whole, whatever was killed, and
several writers may work on one index. The packed copy is read when it is of the present version: it
opens and scans faster than thousands of files. The vectors are those that `FrameEncoder` makes; any
score of a video follows from them exactly.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float16

from mova_jax.utils.text_files import parse_json

FORMAT = 1
MANIFEST = "index.json"
VIDEOS, REMOVED, SKIPPED = "videos", "removed", "skipped"
VERSION, PACKED = "version", "packed"
PACKED_ENTRIES, PACKED_VECTORS, PACKED_TIMES = "entries.json", "vectors.f16", "times.f32"
_MANIFEST_KEYS = {"model": str, "fingerprint": str, "fps": int | float, "dim": int}
ENTRY, VECTORS, TIMES, THUMBS = "entry.json", "vectors.npy", "times.npy", "thumbs.jpg"


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

    id: str  # a hash of its content
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
    def size(self) -> int:
        """Bytes of the file."""
        return self.files[0].size


class Packed(NamedTuple):
    """The vectors and times of all videos, in the order of their entries, mapped from the disk."""

    rows: dict[str, slice]  # of each video
    vectors: Float16[np.ndarray, "n d"]
    times: Float[np.ndarray, "n"]


class Index:
    """An index as it was when it was opened; `open_index` again to see what was added."""

    def __init__(
        self,
        folder: Path,
        manifest: Mapping[str, Any],
        entries: list[Entry],
        packed: Packed | None = None,
    ):
        """Takes what `open_index` read."""
        self.folder, self.manifest, self.entries = folder, manifest, entries
        self.packed = packed
        self._by_id = {entry.id: entry for entry in entries}

    def __getitem__(self, video: str) -> Entry:
        """The entry of an id.

        Raises:
            StoreError: there is none.
        """
        if video not in self._by_id:
            raise StoreError(f"{self.folder} has no video {video}")
        return self._by_id[video]

    def get(self, video: str) -> Entry | None:
        """The entry of an id; None when there is none."""
        return self._by_id.get(video)

    def vectors(self, video: str) -> Float16[np.ndarray, "f d"]:
        """The frame vectors of a video, mapped from the disk."""
        if self.packed:
            return self.packed.vectors[self.packed.rows[self[video].id]]
        return self._array(video, VECTORS, mapped=True)

    def times(self, video: str) -> Float[np.ndarray, "f"]:
        """The times of its frames, seconds."""
        if self.packed:
            return self.packed.times[self.packed.rows[self[video].id]]
        return self._array(video, TIMES)

    def thumbnails(self, video: str) -> Path | None:
        """A strip of small pictures of a video; None where it has none."""
        path = self._path(video, THUMBS)
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
        return self.folder / VIDEOS / self[video].id / name


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
    if (found := _read_packed(folder, manifest["dim"])) is not None:
        return Index(folder, manifest, *found)
    removed = removed_ids(folder)  # a command that was killed may have left the folder of one
    places = [place for place in _video_folders(folder) if place.name not in removed]
    entries = [entry for entry in map(_read_entry, places) if entry]
    return Index(folder, manifest, sorted(entries, key=lambda entry: (entry.source, entry.id)))


def read_entry(folder: Path, video: str) -> Entry | None:
    """The entry of one video as it is now; None when there is none that can be read."""
    return _read_entry(folder / VIDEOS / video)


def removed_ids(folder: Path) -> set[str]:
    """Ids of the videos that were taken out."""
    return {path.stem for path in (folder / REMOVED).glob("[0-9a-f]*.json")}


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
        found = parse_json(path.read_text(encoding="utf-8"))
        version = found["format"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} cannot be read: {error!r}") from error
    if version != FORMAT:
        raise StoreError(f"{path} has format {version}, this version reads {FORMAT}")
    for name, kind in _MANIFEST_KEYS.items():
        if not isinstance(found.get(name), kind):
            raise StoreError(
                f"{path} is damaged, its {name!r} is {found.get(name)!r}: write it as it was, or "
                "make the index again in another folder"
            )
    return found


def read_version(folder: Path) -> str:
    """The name of the present state of the videos; empty when nothing was changed yet."""
    try:
        return (folder / VERSION).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""


def _read_packed(folder: Path, dim: int) -> tuple[list[Entry], Packed] | None:
    """The packed copy, if there is one of the present version."""
    version = read_version(folder)
    place = folder / PACKED / version
    if not version or not place.is_dir():
        return None
    try:
        entries = list(map(_entry, parse_json((place / PACKED_ENTRIES).read_bytes())))
        ends = np.cumsum([entry.frames for entry in entries]).tolist()
        rows = {e.id: slice(end - e.frames, end) for e, end in zip(entries, ends, strict=True)}
        vectors = np.memmap(place / PACKED_VECTORS, np.float16, "r", shape=(ends[-1], dim))
        times = np.memmap(place / PACKED_TIMES, np.float32, "r", shape=(ends[-1],))
    except (OSError, ValueError, TypeError, KeyError, IndexError):  # or deleted just now
        return None
    return entries, Packed(rows, vectors, times)


def _video_folders(folder: Path) -> list[Path]:
    try:
        names = sorted(name for name in os.listdir(folder / VIDEOS) if not name.startswith("."))
    except FileNotFoundError:
        return []
    return [folder / VIDEOS / name for name in names]


def entry_to_json(entry: Entry) -> str:
    """The content of an entry.json."""
    return json.dumps(dataclasses.asdict(entry), indent=1)


def _read_entry(folder: Path) -> Entry | None:
    """The entry of a video's folder; None when it cannot be read, or names another video."""
    try:
        entry = _entry(parse_json((folder / ENTRY).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, KeyError):
        return None
    whole = all((folder / name).is_file() for name in (VECTORS, TIMES))
    return entry if entry.files and entry.id == folder.name and whole else None


def _entry(value: dict[str, Any]) -> Entry:
    files = tuple(SourceFile(**file) for file in value["files"])
    return Entry(**value | {"files": files, "warnings": tuple(value["warnings"])})
