"""Copies of videos in containers that browsers play, made when they are asked for.

    with PlayableFiles(most_bytes=2**32) as files:
        files.file("3f2a", "holiday.mkv").path      # of an MP4 or WebM with the same picture

The copies are temporary: they have at most so many bytes together (those used longest ago go first)
and half of the free space of the disk, and are deleted at the end. What a killed process left is
deleted by the next one.
"""

import contextlib
import errno
import os
import shutil
import tempfile
import threading

from mova_jax.data.ingest.remux import Remuxed, remux
from mova_jax.data.ingest.video_reader import DecodeError
from mova_jax.utils.lock import living_folder

_PREFIX = f"mova_jax-playable-{os.getuid()}-"


class PlayableFiles:
    """A bounded folder of such copies; used by any number of threads, which wait for each other."""

    def __init__(self, most_bytes: int = 2**32):
        """Makes the folder.

        Args:
            most_bytes: of all copies.
        """
        self._most = most_bytes
        self._held = contextlib.ExitStack()
        self._folder = self._held.enter_context(living_folder(tempfile.gettempdir(), _PREFIX))
        self._made: dict[str, Remuxed] = {}  # by id, the one used last at the end
        self._refused: dict[str, str] = {}  # id: reason
        self._one = threading.Lock()

    def __enter__(self) -> "PlayableFiles":
        return self

    def __exit__(self, *_) -> None:
        self._held.close()

    def file(self, video: str, source: str | os.PathLike) -> Remuxed:
        """The copy of a video, and why it has no sound.

        Args:
            video: its id, which is another one when its content changes.
            source: its file.

        Raises:
            DecodeError: why there is none.
        """
        with self._one:
            if video in self._refused:
                raise DecodeError(self._refused[video])
            made = self._made.pop(video, None)
            try:
                self._made[video] = made or self._make(video, source)
            except DecodeError as error:
                if not isinstance(error.__cause__, OSError):
                    self._refused[video] = str(error)
                raise
            except OSError as error:  # it may be there again, or have room, the next time
                raise DecodeError(f"it cannot be repackaged ({error.strerror})") from error
            return self._made[video]

    def _make(self, video: str, source: str | os.PathLike) -> Remuxed:
        needed = os.stat(source).st_size
        while self._made and not self._fits(needed):
            self._made.pop(next(iter(self._made))).path.unlink(missing_ok=True)
        if not self._fits(needed):
            raise OSError(errno.ENOSPC, f"its {needed:,} bytes are too many for the free space")
        # Another container has other headers, which are a small part of a file.
        return remux(source, self._folder / video, needed + needed // 8 + 2**16)

    def _fits(self, size: int) -> bool:
        used = sum(made.path.stat().st_size for made in self._made.values())
        free = shutil.disk_usage(self._folder).free
        return used + size <= self._most and 2 * size <= free
