"""Reads text files of unknown encoding: UTF-8, UTF-16 with its mark, else cp1252; says which.

    text, note = decode_text(file.read_bytes())
    with open_text(file) as (stream, note): ...        # line by line, for files of any size

`note` is '' unless something had to be guessed. cp1252 is what Windows writes in Western Europe and
America; nothing in a file tells it from other old encodings, so the user must hear of the guess.
"""

import codecs
import contextlib
import io
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
LFS_POINTER = "a Git LFS pointer in place of the file: fetch it with `git lfs pull`"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_UNDEFINED = bytes([0x81, 0x8D, 0x8F, 0x90, 0x9D])  # in cp1252


class _Encoding(NamedTuple):
    name: str
    errors: str = "replace"
    note: str = ""


def parse_json(text: str | bytes) -> Any:
    """`json.loads` for texts of strangers.

    Raises:
        ValueError: it is no JSON, or too deeply nested, which the library has another error for.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply to be read") from None


def is_lfs_pointer(path: str | os.PathLike) -> bool:
    """Whether a file is a pointer of Git LFS, which stands for a file that was not fetched."""
    with open(path, "rb") as stream:
        return stream.read(len(_LFS_POINTER)) == _LFS_POINTER


def decode_text(data: bytes) -> tuple[str, str]:
    """Decodes a whole file.

    Returns:
        The text without a byte order mark, and what was guessed, or ''.
    """
    name, errors, note = _encoding_of(io.BytesIO(data), data[:2])
    return data.decode(name, errors), note


@contextlib.contextmanager
def open_text(file: Path, newline: str | None = None) -> Iterator[tuple[TextIO, str]]:
    """Opens a text file.

    Args:
        file: is read twice where it is not UTF-16, the first time to find its encoding.
        newline: as for `open`.

    Yields:
        The text without a byte order mark, and what was guessed, or ''.

    Raises:
        OSError: it cannot be read, or is a Git LFS pointer.
    """
    if is_lfs_pointer(file):
        raise OSError(LFS_POINTER)
    with file.open("rb") as data:
        start = data.read(2)
        data.seek(0)
        name, errors, note = _encoding_of(data, start)
    with file.open(encoding=name, errors=errors, newline=newline) as stream:
        yield stream, note


def _encoding_of(lines: Iterable[bytes], start: bytes) -> _Encoding:
    """The encoding of the lines of a file that begins with `start`, its first 2 bytes."""
    if start in _UTF16:
        return _Encoding("utf-16")
    good = bad = undefined = 0
    first = 0
    for number, line in enumerate(lines, 1):
        if line.isascii():
            continue
        try:
            line.decode()
            good += 1
        except UnicodeDecodeError:
            bad += 1
            first = first or number
            undefined += len(line) - len(line.translate(None, _UNDEFINED))
    if not bad:
        return _Encoding("utf-8-sig")
    lost = f" ({undefined} bytes mean nothing there, either, and became U+FFFD)" * bool(undefined)
    if good >= bad:  # lines of cp1252 rarely make sense in UTF-8: this is UTF-8 with faults
        note = f"{bad} lines, the first of them line {first}, are not UTF-8; their other bytes"
        return _Encoding("utf-8-sig", "cp1252", f"{note} were read as cp1252{lost}")
    note = f"it is not UTF-8 and was read as cp1252 (Windows, Western Europe){lost}"
    return _Encoding("cp1252", "replace", f"{note}; where that is wrong, save it as UTF-8")


def _as_cp1252(error: UnicodeError) -> tuple[str, int]:
    """Error handler of `decode` that reads the bytes in question as cp1252."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return error.object[error.start : error.end].decode("cp1252", "replace"), error.end


codecs.register_error("cp1252", _as_cp1252)
