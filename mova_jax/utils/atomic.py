"""Writes files and folders aside and renames them: what has its name is whole, whatever happens.

    with replacing(path) as aside:      # a file to write, or a folder to make
        aside.write_bytes(data)

A reader of `path` sees the old content or the new one, never half of it. A killed process leaves a
name that begins with a dot and ends in `.partial`.

When the power is lost, a file may have its new name and not yet its bytes. `durable` asks the disk
for the bytes before the rename and for the name after it: what has returned is there afterwards, as
far as the file system and the disk keep what fsync promises.
"""

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: str | os.PathLike, *, durable: bool = False) -> Iterator[Path]:
    """A path to write to, which becomes `path` when the block ends without an error.

    Args:
        path: of a file or a folder; its parent is made. A file that is there is replaced, a folder
            only when it is empty.
        durable: whether it also survives a loss of power, see the module.

    Raises:
        OSError: what could not be written or renamed; nothing is left aside then.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        yield aside
        if durable:
            sync_content(aside)
        if aside.is_dir() and path.is_dir():
            path.rmdir()
        aside.replace(path)
        if durable:
            sync_name(path)
    finally:
        if aside.is_dir():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            aside.unlink(missing_ok=True)


def write_bytes(path: str | os.PathLike, data: bytes, *, durable: bool = False) -> None:
    """Writes a file, whole or not at all; see `replacing`."""
    with replacing(path, durable=durable) as aside:
        aside.write_bytes(data)


def write_text(path: str | os.PathLike, text: str, *, durable: bool = False) -> None:
    """Writes a file of UTF-8 text, whole or not at all; see `replacing`."""
    write_bytes(path, text.encode(), durable=durable)


def sync_content(path: str | os.PathLike) -> None:
    """Returns when the bytes of a file, or of all files in a folder, are on the disk."""
    path = Path(path)
    if path.is_dir():
        for inside in path.iterdir():
            sync_content(inside)
        _sync_folder(path)
        return
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def sync_name(path: str | os.PathLike) -> None:
    """Returns when the name that a file or folder got by a rename is on the disk."""
    _sync_folder(Path(path).absolute().parent)


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise  # some network file systems sync no folders
    finally:
        os.close(handle)
