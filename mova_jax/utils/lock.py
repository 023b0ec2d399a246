"""Locks on folders and URLs among processes, and folders that go with their process."""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_FILE = ".lock"  # in a folder that machines share
_YOUNG = 60.0  # seconds in which a new folder may wait for its lock


@contextlib.contextmanager
def lock(
    path: str | os.PathLike, wait: bool = False, *, across_machines: bool = False
) -> Iterator[None]:
    """Locks a folder against other processes of this machine; a killed process loses its lock.

    Where the file system has no locks, nothing is locked.

    Args:
        path: of a folder that exists, or a URL, whose lock is a file among the temporary ones.
        wait: whether to wait for another process that has the lock.
        across_machines: whether processes of other machines that share the folder are kept out too.
            NFS locks only files that are open for writing, so this is the lock of a file `.lock` in
            the folder, which stays there.

    Raises:
        BlockingIOError: when another process has it and `wait` is off.
    """
    if "://" in os.fspath(path):
        digest = hashlib.sha256(os.fspath(path).rstrip("/").encode()).hexdigest()[:16]
        path = Path(tempfile.gettempdir()) / f"mova_jax-{os.getuid()}-{digest}.lock"
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    elif across_machines:
        handle = _open_file(path, os.O_CREAT)
    else:
        handle = os.open(path, os.O_RDONLY)
    try:
        _acquire(handle, wait)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def living_folder(parent: str | os.PathLike, prefix: str) -> Iterator[Path]:
    """A new folder that is locked while this process uses it, and deleted after.

    Folders of the same prefix whose processes were killed, on any machine that shares the parent,
    are deleted first; none are where the file system has no locks.
    """
    for left in Path(parent).glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _YOUNG and is_locked(left) is False:
                shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as folder:
        with lock(folder, wait=True, across_machines=True):
            yield Path(folder)


def is_locked(folder: str | os.PathLike) -> bool | None:
    """Whether a process of any machine has a folder locked; None where there are no locks.

    Raises:
        OSError: the folder is gone.
    """
    handle = _open_file(folder)
    try:
        return False if _acquire(handle, wait=False) else None
    except BlockingIOError:
        return True
    finally:
        os.close(handle)


def _open_file(folder: str | os.PathLike, create: int = 0) -> int:
    """Opens the lock file of a folder; the folder itself where it has none and gets none."""
    path = Path(folder) / _FILE
    try:
        return os.open(path, os.O_RDWR | os.O_NOFOLLOW | create, 0o666)
    except (FileNotFoundError, PermissionError):
        pass
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:  # former versions locked the folder
        return os.open(folder, os.O_RDONLY)


def _acquire(handle: int, wait: bool) -> bool:
    """Locks an open file; False where its file system has no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True
