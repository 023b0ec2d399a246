"""Tests of `embed` under Apache Beam, on its local runner: the index is that of one machine."""

import datetime
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from mova_jax import embed
from mova_jax.search import beam
from mova_jax.search.indexing import index_folder
from mova_jax.search.store import StoreError, open_index

pytest.importorskip(
    "apache_beam", reason="Apache Beam is not installed: pip install -r requirements-beam.txt"
)
from tests.clips import assert_same_files, numbered, write_video
from tests.search.library_model import make_model

LOCAL = ["--runner=DirectRunner"]
VIDEOS = 9

# The command with the model of the tests, two videos a task, and time to be killed in.
_PROGRAM = """
import pathlib, sys, time
import mova_jax
from mova_jax import embed
from mova_jax.search import beam, index_writer
from tests import conftest
from tests.search.library_model import make_model

beam._FILES = 2
mova_jax.load = beam.load = lambda path: make_model(pathlib.Path(path))
add = index_writer.IndexWriter.add

def slowly(*args, **kwargs):
    add(*args, **kwargs)
    time.sleep(0.3)

index_writer.IndexWriter.add = slowly
if __name__ == "__main__":
    sys.exit(embed.main())
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def videos(tmp_path, model, monkeypatch):
    """Nine videos of several chunks, one that is none, and a copy."""
    for i in range(VIDEOS):
        write_video(tmp_path / "videos" / f"{i}.mp4", numbered(20 + 30 * i), rate=10)
    (tmp_path / "videos" / "text.mp4").write_text("no video")
    shutil.copy(tmp_path / "videos" / "3.mp4", tmp_path / "videos" / "copy of 3.mp4")
    monkeypatch.setattr(beam, "load", lambda path: model)
    monkeypatch.setattr(beam, "_FILES", 2)
    beam._load_once.cache_clear()
    return tmp_path / "videos"


@pytest.fixture
def noon(monkeypatch):
    """All videos are added at one moment, which their entries name."""

    class Noon(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 12, 1, 12, tzinfo=tz)

    monkeypatch.setattr(datetime, "datetime", Noon)


def by_one_machine(model, videos, index):
    """The index that one process makes, without what differs from call to call."""
    found = index_folder(model, videos, index)
    shutil.rmtree(index / "indexing")
    return found


@pytest.mark.parametrize("mode", ["in_memory", "multi_threading"])
def test_the_bytes_are_those_of_one_machine(model, videos, tmp_path, noon, mode):
    expected = by_one_machine(model, videos, tmp_path / "one")
    options = [*LOCAL, f"--direct_running_mode={mode}", "--direct_num_workers=2"]
    found = index_folder(model, videos, tmp_path / "beam", beam=options)
    assert found == expected and (found.added, found.copies) == (VIDEOS, 1)
    (tmp_path / "beam" / beam.WORK).rmdir()  # nothing is left in it
    for index in (tmp_path / "one", tmp_path / "beam"):
        (index / "version").unlink()  # at random
    assert_same_files(tmp_path / "one", tmp_path / "beam")


def test_it_knows_what_moved_and_what_another_call_did(model, videos, tmp_path, monkeypatch):
    index = tmp_path / "index"
    index_folder(model, videos, index)
    embedded = []
    monkeypatch.setattr(beam, "embed_files", lambda *args: embedded.append(args) or [])
    (videos / "0.mp4").rename(videos / "moved.mp4")
    found = index_folder(model, videos, index, beam=LOCAL)
    assert (found.moved, found.unchanged) == (1, VIDEOS)
    assert list(found.skipped) == [str(videos / "text.mp4")] and not embedded


def test_workers_that_see_another_index_are_an_error(model, videos, tmp_path, monkeypatch):
    """On another machine the same path is another folder."""
    monkeypatch.setattr(beam._Embed, "__call__", lambda *_: None)
    with pytest.raises(StoreError, match=r"without a word on .*0\.mp4.* in a folder that all"):
        index_folder(model, videos, tmp_path / "index", beam=LOCAL)
    monkeypatch.setattr(beam, "_hash", lambda *_: None)
    with pytest.raises(StoreError, match=r"without a word on file 0"):
        index_folder(model, videos, tmp_path / "index", beam=LOCAL)


def test_a_pipeline_that_fails_is_one_line_and_keeps_what_was_added(
    model, videos, tmp_path, monkeypatch, capsys
):
    save, calls = np.save, []

    def full(path, array):
        calls.append(path)
        if len(calls) > 4:  # two arrays of each video
            raise OSError(28, "No space left on device")
        save(path, array)

    monkeypatch.setattr("mova_jax.load", lambda path: model)
    monkeypatch.setattr(np, "save", full)
    command = ["--model", "m", "--videos", videos, "--index", tmp_path / "index"]
    command = [*map(str, command), "--runner", "DirectRunner"]
    assert embed.main(command) == embed.FAILED
    assert "No space left on device" in capsys.readouterr().err
    assert len(open_index(tmp_path / "index").entries) == 2
    monkeypatch.setattr(np, "save", save)
    assert embed.main(command) == embed.SOME_SKIPPED
    assert f"{VIDEOS - 2} added" in capsys.readouterr().out


@pytest.mark.slow
def test_kill_9_costs_what_was_in_flight(model, videos, tmp_path):
    (tmp_path / "program.py").write_text(_PROGRAM)
    expected = tmp_path / "one"
    index_folder(make_model(tmp_path), videos, expected)
    index = tmp_path / "killed"
    command = [sys.executable, tmp_path / "program.py", "--model", tmp_path, "--index", index]
    command = [*map(str, command), "--videos", str(videos), "--runner=DirectRunner"]
    env = os.environ | {"PYTHONPATH": os.getcwd()}
    for least in (1, 4):
        run = subprocess.Popen(command, env=env, stderr=subprocess.PIPE)
        while run.poll() is None and len(list(index.glob("videos/[0-9a-f]*"))) < least:
            time.sleep(0.02)
        os.kill(run.pid, signal.SIGKILL)
        run.wait()
        begun = len(open_index(index).entries)
        assert least <= begun < VIDEOS
    for left in (index / beam.WORK).iterdir():
        os.utime(left, (0, 0))  # a young one could be that of a command that has just begun
    assert subprocess.run(command, env=env, check=False).returncode == embed.SOME_SKIPPED
    one, killed = open_index(expected), open_index(index)
    assert [(e.id, e.files, e.frames) for e in one.entries] == [
        (e.id, e.files, e.frames) for e in killed.entries
    ]
    for entry in one.entries:
        for name in ("vectors.npy", "times.npy", "thumbs.jpg"):
            paths = (folder / "videos" / entry.id / name for folder in (expected, index))
            first, second = (path.read_bytes() for path in paths)
            assert first == second, name
    assert not list((index / beam.WORK).iterdir())
