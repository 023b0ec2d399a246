"""Copies that browsers can play: made once, bounded, and gone at the end."""

import os
import subprocess
import sys

import pytest

from mova_jax.data.ingest.video_reader import DecodeError
from mova_jax.search.page import playable
from mova_jax.search.page.playable import PlayableFiles
from mova_jax.utils import lock
from tests.clips import numbered, write_video


@pytest.fixture
def films(tmp_path, monkeypatch):
    """Two films for browsers that cannot play their container, and a folder for temporary files."""
    monkeypatch.setattr(playable.tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    return [write_video(tmp_path / f"{n}.flv", numbered(20), codec="libx264") for n in "ab"]


def test_a_copy_is_made_once_and_deleted_at_the_end(films):
    with PlayableFiles() as files:
        path = files.file("a", films[0]).path
        stamp = path.stat().st_mtime_ns
        films[0].unlink()
        assert files.file("a", films[0]).path == path and path.stat().st_mtime_ns == stamp
    assert not path.parent.exists()


def test_the_copy_used_longest_ago_makes_room(films):
    size = films[0].stat().st_size
    with PlayableFiles(most_bytes=int(2.9 * size)) as files:
        first, second = files.file("a", films[0]).path, files.file("b", films[1]).path
        files.file("a", films[0])
        files.file("c", films[1])
        assert first.exists() and not second.exists()
    with PlayableFiles(most_bytes=size - 1) as files:
        with pytest.raises(DecodeError, match="too many for the free space"):
            files.file("a", films[0])


def test_a_full_disk_and_a_missing_file_are_reasons(films, monkeypatch):
    with PlayableFiles() as files:
        with pytest.raises(DecodeError, match="No such file"):
            files.file("b", "gone.flv")
        films[1].write_bytes(b"no video" * 100)
        for _ in range(2):
            with pytest.raises(DecodeError, match="cannot be repackaged"):
                files.file("c", films[1])
        with monkeypatch.context() as patch:
            patch.setattr(playable.PlayableFiles, "_fits", lambda *_: False)
            with pytest.raises(DecodeError, match="too many"):
                files.file("a", films[0])
        assert files.file("a", films[0]).path.exists()  # there is room again


def test_a_source_that_is_gone_while_it_is_read_is_tried_again(films, monkeypatch):
    def gone(source, *_):
        real(source.with_name("gone.flv"), *_)

    real = playable.remux
    with PlayableFiles() as files:
        with monkeypatch.context() as patch, pytest.raises(DecodeError, match="no such file"):
            patch.setattr(playable, "remux", gone)
            files.file("a", films[0])
        assert files.file("a", films[0]).path.exists()


def test_what_a_killed_process_left_is_deleted(films, monkeypatch):
    monkeypatch.setattr(lock, "_YOUNG", -1.0)
    code = (
        "import os, tempfile\n"
        f"tempfile.tempdir = {playable.tempfile.gettempdir()!r}\n"
        "from mova_jax.search.page.playable import PlayableFiles\n"
        "files = PlayableFiles()\n"
        f"print(files.file('a', {str(films[0])!r}).path, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    left = done.stdout.strip()
    assert os.path.exists(left)
    with PlayableFiles() as one, PlayableFiles() as other:  # both live
        assert not os.path.exists(left)
        assert one.file("a", films[0]).path.exists()
        assert other.file("a", films[0]).path.exists()
