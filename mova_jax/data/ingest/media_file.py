"""Opens video files, finds the film in them, and names what is wrong with those that have none.

    with open_media("holiday.mkv") as container:
        stream = video_stream(container)

Only this file, `video_reader.py` and `remux.py` import PyAV.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mova_jax.data.images import MAX_PIXELS
from mova_jax.utils.text_files import LFS_POINTER, is_lfs_pointer

# Formats that name other files, which may be anywhere.
_PLAYLISTS = {"hls", "concat", "dash", "applehttp"}
_ANIMATION = 0x02  # flag of the chunk VP8X, developers.google.com/speed/webp/docs/riff_container


class DecodeError(Exception):
    """A video that cannot be decoded; the message is the reason.

    Its cause is an OSError where the file could not be read, which may pass.
    """


@contextlib.contextmanager
def open_media(path: str | os.PathLike) -> Iterator[Any]:
    """A file as a PyAV container.

    Raises:
        DecodeError: no such file, an empty one, a list of other files, or a kind that is known not
            to be decoded.
        av.error.FFmpegError: FFmpeg does not know it.
    """
    import av

    path = Path(path).absolute()
    if not path.is_file():
        raise DecodeError("no such file") from FileNotFoundError(errno.ENOENT, "", str(path))
    if fault := _fault_of(path):
        raise DecodeError(fault)
    # Only files: a disguised playlist must not open network connections. Old cameras write
    # titles that are not UTF-8, which is no reason to refuse the video.
    options = {"protocol_whitelist": "file", "max_pixels": str(MAX_PIXELS)}
    with av.open(str(path), options=options, metadata_errors="replace") as container:
        if playlist := _PLAYLISTS & set(container.format.name.split(",")):
            names = ", ".join(playlist)
            raise DecodeError(f"a list of other files ({names}), not a video")
        yield container


def video_stream(container):
    """The video stream that players show: not the first, but the one that FFmpeg finds best.

    Raises:
        DecodeError: it has none, but for covers and thumbnails.
    """
    from av.stream import Disposition

    no_film = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.dependent
    films = [stream for stream in container.streams.video if not stream.disposition & no_film]
    if not films:
        raise DecodeError("no video stream")
    best = container.streams.best("video")
    if best in films:
        return best
    return next((stream for stream in films if stream.disposition & Disposition.default), films[0])


def _fault_of(path: Path) -> str:
    """Why a file that exists cannot be a video; '' where FFmpeg is to try."""
    if not path.stat().st_size:
        return "the file is empty"
    if is_lfs_pointer(path):
        return LFS_POINTER
    with path.open("rb") as file:
        head = file.read(21)
    if head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and head[20:] and head[20] & _ANIMATION:
        return "an animated WebP, which FFmpeg does not decode: convert it to MP4 or GIF"
    return ""


def is_cut_short(path: Path) -> bool:
    """Whether an MP4 ends within a box; its index, which decoding needs, is often the last one."""
    size, position = path.stat().st_size, 0
    with path.open("rb") as file:
        while position + 8 <= size:
            file.seek(position)
            header = file.read(16)
            if position == 0 and header[4:8] != b"ftyp":
                return False
            length = int.from_bytes(header[:4])
            length = int.from_bytes(header[8:]) if length == 1 else length
            if length < 8:  # 0 means up to the end
                return False
            position += length
    return position != size
