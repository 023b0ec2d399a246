import errno
import os

import pytest

from mova_jax.utils import atomic


def test_a_file_appears_whole(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with atomic.replacing(path, durable=True) as aside:
        aside.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"
    atomic.write_text(path, "zwei ☂")
    assert path.read_text(encoding="utf-8") == "zwei ☂"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_an_error_leaves_what_was_there_and_nothing_aside(tmp_path):
    path = tmp_path / "a.txt"
    atomic.write_bytes(path, b"one")
    with pytest.raises(RuntimeError), atomic.replacing(path) as aside:
        aside.write_bytes(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"one"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_takes_the_place_of_an_empty_one_only(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    for text in ("one", "two"):
        if text == "one":
            with atomic.replacing(path) as aside:
                aside.mkdir()
                (aside / "file").write_text(text)
        else:
            with pytest.raises(OSError), atomic.replacing(path) as aside:
                aside.mkdir()
                (aside / "file").write_text(text)
    assert (path / "file").read_text() == "one"
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_folder_survives_a_loss_of_power_with_all_that_is_in_it(tmp_path, monkeypatch):
    """The bytes are asked for before the rename, the name after it."""
    fsync, synced = os.fsync, []

    def noted(handle):
        synced.append(os.path.relpath(os.readlink(f"/proc/self/fd/{handle}"), tmp_path))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    with atomic.replacing(tmp_path / "folder", durable=True) as aside:
        (aside / "deep").mkdir(parents=True)
        (aside / "deep" / "file").write_text("one")
    name = aside.name
    assert synced == [f"{name}/deep/file", f"{name}/deep", name, "."]
    synced.clear()
    atomic.write_text(tmp_path / "file", "one", durable=True)
    assert len(synced) == 2 and synced[1] == "."
    synced.clear()
    atomic.write_text(tmp_path / "file", "two")
    assert not synced


def test_a_file_system_that_syncs_no_folders_is_no_error_and_a_failing_disk_is_one(
    tmp_path, monkeypatch
):
    for code, raises in ((errno.EINVAL, False), (errno.EIO, True)):

        def fail(handle, code=code):
            if os.path.isdir(f"/proc/self/fd/{handle}"):
                raise OSError(code, os.strerror(code))

        monkeypatch.setattr(os, "fsync", fail)
        try:
            atomic.write_text(tmp_path / "file", str(code), durable=True)
            assert not raises
        except OSError as error:
            assert raises and error.errno == errno.EIO
