"""How far the commands are that fill an index, for others who look at it.

with reported(folder, files=120) as done:
    done(3)                               # three files are done

now_indexing(folder)                      # Indexing(done=3, files=120), all commands together

INDEX/indexing/NAME/progress.json         of a command that runs, which has the folder locked
"""

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from mova_jax.utils import atomic
from mova_jax.utils.lock import is_locked, living_folder

INDEXING, PROGRESS = "indexing", "progress.json"
_EVERY = 2.0  # seconds between two reports


class Indexing(NamedTuple):
    """Files that were embedded or skipped, of all that have to be."""

    done: int
    files: int


@contextlib.contextmanager
def reported(folder: str | os.PathLike, files: int) -> Iterator[Callable[[int], None]]:
    """Reports how many files of an index are done, while the block runs.

    Args:
        folder: of the index.
        files: that have to be embedded.
    """
    parent, last = Path(folder) / INDEXING, 0.0
    parent.mkdir(exist_ok=True)
    with living_folder(parent, "") as mine:

        def done(count: int) -> None:
            nonlocal last
            if time.monotonic() - last > _EVERY:
                last = time.monotonic()
                atomic.write_text(mine / PROGRESS, json.dumps({"done": count, "files": files}))

        done(0)
        yield done


def now_indexing(folder: str | os.PathLike) -> Indexing | None:
    """What runs at an index; None when nothing does. A command that was killed does not run."""
    found = []
    for path in (Path(folder) / INDEXING).glob(f"*/{PROGRESS}"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # it ends just now
            if is_locked(path.parent):
                one = json.loads(path.read_text(encoding="utf-8"))
                found.append(Indexing(int(one["done"]), int(one["files"])))
    return Indexing(*map(sum, zip(*found, strict=True))) if found else None
