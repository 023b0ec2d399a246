"""Tests of the lock on a folder or a URL."""

import errno
import fcntl
import os
import stat
import subprocess
import sys

import pytest

from mova_jax.utils import lock as lock_lib
from mova_jax.utils.lock import is_locked, living_folder, lock

_TRY = """
import sys
from mova_jax.utils.lock import lock
try:
    with lock(sys.argv[1], across_machines=len(sys.argv) > 2):
        print("in")
except BlockingIOError:
    print("out")
"""


@pytest.mark.parametrize("scheme", ["", "memory:/"])
def test_a_lock_keeps_out_this_and_other_processes_until_it_is_released(tmp_path, scheme):
    path = f"{scheme}{tmp_path}"
    with lock(path), pytest.raises(BlockingIOError), lock(path):
        pass
    with lock(path):
        run = subprocess.run([sys.executable, "-c", _TRY, path], capture_output=True, text=True)
    assert run.stdout.strip() == "out", run.stderr


def nfs(handle, how, flock=fcntl.flock):
    """flock on NFS, which is a lock of fcntl there: it needs a file that is open for writing."""
    access = fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE
    if stat.S_ISDIR(os.fstat(handle).st_mode) or access != os.O_RDWR:
        raise OSError(errno.EBADF, "Bad file descriptor")
    flock(handle, how)


def test_a_lock_across_machines_is_one_that_nfs_has(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", nfs)
    assert is_locked(tmp_path) is None  # nobody made the file yet
    with lock(tmp_path, across_machines=True):
        assert is_locked(tmp_path) is True
        with pytest.raises(BlockingIOError), lock(tmp_path, across_machines=True):
            pass
        command = [sys.executable, "-c", _TRY, tmp_path, "across"]
        run = subprocess.run(command, capture_output=True, text=True)
    assert run.stdout.strip() == "out", run.stderr
    assert is_locked(tmp_path) is False
    with pytest.raises(FileNotFoundError):
        is_locked(tmp_path / "gone")


def test_living_folders_are_deleted_when_their_process_is_surely_gone(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock_lib, "_YOUNG", -1.0)
    left = tmp_path / "a-left"
    left.mkdir()
    with living_folder(tmp_path, "a-") as one:
        assert not left.exists()
        with living_folder(tmp_path, "a-"):
            assert one.exists()
        left.mkdir()
        with monkeypatch.context() as patch:
            patch.setattr(fcntl, "flock", unsupported)
            with living_folder(tmp_path, "a-"):
                assert one.exists() and left.exists()
    assert not one.exists()


def test_a_folder_that_a_former_version_locked_is_locked(tmp_path):
    with lock(tmp_path):
        assert is_locked(tmp_path)


def test_a_folder_that_cannot_be_written_is_locked_as_it_is(tmp_path, monkeypatch):
    def refuse(path, flags, *mode, real=os.open):
        if flags & os.O_ACCMODE == os.O_RDWR:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, flags, *mode)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with lock(tmp_path, across_machines=True):
            assert is_locked(tmp_path)
    assert not list(tmp_path.iterdir())
