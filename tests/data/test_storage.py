"""Tests of folders on this machine and at URLs, which are to do the same."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from mova_jax.data.storage import Folder, join, local_file
from mova_jax.utils.lock import lock


class FileServer(LocalFileSystem):
    """Stands for a remote store that has folders, such as sftp://."""

    protocol = "server"


fsspec.register_implementation("server", FileServer)


@pytest.fixture(params=["", "file://", "server://", "memory:/"])
def folder(request, tmp_path):
    """A folder that does not exist yet: a path, as a URL, on a file server, in an object store.

    fsspec would take the brackets for a pattern in some of its calls.
    """
    return Folder(f"{request.param}{tmp_path}/[a]/b")


def test_what_is_written_is_read(folder):
    folder.write("x/one", b"1")
    folder.write("two", b"2")
    folder.write("two", b"22")
    again = pickle.loads(pickle.dumps(folder))
    assert again.names() == ["two", "x"] and again.names("x") == ["one"]
    assert again.read_all(["two", "x/one"]) == [b"22", b"1"]
    assert (folder.size("two"), folder.size("x/one"), folder.size("three")) == (2, 1, -1)
    assert sorted(folder.stamps()) == ["two", "x/one"]
    assert folder.names("nowhere") == []
    with pytest.raises(FileNotFoundError):
        folder.read("three")


def test_large_files_go_by_a_file_on_this_machine(folder):
    with folder.writing("x/big.bin") as path:
        path.write_bytes(b"big")
        assert folder.size("x/big.bin") == -1
    with folder.reading("x/big.bin") as path:
        assert path.read_bytes() == b"big"
        assert path.suffix == ".bin"
    with local_file(join(folder.path, "x/big.bin")) as path:
        assert path.read_bytes() == b"big"
    assert path.exists() == folder.is_local  # a copy is gone


def test_an_error_leaves_no_file(folder):
    folder.write("a", b"old")
    for name in ("a", "b"):
        with pytest.raises(RuntimeError), folder.writing(name) as path:
            path.write_bytes(b"half")
            raise RuntimeError
    assert folder.names() == ["a"] and folder.read("a") == b"old"


def test_moved_and_removed(folder):
    for name in ("a", "b", "x/c"):
        folder.write(name, name.encode())
    folder.move("a", "y/d")
    assert folder.read("y/d") == b"a" and folder.size("a") == -1
    folder.remove(["b", "no such file"])
    folder.remove_folder("x")
    folder.remove_folder("no such folder")
    assert list(folder.stamps()) == ["y/d"]
    folder.remove_folder()
    assert not folder.stamps()


def test_only_an_empty_folder_is_removed_as_one(folder):
    is_store = folder.path.startswith("memory")
    assert folder.make() != is_store  # which has no folders
    assert not folder.make()
    folder.write("a", b"")
    folder.remove_if_empty()
    assert folder.names() == ["a"]
    folder.remove(["a"])
    folder.remove_if_empty()
    assert folder.make() != is_store


def test_a_file_has_its_bytes_before_its_name(tmp_path, monkeypatch):
    """After a loss of power there is either nothing of it, or all."""
    calls = []
    monkeypatch.setattr(os, "fsync", lambda handle: calls.append(os.fstat(handle).st_size))
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda *names: (calls.append("name"), replace(*names)))
    folder = Folder(tmp_path)
    folder.write("moves.json", b"four", durable=True)
    with folder.writing("shard") as path:
        path.write_bytes(b"six by")
    assert calls == [4, "name", 6, "name"]


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "."])
def test_no_name_leads_out(folder, name):
    folder.write("a", b"")
    with pytest.raises((ValueError, OSError), match="leads out of"):
        folder.write(name, b"")
    with pytest.raises((ValueError, OSError), match="leads out of"):
        folder.read(name)


def test_a_url_is_one_place_and_no_chain(tmp_path):
    """`a::b` asks fsspec for a place in another place, which a name must not be able to do."""
    (tmp_path / "secret").write_text("secret")
    folder = Folder(f"file://{tmp_path}/inside")
    with pytest.raises(OSError):
        folder.read(f"x::file://{tmp_path}/secret")
    with pytest.raises(OSError, match="Protocol not known"):
        Folder(f"simplecache::file://{tmp_path}")


def test_a_protocol_that_is_not_known_or_not_installed(monkeypatch):
    with pytest.raises(OSError, match=r"nonsense://a.*Protocol not known"):
        Folder("nonsense://a")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(OSError, match=r"gs://a cannot be used: .*gcsfs"):
        Folder("gs://a")


def test_a_stamp_changes_with_the_file(folder):
    folder.write("a", b"1")
    first = folder.stamps()
    assert folder.stamps() == first
    folder.write("a", b"12")
    assert folder.stamps() != first


def test_one_user_at_a_time_of_this_machine(folder):
    folder.make()
    with lock(folder.path), pytest.raises(BlockingIOError), lock(folder.path):
        pass
    with lock(folder.path):
        code = (
            "import sys\nfrom mova_jax.utils.lock import lock\n"
            "try:\n  with lock(sys.argv[1]): print('in')\n"
            "except BlockingIOError: print('out')"
        )
        run = subprocess.run(
            [sys.executable, "-c", code, folder.path], capture_output=True, text=True, check=True
        )
    assert run.stdout.strip() == "out"
