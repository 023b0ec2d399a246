"""Embedding folders of videos, and the library that embeds, scores and aligns."""

import os
import pathlib
import re
import shutil

import av
import numpy as np
import pytest

from mova_jax import embed
from mova_jax.data.ingest import video_reader
from mova_jax.evaluation.frame_stream import FrameVectors
from mova_jax.search import beam, embedding
from mova_jax.search.index_writer import IndexWriter
from mova_jax.search.indexing import index_folder
from mova_jax.search.store import StoreError, open_index
from tests.clips import numbered, write_video
from tests.search.library_model import make_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def videos(tmp_path):
    """A folder of two videos, of 3 and 2 seconds."""
    folder = tmp_path / "videos"
    (folder / "deep").mkdir(parents=True)
    write_video(folder / "a.mp4", numbered(30), rate=10)
    write_video(folder / "deep" / "b.mp4", numbered(60)[40:], rate=10)
    return folder


def test_the_library_scores_as_a_loop_over_pairs(model, videos):
    found = [model.embed_video(videos / name) for name in ("a.mp4", "deep/b.mp4")]
    assert [len(video.times) for video in found] == [3, 2]
    assert found[0].vectors.dtype == np.float16 and found[0].times.tolist() == [0, 1, 2]
    texts = ["a red circle moves left. then it stops.", "it stops."]
    scores = model.score(found, texts)
    assert scores.shape == (2, 2)
    for b, video in enumerate(found):
        for c, text in enumerate(texts):
            np.testing.assert_allclose(model.score(video, text), [[scores[b, c]]], rtol=1e-5)
    # Frames beyond the video change nothing.
    longer = FrameVectors(found[0].vectors, found[0].times, 3.0)
    many = [longer, FrameVectors(np.tile(found[0].vectors, (40, 1)), np.arange(120.0), 120.0)]
    np.testing.assert_allclose(model.score(many, texts)[0], scores[0], rtol=1e-5)


def test_the_library_aligns_each_sentence(model, videos):
    video = model.embed_video(videos / "a.mp4")
    timeline = model.align(video, "a red circle moves left. then it stops.")
    assert timeline.sentences == ("a red circle moves left.", "then it stops.")
    text = model.embed_text(list(timeline.sentences)).parts.pooled[:, 0]
    frames = np.asarray(video.vectors, np.float32)
    expected = text @ frames.T / np.linalg.norm(text, axis=1)[:, None]
    expected /= np.linalg.norm(frames, axis=1)
    np.testing.assert_allclose(timeline.scores, expected, atol=1e-5)
    with pytest.raises(ValueError, match="got no text"):
        model.align(video, " ")


def test_a_folder_is_indexed_and_kept_up_to_date(model, videos, tmp_path):
    index = tmp_path / "index"
    assert index_folder(model, videos, index).added == 2
    first, second = open_index(index).entries
    assert (first.frames, first.duration) == (3, 3.0) and second.source.endswith("deep/b.mp4")
    expected = model.embed_video(videos / "a.mp4").vectors
    np.testing.assert_allclose(open_index(index).vectors(first.id), expected, atol=1e-3)
    assert open_index(index).thumbnails(first.id).read_bytes()[:2] == b"\xff\xd8"

    assert index_folder(model, videos, index).unchanged == 2
    shutil.move(videos / "a.mp4", videos / "moved.mp4")
    shutil.copy(videos / "deep" / "b.mp4", videos / "copy.mp4")
    found = index_folder(model, videos, index)
    assert (found.moved, found.copies, found.added) == (1, 1, 0)
    entries = {entry.id: entry for entry in open_index(index).entries}
    assert entries[first.id].source == str(videos / "moved.mp4")
    assert len(entries[second.id].files) == 2

    write_video(videos / "moved.mp4", numbered(45), rate=10)  # another video at the same place
    found = index_folder(model, videos, index)
    assert (found.added, found.unchanged) == (1, 2)
    entries = open_index(index).entries
    assert len(entries) == 2 and first.id not in {entry.id for entry in entries}


def test_copies_among_new_files_are_noted_with_the_first(model, videos, tmp_path):
    shutil.copy(videos / "a.mp4", videos / "deep" / "a.mp4")
    found = index_folder(model, videos, tmp_path / "index")
    assert (found.added, found.copies) == (2, 1)
    (entry, _) = open_index(tmp_path / "index").entries
    paths = [str(videos / "a.mp4"), str(videos / "deep" / "a.mp4")]
    assert [file.path for file in entry.files] == paths
    assert index_folder(model, videos, tmp_path / "index").unchanged == 3


def test_damaged_files_are_skipped_and_named_and_cost_nothing_else(model, videos, tmp_path):
    (videos / "a0.mp4").write_bytes(b"no video")
    (videos / "a1.mp4").write_bytes(b"no video")  # the same again
    (videos / "empty.mp4").write_bytes(b"")
    shutil.copy(videos / "a.mp4", os.fsencode(videos) + b"/caf\xe9.mp4")  # a name in Latin-1
    found = index_folder(model, videos, tmp_path / "index")
    assert found.added == 2
    names = "a0.mp4", "a1.mp4", "empty.mp4", r"caf\udce9.mp4"
    assert set(found.skipped) == {str(videos / name) for name in names}
    again = index_folder(model, videos, tmp_path / "index")
    assert again.skipped == found.skipped and again.unchanged == 2
    write_video(videos / "a0.mp4", numbered(15), rate=10)  # mended
    assert index_folder(model, videos, tmp_path / "index").added == 1


@pytest.mark.parametrize("options", [(), ("--runner=made",)])
@pytest.mark.parametrize("fault", ["unmounted", "EIO"])
def test_a_file_that_its_disk_does_not_give_is_tried_again(
    model, videos, tmp_path, monkeypatch, fault, options
):
    shutil.copy(videos / "a.mp4", videos / "copy.mp4")
    (videos / "text.mp4").write_bytes(b"no video")

    def run_here(name, tasks, work, folder, options):
        for task in tasks:
            work(task)

    def open_damaged(path):
        av.error.err_check(-5)  # EIO

    monkeypatch.setattr(beam, "run_pipeline", run_here)
    monkeypatch.setattr(beam, "load", lambda path: model)
    beam._load_once.cache_clear()

    def call():
        return index_folder(model, videos, tmp_path / "index", beam=options)

    with monkeypatch.context() as patch:
        if fault == "EIO":
            patch.setattr(video_reader, "open_media", open_damaged)
        else:  # after its files were hashed
            patch.setattr(beam._Embed, "__call__", while_away(beam._Embed.__call__, videos))
            name = "mova_jax.search.indexing.embed_files"
            patch.setattr(name, while_away(embedding.embed_files, videos))
        found = call()
    assert len(found.skipped) == 4 and found.added == 0
    reason = {"EIO": "Input/output error", "unmounted": "no such file"}[fault]
    assert reason in found.skipped[str(videos / "a.mp4")]
    found = call()
    assert (found.added, found.copies) == (2, 1)
    assert list(found.skipped) == [str(videos / "text.mp4")]
    assert call().unchanged == 3


def test_a_file_that_changes_while_it_is_read_is_tried_again(model, videos, tmp_path, monkeypatch):
    """A download, or a share that is unmounted: FFmpeg ends without an error."""

    def read_and_change(reader, read=video_reader.VideoReader.__iter__):
        yield from read(reader)
        os.utime(reader._path, (0, 0))

    with monkeypatch.context() as patch:
        patch.setattr(video_reader.VideoReader, "__iter__", read_and_change)
        found = index_folder(model, videos, tmp_path / "index")
    assert found.added == 0 and len(found.skipped) == 2
    assert all("while it was read" in reason for reason in found.skipped.values())
    assert index_folder(model, videos, tmp_path / "index").added == 2


def while_away(function, folder):
    """A function, which the files of a folder are gone for."""

    def call(*args):
        away = folder.rename(folder.with_name("away"))
        result = function(*args)
        result = result if result is None else list(result)
        away.rename(folder)
        return result

    return call


def test_files_that_change_places_keep_their_videos(model, videos, tmp_path, monkeypatch):
    first, second = videos / "a.mp4", videos / "deep" / "b.mp4"
    index_folder(model, videos, tmp_path / "index")
    before = {entry.source: entry.id for entry in open_index(tmp_path / "index").entries}

    def swap():
        first.rename(videos / "aside")
        second.rename(first)
        (videos / "aside").rename(second)

    def paths():
        entries = open_index(tmp_path / "index").entries
        return {entry.id: [file.path for file in entry.files] for entry in entries}

    swap()
    found = index_folder(model, videos, tmp_path / "index")
    assert found.added == 0 and not found.skipped
    swapped = {before[str(first)]: [str(second)], before[str(second)]: [str(first)]}
    assert paths() == swapped
    # A command that is killed before it drops the old paths leaves them to the next one.
    swap()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(IndexWriter, "drop_file", interrupt)
        index_folder(model, videos, tmp_path / "index")
    index_folder(model, videos, tmp_path / "index")
    assert paths() == {id: [path] for path, id in before.items()}
    # The old content moves on, and a new one takes its place.
    first.rename(videos / "moved.mp4")
    write_video(first, numbered(45), rate=10)
    assert index_folder(model, videos, tmp_path / "index").added == 1
    assert paths()[before[str(first)]] == [str(videos / "moved.mp4")] and len(paths()) == 3


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["entry.json", "vectors.npy"])
def test_a_damaged_entry_is_made_again(model, videos, tmp_path, name):
    index_folder(model, videos, tmp_path / "index")
    entry = open_index(tmp_path / "index").entries[0]
    (tmp_path / "index" / "videos" / entry.id / name).unlink()
    assert index_folder(model, videos, tmp_path / "index").added == 1
    assert open_index(tmp_path / "index").entries[0].id == entry.id
    assert index_folder(model, videos, tmp_path / "index").unchanged == 2


def test_processes_share_the_files(model, videos, tmp_path):
    for process in (0, 1):
        found = index_folder(model, videos, tmp_path / "index", process=process, processes=2)
        assert found.added == 1
    assert len(open_index(tmp_path / "index").entries) == 2


def test_another_models_index_and_a_missing_folder_are_refused(model, videos, tmp_path):
    index_folder(model, videos, tmp_path / "index")
    other = make_model(tmp_path, seed=1)
    assert other.fingerprint != model.fingerprint
    with pytest.raises(StoreError, match="vectors of two kinds do not compare"):
        index_folder(other, videos, tmp_path / "index")
    with pytest.raises(StoreError, match="There is no folder"):
        index_folder(model, tmp_path / "nowhere", tmp_path / "index")


def test_a_strip_has_pictures_from_the_whole_video(videos, tmp_path):
    write_video(tmp_path / "long.mp4", numbered(100), rate=10)
    reader = embedding._Reader(tmp_path / "long.mp4", 5.0, 16)
    assert len(list(reader)) == 50
    assert len(reader._pictures) == 7 and reader._stride == 8  # frames 0, 8 ... 48


def test_the_command(model, videos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mova_jax.load", lambda path: model)
    index = str(tmp_path / "index")
    (videos / "bad.mp4").write_bytes(b"x")
    command = ["--model", "runs/a", "--videos", str(videos), "--index", index]
    assert embed.main(command) == embed.SOME_SKIPPED
    out = capsys.readouterr().out
    assert "2 added, 1 skipped" in out and "bad.mp4:" in out
    assert embed.main(["--index", index, "--remove", str(videos / "a.mp4"), "--status"]) == 0
    assert "a.mp4: removed" in capsys.readouterr().out
    assert embed.main(command) == embed.SOME_SKIPPED
    assert "1 unchanged, 1 removed before, 1 skipped" in capsys.readouterr().out
    assert embed.main(["--index", index, "--restore"]) == 0
    embed.main(command)
    assert "1 added, 1 unchanged" in capsys.readouterr().out
    assert embed.main(["--index", str(tmp_path), "--status"]) == embed.FAILED
    with pytest.raises(SystemExit, match="2"):
        embed.main(["--index", index])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--model m --videos v --compact", "--compact: not together with --videos"),
        ("--model m --videos v --remove v/a.mp4", "--remove: not together with --videos"),
        ("--status --runner DirectRunner", "--runner: only together with --videos"),
        ("--model m --videos v --process 4 --processes 4", "--process: got 4 of 4"),
        ("--model m --videos v --processes 0", "--process: got 0 of 0"),
        ("--model m --videos v --process=-1", "--process: got -1 of 1"),
    ],
)
def test_flags_that_would_be_ignored_or_lose_files_are_refused(flags, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        embed.main(["--index", "index", *flags.split()])
    assert message in capsys.readouterr().err


def test_a_full_disk_is_told_and_loses_nothing(model, videos, tmp_path, monkeypatch, capsys):
    save, calls = np.save, []

    def full(path, array):
        calls.append(path)
        if len(calls) == 3:  # the vectors of the second video
            raise OSError(28, "No space left on device")
        save(path, array)

    monkeypatch.setattr("mova_jax.load", lambda path: model)
    monkeypatch.setattr(np, "save", full)
    command = ["--model", "m", "--videos", str(videos), "--index", str(tmp_path / "index")]
    assert embed.main(command) == embed.FAILED
    assert "no space is left" in capsys.readouterr().err
    assert len(open_index(tmp_path / "index").entries) == 1
    monkeypatch.setattr(np, "save", save)
    assert embed.main(command) == embed.DONE
    assert len(open_index(tmp_path / "index").entries) == 2


def test_the_example_of_the_docs_runs(model, videos, monkeypatch, capsys):
    text = (pathlib.Path(__file__).parents[2] / "docs" / "search.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.S)
    monkeypatch.setattr("mova_jax.load", lambda path: model)
    monkeypatch.chdir(videos)
    (videos / "a.mp4").rename(videos / "clip.mp4")
    exec(compile(example, "docs/search.md", "exec"), {})
    out = capsys.readouterr().out
    assert re.fullmatch(r"A dog jumps\. \d s\nIt runs to the sea\. \d s\n", out)


def test_a_pipe_is_skipped_and_not_waited_for(model, videos, tmp_path):
    os.mkfifo(videos / "pipe.mp4")
    (videos / "zero.mp4").symlink_to("/dev/zero")
    found = index_folder(model, videos, tmp_path / "index")
    assert found.added == 2
    assert {os.path.basename(path) for path in found.skipped} == {"pipe.mp4", "zero.mp4"}
    assert all("not a regular file" in reason for reason in found.skipped.values())


def test_an_index_that_is_a_file_is_said(model, videos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mova_jax.load", lambda path: model)
    (tmp_path / "index").write_text("")
    flags = ["--model", "m", "--videos", str(videos), "--index", str(tmp_path / "index")]
    assert embed.main(flags) == embed.FAILED
    assert f"embed: {tmp_path / 'index'}" in capsys.readouterr().err
