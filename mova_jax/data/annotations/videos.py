"""Finds the files of a data set in one folder, by the names in its annotations.

    videos = VideoFolder("MSVD/YouTubeClips")
    videos.find("-4wsuPCjDBc_5_15").path            # .../-4wsuPCjDBc_5_15.avi
    videos.find("coco/train2017/000000000009.jpg")  # a path in the folder is a name, too

No name leads out of the folder: neither `../`, nor an absolute path, nor a link inside of it.
"""

import collections
import os
import posixpath
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mova_jax.data import storage
from mova_jax.data.annotations.items import InputError, is_unicode

# In the order of preference when a name has several files. DiDeMo alone uses most of them.
VIDEO_EXTENSIONS = (
    ".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".wmv", ".flv",
    ".3gp", ".3g2", ".mts", ".m2ts", ".ts", ".ogv",
)  # fmt: skip
IMAGE_EXTENSIONS = (
    ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".heif",
)  # fmt: skip


class Found(NamedTuple):
    """A file: its path, its path inside the folder, and the number of others with its name."""

    path: Path | str
    inside: str
    others: int


class VideoFolder:
    """All videos (or images) under a folder, listed once."""

    def __init__(self, folder: str | os.PathLike, extensions: tuple[str, ...] = VIDEO_EXTENSIONS):
        """Lists the folder, a path or a URL, with all folders in it.

        Raises:
            InputError: when there is no such folder or it cannot be read.
        """
        self.folder = folder if storage.is_url(folder) else Path(folder)
        self._extensions = extensions
        # By path and by bare name, both with and without the extension.
        self._files: dict[str, str] = {}
        self._others: collections.Counter[str] = collections.Counter()
        self._outside: set[str] = set()
        self.not_unicode: list[str] = []  # names that no annotation can write
        try:
            place = storage.Folder(folder)
            for inside, leads_out in _files_of(place):
                self._add(inside, leads_out)
        except NotADirectoryError as error:
            raise InputError(
                f"There is no folder {folder}; --videos is the folder of the videos."
            ) from error
        except OSError as error:
            raise InputError(f"The folder {folder} cannot be read: {error}.") from error

    def _add(self, inside: str, leads_out: bool) -> None:
        name = posixpath.basename(inside)
        if name.startswith(".") or not self._is_known(name):
            return
        if not is_unicode(inside):
            self.not_unicode.append(inside)
            return
        for key in {inside, name, self._stem(inside), self._stem(name)}:
            if leads_out:
                self._outside.add(key)
            elif key not in self._files:
                self._files[key] = inside
            else:
                self._others[key] += 1
                self._files[key] = min(self._files[key], inside, key=self._preference)

    def _is_known(self, name: str) -> bool:
        return name.lower().endswith(self._extensions)

    def _stem(self, name: str) -> str:
        return os.path.splitext(name)[0] if self._is_known(name) else name

    def _preference(self, inside: str) -> tuple[int, int, str]:
        extension = os.path.splitext(inside)[1].lower()
        return inside.count("/"), self._extensions.index(extension), inside

    def find(self, *names: str) -> Found:
        """The file of the first name that has one; extensions may be wrong or missing.

        Raises:
            ValueError: when a name leads out of the folder.
            FileNotFoundError: when no name has a file.
        """
        for name in names:
            if storage.escapes(name):
                raise ValueError(f"the path {name!r} leaves the videos folder")
        candidates = [posixpath.normpath(name) for name in names]
        candidates += [self._stem(name) for name in candidates]
        for name in candidates:
            if inside := self._files.get(name):
                return Found(storage.join(self.folder, inside), inside, self._others[name])
        if any(name in self._outside for name in candidates):
            raise ValueError("its file is a link that leads out of the videos folder")
        raise FileNotFoundError("no file of this name in the videos folder")


def _files_of(folder: storage.Folder) -> Iterator[tuple[str, bool]]:
    """Yields the path of each file below a folder, and whether it is a link that leads out.

    Linked folders are not entered, because a link may lead to one of its own parents.

    Raises:
        NotADirectoryError: when there is no such folder.
    """
    if not folder.is_local:
        yield from ((inside, False) for inside in folder.stamps())
        return
    if not os.path.isdir(folder.path):
        raise NotADirectoryError(folder.path)
    pending = [""]
    while pending:
        below = pending.pop()
        with os.scandir(os.path.join(folder.path, below)) as entries:
            for entry in entries:
                inside = posixpath.join(below, entry.name)
                if entry.is_dir(follow_symlinks=False):
                    pending.append(inside)
                elif entry.is_file():
                    yield inside, entry.is_symlink() and folder.links_outside(inside)
