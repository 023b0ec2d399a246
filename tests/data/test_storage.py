"""Tests that folders on this machine and at URLs behave alike."""

import os
import pickle
import stat
import sys
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from mova_jax.data.storage import Folder, join, local_file


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


def test_written_files_are_read_back(folder):
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


def test_files_are_written_and_read_through_local_paths(folder):
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


def test_files_and_folders_are_moved_and_removed(folder):
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


def test_remove_if_empty_removes_only_an_empty_folder(folder):
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
    """So a loss of power leaves all of the file, or nothing."""
    calls = []

    def synced(handle):
        found = os.fstat(handle)
        calls.append("folder" if stat.S_ISDIR(found.st_mode) else found.st_size)

    monkeypatch.setattr(os, "fsync", synced)
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda *names: (calls.append("name"), replace(*names)))
    folder = Folder(tmp_path)
    folder.write("moves.json", b"four", durable=True)
    with folder.writing("shard") as path:
        path.write_bytes(b"six by")
    assert calls == [4, "name", "folder", 6, "name", "folder"]


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "."])
def test_no_name_leads_out_of_the_folder(folder, name):
    folder.write("a", b"")
    with pytest.raises((ValueError, OSError), match="leads out of"):
        folder.write(name, b"")
    with pytest.raises((ValueError, OSError), match="leads out of"):
        folder.read(name)


def test_a_url_is_never_a_chain_of_file_systems(tmp_path):
    """fsspec reads `a::b` as a file within another one, which a name must not do."""
    (tmp_path / "secret").write_text("secret")
    folder = Folder(f"file://{tmp_path}/inside")
    with pytest.raises(OSError):
        folder.read(f"x::file://{tmp_path}/secret")
    with pytest.raises(OSError, match="Protocol not known"):
        Folder(f"simplecache::file://{tmp_path}")


def test_an_unknown_protocol_and_one_that_is_not_installed(monkeypatch):
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
