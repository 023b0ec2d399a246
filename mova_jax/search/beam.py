"""`embed` on a cluster, with Apache Beam; the index is the same as that of one machine.

    pipelines = Pipelines(model.loaded.origin, writer, fps=1.0, options=["--runner=FlinkRunner"])
    ids = pipelines.hash_files(files)
    for file, frames, reason in pipelines.embed(videos): ...

One pipeline hashes the files that the index does not know, a second one embeds those of new
content, with the functions that a single machine uses. Each video is added when it is done, so a
pipeline that was stopped goes on like any other call. Every machine needs this package, and the
model, the videos and the index under the same paths.
"""

import contextlib
import dataclasses
import functools
import json
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from mova_jax.data.beam_pipeline import PipelineError, run_pipeline
from mova_jax.data.storage import Folder
from mova_jax.search.embedding import Embedded, NewVideo, embed_files, open_writer
from mova_jax.search.index_writer import IndexWriter, content_id_or_error
from mova_jax.search.library import VideoTextModel, load
from mova_jax.search.store import SourceFile, StoreError, read_entry
from mova_jax.utils.lock import living_folder

WORK = "beam"  # folder of the index with what the pipelines of running commands read and write
_FILES = 16  # of a task: short videos share chunks of frames, and one lost worker costs little
_DEVICE = threading.Lock()  # a model is used by one thread at a time


class Pipelines:
    """The pipelines of one command."""

    def __init__(self, model: str, writer: IndexWriter, fps: float, options: Sequence[str]):
        """Starts nothing yet.

        Args:
            model: its path or URL, the same on all machines.
            writer: of the index.
            fps: frames a second.
            options: from `beam_options`.
        """
        self._writer, self._options = writer, options
        self._embed = _Embed(model, os.path.abspath(writer.folder), fps)

    def hash_files(self, files: Sequence[SourceFile]) -> list[str | OSError]:
        """The content id of each file, or why it cannot be read.

        Raises:
            StoreError: the pipeline failed, or its workers do not see the index.
        """
        starts = range(0, len(files), _FILES)
        tasks = [[start, [file.path for file in files[start : start + _FILES]]] for start in starts]
        with self._folder() as folder:
            self._run("hash", tasks, functools.partial(_hash, folder), folder)
            return [found for start in starts for found in self._hashed(folder, start)]

    def embed(self, videos: Sequence[NewVideo]) -> Iterator[Embedded]:
        """Embeds videos into the index; yields, at the end, what became of each.

        Raises:
            StoreError: the pipeline failed, or its workers do not see the index.
        """
        named = [[video.id, dataclasses.asdict(video.file)] for video in videos]
        tasks = [[start, named[start : start + _FILES]] for start in range(0, len(named), _FILES)]
        reasons: dict[str, str] = {}
        with self._folder() as folder:
            self._run("embed", tasks, functools.partial(self._embed, folder), folder)
            for start, _ in tasks:
                with contextlib.suppress(FileNotFoundError):  # of a worker with another index
                    reasons |= json.loads(folder.read(_reasons_file(start)))
        for video in videos:
            if entry := read_entry(self._writer.folder, video.id):
                yield Embedded(video.file, entry.frames, "")
            elif video.file.path in reasons:
                yield Embedded(video.file, 0, reasons[video.file.path])
            else:
                raise self._silent(video.file.path)

    def _hashed(self, folder: Folder, start: int) -> list[str | OSError]:
        try:
            found = json.loads(folder.read(_hashed_file(start)))
        except FileNotFoundError as error:
            raise self._silent(f"file {start}") from error
        return [OSError(*one) if isinstance(one, list) else one for one in found]

    def _silent(self, what: str) -> StoreError:
        return StoreError(
            f"The pipeline ended without a word on {what}: every worker has to see the index as "
            f"{os.path.abspath(self._writer.folder)}, in a folder that all machines share"
        )

    def _run(self, name: str, tasks: list, work, folder: Folder) -> None:
        try:
            run_pipeline(name, tasks, work, folder, self._options)
        except PipelineError as error:
            raise StoreError(f"{error}; the same command goes on") from error

    @contextlib.contextmanager
    def _folder(self) -> Iterator[Folder]:
        """A folder for tasks and hashes, which is deleted at the end, or by the next command."""
        parent = Path(os.path.abspath(self._writer.folder), WORK)
        parent.mkdir(exist_ok=True)
        with living_folder(parent, "") as folder:
            yield Folder(folder)


def _hash(folder: Folder, task: list) -> None:
    """Writes the content ids of the files of a task."""
    start, paths = task
    found = [content_id_or_error(path) for path in paths]
    values = [one if isinstance(one, str) else [one.errno, one.strerror] for one in found]
    folder.write(_hashed_file(start), json.dumps(values).encode())


def _hashed_file(start: int) -> str:
    return f"hashed-{start:09d}.json"


def _reasons_file(start: int) -> str:
    return f"reasons-{start:09d}.json"


class _Embed:
    """Embeds the videos of a task into the index, and writes why some were skipped.

    Can be pickled.
    """

    def __init__(self, model: str, index: str, fps: float):
        self._model, self._index, self._fps = model, index, fps

    def __call__(self, folder: Folder, task: list) -> None:
        start, files = task
        videos = [NewVideo(video, SourceFile(**file)) for video, file in files]
        with _DEVICE:
            model = _load_once(self._model)
            writer = open_writer(model, self._index, self._fps)
            # A runner repeats a task whose worker was lost.
            left = [video for video in videos if read_entry(writer.folder, video.id) is None]
            done = embed_files(model, writer, left, self._fps)
            reasons = {one.file.path: one.reason for one in done if one.reason}
        folder.write(_reasons_file(start), json.dumps(reasons).encode())


@functools.lru_cache(maxsize=1)
def _load_once(path: str) -> VideoTextModel:
    """A model, loaded and compiled once in each process of a worker."""
    return load(path)
