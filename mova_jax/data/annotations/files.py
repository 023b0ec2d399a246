"""Reads the formats of published annotations: JSON, JSONL, Parquet, tables, lists, plain pickles.

A file of another format raises one `InputError`, which says what was got and what was expected.
Faults of single entries are left to the readers of the data sets. Text is UTF-8, or what
`utils/text_files.py` makes of it; guesses go to `tell`, which is `Intake.warn`.
"""

import contextlib
import csv
import itertools
import json
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from mova_jax.data.annotations.items import InputError
from mova_jax.utils.text_files import LFS_POINTER, is_lfs_pointer, open_text

Tell = Callable[[str, str], None]  # takes the name of a file and a warning about it

_LONGEST_CELL = 10_000_000  # characters; a quote that is never closed would read the whole file

# Appended to a table: it is a row of its own if all quotes are closed. No file can contain it,
# because null bytes are read as spaces.
_END = "\0end"


def one_of(folder: Path, *names: str, alone: bool = False) -> Path:
    """The first of the files that is in the folder.

    Args:
        folder: of the annotations.
        names: of the files.
        alone: whether one file suffices, so that `folder` may also be that file.

    Raises:
        InputError: when there is none.
    """
    if alone and folder.is_file():
        return folder
    for name in names:
        if (folder / name).is_file():
            return folder / name
    there = sorted(os.listdir(folder))[:8] if folder.is_dir() else []
    raise InputError(
        f"There is no {' or '.join(names)} in {folder}"
        + (f", which has {', '.join(there)}" if there else "")
        + "; --annotations is the folder of the files as their owner publishes them."
    )


def check(file: Path, fits: bool, expected: str, got: Any) -> None:
    """Refuses a file of another format.

    Raises:
        InputError: when it does not fit.
    """
    if not fits:
        text = got if isinstance(got, str) else f"{type(got).__name__} {got!r}"
        raise InputError(f"{file} must be {expected}, got {text[:200]}.")


def read_json(file: Path, tell: Tell) -> tuple[Any, list[str]]:
    """Reads a JSON file; of a key that an object has twice, the first counts, and it is returned.

    Args:
        file: JSON, by its standard in UTF-8.
        tell: gets a warning when it is not.

    Raises:
        InputError: when it cannot be read or is not JSON.
    """
    repeated: list[str] = []

    def unique(pairs):
        fields: dict[str, Any] = {}
        for key, value in pairs:
            if key in fields:
                repeated.append(key)
            else:
                fields[key] = value
        return fields

    try:
        with _opened(file, tell) as stream:
            return json.load(stream, object_pairs_hook=unique), repeated
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not JSON ({error}).") from error
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error}).") from error


def read_table(
    file: Path, tell: Tell, needed: Sequence[str], optional: Sequence[str] = ()
) -> Iterator[tuple[int, dict[str, str], str]]:
    """The rows of a CSV with a header, one at a time.

    Args:
        file: the table; null bytes count as spaces.
        tell: gets a warning when its encoding had to be guessed.
        needed: columns that must be there; ('a|b',) allows either name and calls it 'a'.
        optional: columns that may be there.

    Yields:
        The number of the line, the cells of the named columns, and the fault of the row or ''.

    Raises:
        InputError: when it cannot be read, has other columns, or is not a table.
    """
    csv.field_size_limit(_LONGEST_CELL)
    try:
        with _opened(file, tell, newline="") as stream:
            rows = _rows(file, stream)
            header = [cell.strip() for cell in next(rows, (0, []))[1]]
            places = _places(file, header, needed, optional)
            for line, row in rows:
                if not row:
                    continue
                wrong = ""
                if len(row) != len(header):
                    wrong = f"it has {len(row)} cells, the header {len(header)}"
                cells = {name: row[i] if i < len(row) else "" for name, i in places.items()}
                yield line, cells, wrong
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error}).") from error


def _rows(file: Path, stream: TextIO) -> Iterator[tuple[int, list[str]]]:
    """The rows of a table, each with the number of its last line."""
    lines = (line.replace("\0", " ") for line in stream)
    rows = csv.reader(itertools.chain(lines, [_END]))
    begin = 1
    try:
        for row in rows:
            if row == [_END]:
                return
            if row and row[-1].endswith(_END):
                raise csv.Error("a quote in this row is never closed; is the file cut short?")
            yield rows.line_num, row
            begin = rows.line_num + 1
    except csv.Error as error:
        raise InputError(f"{file} is not a CSV: line {begin}: {error}") from error


def _places(file: Path, header: list[str], needed, optional) -> dict[str, int]:
    """The index of each named column."""
    known = {name.lower(): i for i, name in reversed(list(enumerate(header)))}
    places, absent = {}, []
    for column in [*needed, *optional]:
        names = column.split("|")
        index = next((known[name.lower()] for name in names if name.lower() in known), None)
        if index is not None:
            places[names[0]] = index
        elif column in needed:
            absent.append(" or ".join(names))
    check(
        file,
        not absent,
        "a CSV with the columns " + ", ".join(c.replace("|", " or ") for c in needed),
        f"the columns {', '.join(header) or 'none'} (without {', '.join(absent)})",
    )
    return places


@contextlib.contextmanager
def _opened(file: Path, tell: Tell, newline: str | None = None) -> Iterator[TextIO]:
    with open_text(file, newline) as (stream, note):
        if note:
            tell(file.name, note)
        yield stream


def read_lines(file: Path, tell: Tell) -> list[str]:
    """The lines of a text file that are not empty, without white space around them.

    Args:
        file: the text.
        tell: gets a warning when its encoding had to be guessed.

    Raises:
        InputError: when it cannot be read.
    """
    try:
        with _opened(file, tell) as stream:
            return [stripped for line in stream if (stripped := line.strip())]
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error}).") from error


def read_rows(file: Path, tell: Tell) -> list[str] | list[dict[str, Any]]:
    """The rows of a Parquet file as objects, the lines of any other file as in `read_lines`.

    Raises:
        InputError: when it cannot be read.
    """
    if file.suffix.lower() != ".parquet":
        return read_lines(file, tell)
    from pyarrow import ArrowException, parquet  # slow to import; comes with tensorflow-datasets

    try:
        if is_lfs_pointer(file):
            raise OSError(LFS_POINTER)
        return parquet.read_table(file).to_pylist()
    except (OSError, ArrowException) as error:
        raise InputError(f"{file} is not Parquet or cannot be read ({error}).") from error


def json_object(line: str | bytes) -> dict[str, Any]:
    """The object of a line of JSONL.

    Raises:
        ValueError: when it is not a JSON object.
    """
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at column {error.colno})") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise ValueError(f"not a JSON object but {type(fields).__name__}")
    return fields


class _Plain(pickle.Unpickler):
    """Reads containers, texts and numbers only, because a pickle can run any code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which may run code")


def read_plain_pickle(file: Path) -> Any:
    """Reads a pickle of dicts, lists, tuples, sets, texts, bytes and numbers; runs no code of it.

    Texts of Python 2 are bytes, whose encoding the pickle does not say.

    Raises:
        InputError: when it holds anything else, or is not a pickle.
    """
    try:
        if is_lfs_pointer(file):
            raise OSError(LFS_POINTER)
        with file.open("rb") as stream:
            return _Plain(stream, encoding="bytes").load()
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error}).") from error
    except Exception as error:  # a damaged pickle raises many kinds
        raise InputError(
            f"{file} is not a pickle of plain lists and texts and was not read ({error})."
        ) from error
