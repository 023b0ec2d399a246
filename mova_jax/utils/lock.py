"""Locks on folders and URLs among the processes of this machine, and folders that go with them."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_YOUNG = 60.0  # seconds in which a new folder may wait for its lock


@contextlib.contextmanager
def lock(path: str | os.PathLike, wait: bool = False) -> Iterator[None]:
    """Locks a folder against other processes of this machine; a killed process loses its lock.

    Args:
        path: of a folder that exists, or a URL, whose lock is a file among the temporary ones.
        wait: whether to wait for another process that has the lock.

    Raises:
        BlockingIOError: when another process has it and `wait` is off.
    """
    if "://" in os.fspath(path):
        digest = hashlib.sha256(os.fspath(path).rstrip("/").encode()).hexdigest()[:16]
        path = Path(tempfile.gettempdir()) / f"mova_jax-{os.getuid()}-{digest}.lock"
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    else:
        handle = os.open(path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError:
            pass  # some network file systems have no locks
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def living_folder(parent: str | os.PathLike, prefix: str) -> Iterator[Path]:
    """A new folder that is locked while this process uses it, and deleted after.

    Folders of the same prefix whose processes were killed are deleted first.
    """
    for left in Path(parent).glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime > _YOUNG and not is_locked(left):
                shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as folder:
        with lock(folder, wait=True):
            yield Path(folder)


def is_locked(path: str | os.PathLike) -> bool:
    """Whether a process has the lock of a folder.

    Raises:
        OSError: the folder is gone.
    """
    try:
        with lock(path):
            return False
    except BlockingIOError:
        return True
