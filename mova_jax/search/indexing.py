"""Embeds the videos of a folder into an index: what is new, moved, copied or damaged.

    found = index_folder(model, "videos", "index", fps=1.0)
    found.added, found.skipped

Files that the index knows by path, size and time are left alone; others are hashed, and those whose
content it knows are noted as moved or copied. The rest are decoded and embedded. However it is
stopped, the same call goes on.
"""

import collections
import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from mova_jax.data.annotations.items import is_unicode, printable
from mova_jax.data.annotations.videos import VIDEO_EXTENSIONS
from mova_jax.search.beam import Pipelines
from mova_jax.search.embedding import Embedded, NewVideo, embed_files, open_writer
from mova_jax.search.index_writer import IndexWriter, content_id_or_error
from mova_jax.search.library import VideoTextModel
from mova_jax.search.progress import reported
from mova_jax.search.store import SourceFile, StoreError, read_entry
from mova_jax.utils.progress_bar import bar_of, show_frames


@dataclasses.dataclass
class Indexed:
    """The files of a call, by what became of them."""

    added: int = 0
    unchanged: int = 0
    moved: int = 0
    copies: int = 0
    removed: int = 0  # taken out before, and left out
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)  # path: reason

    def count(self, embedded: Embedded) -> None:
        """Counts a file that was embedded or skipped."""
        if embedded.reason:
            self.skipped[embedded.file.path] = embedded.reason
        else:
            self.added += 1


def index_folder(
    model: VideoTextModel,
    videos: str | os.PathLike,
    index: str | os.PathLike,
    *,
    fps: float = 1.0,
    process: int = 0,
    processes: int = 1,
    beam: Sequence[str] = (),
) -> Indexed:
    """Brings an index up to date with a folder of videos.

    Args:
        model: that the index is, or will be, made with.
        videos: folder, at any depth.
        index: folder of the index.
        fps: frames a second.
        process: of several that share the files, from 0.
        processes: their number.
        beam: options of an Apache Beam pipeline that does the work in place of this process.

    Raises:
        StoreError: the folder is missing, the index is of another model or rate, or the pipeline
            failed; what was added before is whole.
        OSError: the disk is full; what was added before is whole.
    """
    writer, found = open_writer(model, index, fps), Indexed()
    files = _unknown_files(writer, _files_of(videos)[process::processes], found)
    if beam:
        pipelines = Pipelines(model.loaded.origin, writer, fps, beam)
        new, copies = _new_videos(writer, files, pipelines.hash_files(files), found)
        for embedded in pipelines.embed(new):
            found.count(embedded)
    else:
        paths = bar_of("files", len(files), (f.path for f in files), unit="file", delay=2.0)
        new, copies = _new_videos(writer, files, map(content_id_or_error, paths), found)
        bar = bar_of("videos", len(new), disable=not new)
        with bar, reported(index, len(new)) as done:
            for place, embedded in enumerate(embed_files(model, writer, new, fps), start=1):
                found.count(embedded)
                show_frames(bar, embedded.frames)
                done(place)
    _add_copies(writer, new, copies, found)
    return found


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


def _unknown_files(writer: IndexWriter, paths: Sequence[str], found: Indexed) -> list[SourceFile]:
    """The files that are not noted in the index as they are now; counts the others."""
    entries = writer.entries().values()
    # A path of two videos was replaced by a command that was killed before it dropped the old one.
    paths_of = collections.Counter(file.path for entry in entries for file in entry.files)
    known = {file for entry in entries for file in entry.files if paths_of[file.path] == 1}
    damaged, unknown = writer.skipped(), []
    for path in paths:
        if not is_unicode(path):  # the index is JSON and a web page
            found.skipped[printable(path)] = "its path is not UTF-8: rename it"
            continue
        try:
            file = SourceFile.of(path)
            if not os.path.isfile(path):
                found.skipped[path] = "not a regular file, but a folder, a pipe or a device"
                continue
        except OSError as error:  # gone, or not to be read
            found.skipped[path] = _reason(error)
            continue
        if file in known:
            found.unchanged += 1
        elif file in damaged:
            found.skipped[path] = damaged[file]
        else:
            unknown.append(file)
    return unknown


def _new_videos(
    writer: IndexWriter,
    files: Sequence[SourceFile],
    ids: Iterable[str | OSError],
    found: Indexed,
) -> tuple[list[NewVideo], list[NewVideo]]:
    """The files of new content, and further ones of the same; notes those that were moved.

    Args:
        writer: of the index.
        files: that the index does not know.
        ids: of their contents, or why one cannot be read.
        found: counts all but those that are returned.
    """
    entries, removed = writer.entries(), writer.removed()
    owners: dict[str, list[str]] = collections.defaultdict(list)
    for entry in entries.values():
        for one in entry.files:
            owners[one.path].append(entry.id)
    replaced: list[tuple[str, str]] = []  # a video, and a path that has another content now
    new: dict[str, NewVideo] = {}
    copies: list[NewVideo] = []
    for file, video in zip(files, ids, strict=True):
        if isinstance(video, OSError):
            found.skipped[file.path] = _reason(video)
            continue
        replaced += [(owner, file.path) for owner in owners[file.path] if owner != video]
        if video in removed:
            found.removed += 1
        elif video in entries:
            count = {"same": "unchanged", "moved": "moved", "copy": "copies"}
            name = count[writer.add_file(video, file)]
            setattr(found, name, getattr(found, name) + 1)
        elif video in new:
            copies.append(NewVideo(video, file))
        else:
            new[video] = NewVideo(video, file)
    # Last, because a video whose only path was replaced may have been moved to another one.
    for owner, path in replaced:
        writer.drop_file(owner, path)
    return list(new.values()), copies


def _add_copies(
    writer: IndexWriter, new: Sequence[NewVideo], copies: Sequence[NewVideo], found: Indexed
) -> None:
    """Notes the copies of videos that were embedded just now."""
    first, noted = {video.id: video.file for video in new}, writer.skipped() if copies else {}
    for video, file in copies:
        if read_entry(writer.folder, video):
            writer.add_file(video, file)
            found.copies += 1
        else:
            found.skipped[file.path] = "a copy of a file that was skipped"
            if first[video] in noted:  # else both are tried again
                writer.skip(file, found.skipped[file.path])


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
