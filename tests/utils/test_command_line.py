"""What the parsers of all commands have in common."""

import argparse
import errno
import functools

import pytest

from mova_jax.utils import command_line
from mova_jax.utils.command_line import file_error, local_path, path_or_bucket


def test_a_folder_may_be_a_url_of_this_machine():
    for text, path in (("runs/a", "runs/a"), ("/a,b c", "/a,b c"), ("file:///tmp/x", "/tmp/x")):
        assert local_path(text) == path
    for text in ("gs://bucket/run", "s3://a/b", "file://host/x", "file://x"):
        with pytest.raises(argparse.ArgumentTypeError, match=f"got the URL {text}, expected"):
            local_path(text)


def test_an_error_of_the_file_system_is_one_line_with_its_place():
    full = file_error(OSError(errno.ENOSPC, "No space left on device"), "out")
    assert full.startswith("no space is left on the device of out; ") and "same command" in full
    named = file_error(PermissionError(errno.EACCES, "Permission denied", "/x"), "out")
    assert named == "/x: Permission denied; correct the path or its permissions"
    assert file_error(OSError(errno.EIO, "Input/output error"), "out") == "out: Input/output error"
    assert file_error(OSError("gs://b: no such bucket"), "out") == "gs://b: no such bucket"


def test_shared_memory_that_is_full_is_named_in_place_of_the_disk(monkeypatch, tmp_path):
    free = {"/dev/shm": 60_000, str(tmp_path): 10**9}
    monkeypatch.setattr(command_line, "_free", free.get)
    error = OSError(errno.ENOSPC, "No space left on device")
    explain = functools.partial(file_error, place=str(tmp_path), shares_memory=True)
    assert "/dev/shm" in explain(error) and "worker_processes=0" in explain(error)
    assert str(tmp_path) in file_error(error, str(tmp_path))  # a command without worker processes
    assert str(tmp_path) in explain(OSError(errno.EDQUOT, "Disk quota exceeded"))
    free["/dev/shm"] = 10**10
    assert str(tmp_path) in explain(error)
    free["/dev/shm"] = None  # a system without it
    assert str(tmp_path) in explain(error)


def test_a_workdir_may_be_in_a_bucket_of_google_s():
    taken = {"gs://bucket/runs/a/": "gs://bucket/runs/a", "runs/a": "runs/a", "file:///x": "/x"}
    assert {text: path_or_bucket(text) for text in taken} == taken
    for text in ("s3://a/b", "gs://bucket", "gs://bucket/", "gs:///run"):
        with pytest.raises(argparse.ArgumentTypeError, match="or gs://BUCKET/FOLDER"):
            path_or_bucket(text)
