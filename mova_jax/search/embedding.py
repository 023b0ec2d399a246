"""Embeds video files and adds them to an index, as one stream, so that short videos share chunks.

for file, frames, reason in embed_files(model, writer, [(content_id(path), file)], fps=1.0):
    print(file.path, reason or f"{frames} frames")
"""

import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from mova_jax.data.ingest.video_reader import DecodeError, VideoReader
from mova_jax.evaluation.frame_stream import embed_videos
from mova_jax.search.index_writer import IndexWriter
from mova_jax.search.library import VideoTextModel
from mova_jax.search.store import SourceFile, read_manifest

THUMBNAILS = 12  # pictures of a strip at most
_HEIGHT = 90  # pixels of a strip


class NewVideo(NamedTuple):
    """A file whose content an index does not have."""

    id: str  # from `content_id`
    file: SourceFile


class Embedded(NamedTuple):
    """A file that was embedded and added, or skipped for a reason."""

    file: SourceFile
    frames: int
    reason: str  # why it was skipped; '' when it was added


def open_writer(model: VideoTextModel, index: str | os.PathLike, fps: float) -> IndexWriter:
    """Opens an index for the vectors of a model, or makes one.

    Raises:
        StoreError: the index is of another model or rate.
    """
    known, fingerprint = read_manifest(Path(index)), model.fingerprint
    if known and model.has_fingerprint(known["fingerprint"]):
        fingerprint = known["fingerprint"]  # of a former version
    about = {"model": model.loaded.origin, "fingerprint": fingerprint}
    return IndexWriter(index, about | {"fps": fps, "dim": model.config.model.embed_dim})


def embed_files(
    model: VideoTextModel, writer: IndexWriter, videos: Sequence[NewVideo], fps: float
) -> Iterator[Embedded]:
    """Embeds videos and adds each to the index when it is done.

    Args:
        model: that the index is made with.
        writer: of the index.
        videos: to embed, in order.
        fps: frames a second.

    Yields:
        What became of each video, in order. A file that cannot be decoded is noted in the index
        with the reason; one that its disk did not give is not, because that may pass.

    Raises:
        OSError: the disk is full.
    """
    readers: list[_Reader | None] = []

    def stream() -> Iterator[_Reader]:
        for video in videos:
            readers.append(_Reader(video.file.path, fps, model.encoder.image_size))
            yield readers[-1]

    for place, vectors in enumerate(embed_videos(model.encoder, stream())):
        # Taken out of the list, for it holds pictures.
        reader, readers[place] = readers[place], None
        reason = _add(writer, videos[place], reader, vectors, fps)
        yield Embedded(videos[place].file, len(vectors), reason)


def _add(writer: IndexWriter, video: NewVideo, reader: "_Reader", vectors, fps: float) -> str:
    """Adds a video that was read to the end, or notes and returns why it was not."""
    reason, may_pass = reader.error or ("" if len(vectors) else "it has no frames"), reader.may_pass
    if not may_pass and not _is_unchanged(video.file):
        # Its id is that of another content, or its share is gone and FFmpeg took that for the end.
        gone = not os.path.exists(video.file.path)
        reason, may_pass = "no such file any more" if gone else "it changed while it was read", True
    if reason:
        if not may_pass:
            writer.skip(video.file, reason)
        return reason
    times = np.arange(len(vectors), dtype=np.float32) / np.float32(fps)
    writer.add(
        video.id,
        video.file,
        vectors,
        times,
        reader.duration,
        thumbnails=reader.strip(),
        warnings=reader.warnings,
    )
    return ""


def _is_unchanged(file: SourceFile) -> bool:
    try:
        return SourceFile.of(file.path) == file
    except OSError:
        return False


class _Reader:
    """The frames of a file, of which it keeps small pictures; an error ends them and is kept."""

    def __init__(self, path: str, fps: float, size: int):
        self.error = ""
        self.may_pass = False  # the error is one of the disk or the network, not of the content
        self._reader = VideoReader(path, fps, size)
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
            self.may_pass = isinstance(error, OSError) or isinstance(error.__cause__, OSError)

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
