"""The output folder of `prepare`: one writer at a time, published completely or not at all.

    with open_output("shards") as folder:            # or a URL
        ...                                          # the work is in PARTIAL (partial_output.py)
        publish(folder, {".partial/shards/1f.array_record": "clips-train..."}, staged)

Files get their names at the end, the manifest last. The list of these names is written first, so
that the next call can undo a publication that was killed.
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
_MOVES_AT_ONCE = 8  # helps with a remote store


class InUse(ShardError):
    """Another process is writing to the folder."""


@contextlib.contextmanager
def open_output(path: str) -> Iterator[Folder]:
    """Opens the folder for this process alone; removes what it created if no work was done.

    Raises:
        ShardError: when another process uses it, it holds other files, or cannot be written.
    """
    with contextlib.ExitStack() as stack:
        with reraise_as_shard_error(f"{path} cannot be written"):
            folder = Folder(path)
            is_new = folder.make()
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
                discard(folder)  # a call was killed right after it had published
            if others := [name for name in folder.names() if name != PARTIAL]:
                what = "has shards already" if MANIFEST in others else "is not empty"
                raise ShardError(f"{path} {what} and stays as it is; give another output folder.")
        try:
            yield folder
        finally:
            with contextlib.suppress(OSError):
                if PartialOutput(folder).is_empty():
                    discard(folder, is_new)


def is_unfinished(path: str) -> bool:
    """Whether the folder holds work from which the next call can resume."""
    try:
        return not PartialOutput(Folder(path)).is_empty()
    except OSError:
        return False


def discard(folder: Folder, also_itself: bool = False) -> None:
    """Removes unfinished work, and on request the folder itself if it is then empty."""
    folder.remove_folder(PARTIAL)
    if also_itself:
        folder.remove_if_empty()


def publish(folder: Folder, shards: dict[str, str], staged: Path) -> None:
    """Gives all files their names: shards, then small files, then the manifest.

    Args:
        folder: of the output.
        shards: current name of each shard in the folder, and its final name.
        staged: a local folder with all other files.

    Raises:
        ShardError: when a file cannot be stored; everything is then undone.
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
    """Undoes a publication that did not finish.

    Raises:
        ShardError: when the list of its files is damaged.
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
    # A killed call also leaves the temporary name of the file that it was writing.
    asides = [name for name in folder.names() if name.startswith(".") and name.endswith(PARTIAL)]
    folder.remove({*written, *asides} - {PARTIAL})
    for name in {name.partition("/")[0] for name in written if "/" in name}:
        folder.remove_folder(name)
    folder.remove([_MOVES])
