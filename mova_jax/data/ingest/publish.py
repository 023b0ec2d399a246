"""The output folder of `prepare`: one writer at a time, and whole or not there.

    with open_output("shards") as folder:            # or a URL
        ...                                          # all work is in PARTIAL, see unfinished.py
        publish(folder, {".partial/shards/1f.array_record": "clips-train..."}, staged)

Files get their names at the end, the manifest last. Which ones do is written down before, so that a
call that was killed in between is undone by the next one.
"""

import contextlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mova_jax.data.ingest.partial_output import PARTIAL, PartialOutput
from mova_jax.data.shards import MANIFEST, ShardError, reraise_as_shard_error
from mova_jax.data.storage import Folder
from mova_jax.utils.lock import lock

_MOVES = f"{PARTIAL}/moves.json"
_MOVES_AT_ONCE = 8  # of use where a store is far away


class InUse(ShardError):
    """Another process is at work in the folder."""


@contextlib.contextmanager
def open_output(path: str) -> Iterator[Folder]:
    """The folder, for this process alone; as it was where nothing was done when the block ends.

    Raises:
        ShardError: when another process has it, it holds something else, or cannot be written.
    """
    with contextlib.ExitStack() as stack:
        with reraise_as_shard_error(f"{path} cannot be written"):
            folder = Folder(path)
            new = folder.make()
            try:
                stack.enter_context(lock(folder.path))
            except BlockingIOError as error:
                raise InUse(
                    f"Another process is writing to {path}; wait for it, or give another output "
                    "folder."
                ) from error
            if folder.size(MANIFEST) < 0:
                _undo(folder)
            elif folder.size(_MOVES) >= 0:
                discard(folder)  # of a call that was killed when all was done
            if others := [name for name in folder.names() if name != PARTIAL]:
                what = "has shards already" if MANIFEST in others else "is not empty"
                raise ShardError(f"{path} {what} and stays as it is; give another output folder.")
        try:
            yield folder
        finally:
            with contextlib.suppress(OSError):
                if PartialOutput(folder).is_empty():
                    discard(folder, new)


def is_unfinished(path: str) -> bool:
    """Whether a call left something in the folder from which the next one can go on."""
    try:
        return not PartialOutput(Folder(path)).is_empty()
    except OSError:
        return False


def discard(folder: Folder, also_itself: bool = False) -> None:
    """Removes what an unfinished call keeps, and the folder where it is empty then."""
    folder.remove_folder(PARTIAL)
    if also_itself:
        folder.remove_if_empty()


def publish(folder: Folder, shards: dict[str, str], staged: Path) -> None:
    """Gives all files their names: shards, then small files, then the manifest.

    Args:
        folder: of the output.
        shards: where each is in the folder, and its name.
        staged: a folder on this machine with all other files.

    Raises:
        ShardError: when one cannot be stored; those that were are taken back.
    """
    files = [file.relative_to(staged).as_posix() for file in staged.rglob("*") if file.is_file()]
    files.sort(key=lambda name: (name == MANIFEST, name))
    moves = json.dumps({"moved": shards, "written": files}).encode()
    try:
        with reraise_as_shard_error(f"{folder} cannot be written"):
            folder.write(_MOVES, moves, durable=True)
            with ThreadPoolExecutor(_MOVES_AT_ONCE) as pool:
                list(pool.map(folder.move, shards.keys(), shards.values()))
            for name in files:
                folder.write(name, (staged / name).read_bytes(), durable=True)
    except BaseException:
        with contextlib.suppress(OSError):
            _undo(folder)
        raise
    discard(folder)


def _undo(folder: Folder) -> None:
    """Takes back the names that a call gave that did not come to its end.

    Raises:
        ShardError: when it is not known which.
    """
    try:
        moves = json.loads(folder.read(_MOVES))
        moved, written = dict(moves["moved"]), list(moves["written"])
    except FileNotFoundError:
        return
    except (ValueError, TypeError, KeyError) as error:
        raise ShardError(
            f"{folder}/{_MOVES} is damaged ({error!r}), so what an earlier call began to publish "
            "cannot be taken back; remove the output folder, and run again."
        ) from error
    for place, name in moved.items():
        if folder.size(name) >= 0:
            folder.move(name, place)
    # Files that were being written when the call was killed are still under a temporary name.
    asides = [name for name in folder.names() if name.startswith(".") and name.endswith(PARTIAL)]
    folder.remove({*written, *asides} - {PARTIAL})
    for name in {name.partition("/")[0] for name in written if "/" in name}:
        folder.remove_folder(name)
    folder.remove([_MOVES])
