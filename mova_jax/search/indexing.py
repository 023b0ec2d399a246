"""Embeds the videos of a folder into an index: what is new, moved, copied or damaged.

    found = index_folder(model, "videos", "index", fps=1.0)
    found.added, found.skipped

Files that the index knows by path, size and time are left alone; others are hashed, and those whose
content it knows are noted as moved or copied. The rest are decoded and embedded as one stream, so
that short videos share chunks. However it is stopped, the same call goes on.
"""

import dataclasses
import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from mova_jax.data.annotations.items import is_unicode, printable
from mova_jax.data.annotations.videos import VIDEO_EXTENSIONS
from mova_jax.data.ingest.video_reader import DecodeError, VideoReader
from mova_jax.evaluation.frame_stream import embed_videos
from mova_jax.search.index_writer import IndexWriter, content_id
from mova_jax.search.library import VideoTextModel
from mova_jax.search.progress import reported
from mova_jax.search.store import SourceFile, StoreError
from mova_jax.utils.progress_bar import bar_of, show_frames

THUMBNAILS = 12  # pictures of a strip at most
_HEIGHT = 90  # pixels of a strip


@dataclasses.dataclass
class Indexed:
    """The files of a call, by what became of them."""

    added: int = 0
    unchanged: int = 0
    moved: int = 0
    copies: int = 0
    removed: int = 0  # taken out before, and left out
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)  # path: reason


def index_folder(
    model: VideoTextModel,
    videos: str | os.PathLike,
    index: str | os.PathLike,
    *,
    fps: float = 1.0,
    process: int = 0,
    processes: int = 1,
) -> Indexed:
    """Brings an index up to date with a folder of videos.

    Args:
        model: that the index is, or will be, made with.
        videos: folder, at any depth.
        index: folder of the index.
        fps: frames a second.
        process: of several that share the files, from 0.
        processes: their number.

    Raises:
        StoreError: the folder is missing, or the index is of another model or rate.
        OSError: the disk is full; what was added before is whole.
    """
    dim = model.config.model.embed_dim
    about = {"model": str(model.loaded.path), "fingerprint": model.fingerprint}
    writer = IndexWriter(index, about | {"fps": fps, "dim": dim})
    found = Indexed()
    todo = list(_new_files(writer, _files_of(videos)[process::processes], found))
    readers: list[_Reader] = []

    def stream() -> Iterator[_Reader]:
        for video, file in todo:
            readers.append(_Reader(video, file, fps, model.encoder.image_size))
            yield readers[-1]

    bar = bar_of("videos", len(todo), unit="video", disable=not todo)
    with bar, reported(index, len(todo)) as done:
        for place, vectors in enumerate(embed_videos(model.encoder, stream())):
            reader, readers[place] = readers[place], None
            _take(writer, reader, vectors, fps, found)
            show_frames(bar, len(vectors))
            done(place + 1)
    return found


def _take(writer: IndexWriter, reader: "_Reader", vectors, fps: float, found: Indexed) -> None:
    """Adds a video that was read to the end, or notes why it was not."""
    if reader.error or not len(vectors):
        reason = reader.error or "it has no frames"
        writer.skip(reader.file, reason)
        found.skipped[reader.file.path] = reason
        return
    times = np.arange(len(vectors), dtype=np.float32) / np.float32(fps)
    writer.add(
        reader.video,
        reader.file,
        vectors,
        times,
        reader.duration,
        thumbnails=reader.strip(),
        warnings=reader.warnings,
    )
    found.added += 1


def _files_of(folder: str | os.PathLike) -> list[str]:
    """The videos of a folder at any depth, sorted; hidden files and folders are left out.

    Raises:
        StoreError: there is no such folder.
    """
    if not Path(folder).is_dir():
        raise StoreError(f"There is no folder {folder}; --videos is the folder of the videos.")
    found = []
    for place, folders, names in os.walk(os.path.abspath(folder)):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.lower().endswith(VIDEO_EXTENSIONS) and not name.startswith("."):
                found.append(os.path.join(place, name))
    return sorted(found)


def _new_files(
    writer: IndexWriter, paths: list[str], found: Indexed
) -> Iterator[tuple[str, SourceFile]]:
    """Id and file of what has to be embedded; counts and notes the others."""
    entries, removed, damaged = writer.entries(), writer.removed(), writer.skipped()
    known = {file for entry in entries.values() for file in entry.files}
    owner = {file.path: entry.id for entry in entries.values() for file in entry.files}
    coming: set[str] = set()
    for path in bar_of("files", len(paths), paths, unit="file", delay=2.0):
        if not is_unicode(path):  # the index is JSON and a web page
            found.skipped[printable(path)] = "its path is not UTF-8: rename it"
            continue
        try:
            file = SourceFile.of(path)
            if file in known:
                found.unchanged += 1
                continue
            if file in damaged:
                found.skipped[path] = damaged[file]
                continue
            video = content_id(path)
        except OSError as error:  # gone, or not to be read
            found.skipped[path] = error.strerror or str(error)
            continue
        if owner.get(path, video) != video:  # the file was replaced by another one
            writer.drop_file(owner[path], path)
        if video in removed:
            found.removed += 1
        elif video in entries:
            count = {"same": "unchanged", "moved": "moved", "copy": "copies"}
            name = count[writer.add_file(video, file)]
            setattr(found, name, getattr(found, name) + 1)
        elif video in coming:
            found.copies += 1  # noted as one by the next call
        else:
            coming.add(video)
            yield video, file


class _Reader:
    """The frames of a file; an error ends them and is kept."""

    def __init__(self, video: str, file: SourceFile, fps: float, size: int):
        self.video, self.file = video, file
        self.error = ""
        self._reader = VideoReader(file.path, fps, size)
        self._pictures: list[np.ndarray] = []
        self._stride = 1

    @property
    def duration(self) -> float:
        return self._reader.duration

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(self._reader.warnings)

    def __iter__(self) -> Iterator[np.ndarray]:
        try:
            for number, frame in enumerate(self._reader):
                if number % self._stride == 0:
                    self._keep(frame)
                yield frame
        except (DecodeError, OSError) as error:
            self.error = str(error)

    def _keep(self, frame: np.ndarray) -> None:
        """Keeps a small picture; when there are too many, every second one, from now on too."""
        width = max(1, round(frame.shape[1] * _HEIGHT / frame.shape[0]))
        picture = Image.fromarray(frame).resize((min(width, 4 * _HEIGHT), _HEIGHT))
        self._pictures.append(np.asarray(picture))
        if len(self._pictures) > THUMBNAILS:
            self._pictures, self._stride = self._pictures[::2], 2 * self._stride

    def strip(self) -> bytes:
        """The pictures next to each other, as a JPEG."""
        stream = io.BytesIO()
        Image.fromarray(np.concatenate(self._pictures, axis=1)).save(stream, "JPEG", quality=80)
        return stream.getvalue()
