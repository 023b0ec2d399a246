"""Writes files and folders aside and renames them: what has its name is whole, whatever happens.

    with replacing(path) as aside:      # a file to write, or a folder to make
        aside.write_bytes(data)

A reader of `path` sees the old content or the new one, never half of it. A killed process leaves a
name that begins with a dot and ends in `.partial`.
"""

import contextlib
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
        durable: whether a file also survives a loss of power: without this it may get its name
            before it has its bytes.

    Raises:
        OSError: what could not be written or renamed; nothing is left aside then.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        yield aside
        if durable and aside.is_file():
            with aside.open("rb") as stream:
                os.fsync(stream.fileno())
        if aside.is_dir() and path.is_dir():
            path.rmdir()
        aside.replace(path)
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
