"""The index on disk: whole entries, whoever writes and whatever is killed."""

import fcntl
import json
import multiprocessing
import os

import numpy as np
import pytest

from mova_jax.search import index_writer
from mova_jax.search.index_writer import IndexWriter, content_id
from mova_jax.search.store import SourceFile, StoreError, broken_entries, open_index

SPAWN = multiprocessing.get_context("spawn")  # JAX has threads, which a fork would lose
ABOUT = {"model": "runs/a", "fingerprint": "f" * 32, "fps": 1.0, "dim": 4}


def add(writer, folder, name, text="content"):
    """Adds a video of three frames; its id."""
    path = folder / name
    path.write_text(text)
    video = content_id(path)
    vectors = np.arange(12, dtype=np.float16).reshape(3, 4)
    writer.add(video, SourceFile.of(path), vectors, np.arange(3.0, dtype=np.float32), 3.0)
    return video


def die_while_adding(folder, killed_at):
    """Adds a video, and ends at once when a file of the next one is written."""
    writer = IndexWriter(folder / "index", ABOUT)
    add(writer, folder, "whole.mp4", "whole")
    save, write = np.save, type(folder).write_text

    def die(path):
        if path.name == killed_at:
            os._exit(1)

    np.save = lambda path, array: (save(path, array), die(path))
    type(folder).write_text = lambda path, *a, **k: (write(path, *a, **k), die(path))
    add(writer, folder, "half.mp4", "half")


def add_many(folder, name):
    """Adds 20 videos of its own and, many times, one that another process adds too."""
    writer = IndexWriter(folder / "index", ABOUT)
    for number in range(20):
        add(writer, folder, f"{name}{number}.mp4", f"{name}{number}")
        add(writer, folder, f"{name}-same.mp4", "both have this")


def test_what_is_added_is_read_again(tmp_path):
    writer = IndexWriter(tmp_path / "index", ABOUT)
    video = add(writer, tmp_path, "a.mp4")
    index = open_index(tmp_path / "index")
    (entry,) = index.entries
    assert (entry.id, entry.source, entry.frames) == (video, str(tmp_path / "a.mp4"), 3)
    assert entry.size == 7 and entry.duration == 3.0
    np.testing.assert_array_equal(index.vectors(video), np.arange(12).reshape(3, 4))
    assert isinstance(index.vectors(video), np.memmap)
    np.testing.assert_array_equal(index.times(video), [0, 1, 2])
    assert index.thumbnails(video) is None
    assert index.manifest == {"format": 1, **ABOUT}


def test_another_model_or_rate_is_refused(tmp_path):
    IndexWriter(tmp_path, ABOUT)
    IndexWriter(tmp_path, ABOUT | {"model": "moved/a"})  # the same weights at another place
    with pytest.raises(StoreError, match=r"runs/a, fingerprint f+, and now got runs/b"):
        IndexWriter(tmp_path, ABOUT | {"model": "runs/b", "fingerprint": "e" * 32})
    with pytest.raises(StoreError, match=r"fps 1\.0, and now got runs/a, fps 2\.0"):
        IndexWriter(tmp_path, ABOUT | {"fps": 2.0})


def test_what_is_no_index_is_refused(tmp_path):
    with pytest.raises(StoreError, match="is no index"):
        open_index(tmp_path)
    (tmp_path / "index.json").write_text('{"format": 99}')
    with pytest.raises(StoreError, match="format 99, this version reads 1"):
        open_index(tmp_path)
    (tmp_path / "index.json").write_text('{"format": 1, "model": "runs/a"}')
    with pytest.raises(StoreError, match="is damaged, its 'fingerprint' is None"):
        open_index(tmp_path)
    with pytest.raises(StoreError, match="is damaged"):
        IndexWriter(tmp_path, ABOUT)
    (tmp_path / "index.json").write_text("[")
    with pytest.raises(StoreError, match="cannot be read"):
        open_index(tmp_path)


@pytest.mark.parametrize("killed_at", ["vectors.npy", "times.npy", "entry.json"])
def test_a_writer_that_is_killed_leaves_no_half_entry(tmp_path, killed_at):
    """The process ends at once when it has written a file; nothing is cleaned up."""

    process = SPAWN.Process(target=die_while_adding, args=(tmp_path, killed_at))
    process.start()
    process.join()
    assert process.exitcode == 1
    index = open_index(tmp_path / "index")
    assert [entry.source for entry in index.entries] == [str(tmp_path / "whole.mp4")]
    writer = IndexWriter(tmp_path / "index", ABOUT)
    add(writer, tmp_path, "half.mp4", "half")
    assert writer.compact()["leftovers"] == 0  # it could be that of a living writer
    for place in (tmp_path / "index" / "videos").glob(".*.partial"):
        os.utime(place, (0, 0))
    assert writer.compact() == {"leftovers": 1, "broken": 0, "missing": 0}
    assert len(open_index(tmp_path / "index").entries) == 2


def test_two_writers_lose_no_entry(tmp_path):
    processes = [SPAWN.Process(target=add_many, args=(tmp_path, name)) for name in "ab"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert len(open_index(tmp_path / "index").entries) == 41


def test_a_removed_video_stays_out_until_it_is_restored(tmp_path):
    writer = IndexWriter(tmp_path / "index", ABOUT)
    video = add(writer, tmp_path, "a.mp4")
    writer.remove(video)
    assert open_index(tmp_path / "index").entries == [] and writer.removed() == {video}
    writer.restore(video)
    assert writer.removed() == set()


def test_broken_entries_are_left_out_and_compacted(tmp_path):
    writer = IndexWriter(tmp_path / "index", ABOUT)
    videos = [add(writer, tmp_path, f"{n}.mp4", str(n)) for n in range(4)]
    folder = tmp_path / "index" / "videos"
    (folder / videos[0] / "entry.json").write_text("{")
    (folder / videos[1] / "vectors.npy").unlink()
    entry = json.loads((folder / videos[2] / "entry.json").read_text())
    (folder / videos[2] / "entry.json").write_text(json.dumps(entry | {"id": "../other"}))
    assert [entry.id for entry in open_index(tmp_path / "index").entries] == [videos[3]]
    assert len(broken_entries(tmp_path / "index")) == 3
    (tmp_path / "3.mp4").unlink()
    assert writer.compact() == {"leftovers": 0, "broken": 3, "missing": 1}
    assert open_index(tmp_path / "index").entries == []


def test_vectors_that_cannot_be_read_are_named(tmp_path):
    writer = IndexWriter(tmp_path / "index", ABOUT)
    video = add(writer, tmp_path, "a.mp4")
    (tmp_path / "index" / "videos" / video / "vectors.npy").write_bytes(b"\x93NUMPY")
    index = open_index(tmp_path / "index")
    with pytest.raises(
        StoreError, match=r"vectors\.npy cannot be read .* embed the video .*a\.mp4"
    ):
        index.vectors(video)
    with pytest.raises(StoreError, match="has no video nothing"):
        index.vectors("nothing")
    assert index.get(video) is index[video] and index.get("nothing") is None


def test_a_removal_that_is_killed_counts_and_is_finished(tmp_path, monkeypatch):
    writer = IndexWriter(tmp_path / "index", ABOUT)
    videos = [add(writer, tmp_path, f"{n}.mp4", str(n)) for n in range(2)]

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(index_writer, "_delete", killed)
        with pytest.raises(KeyboardInterrupt):
            writer.remove(videos[0])
    assert [entry.id for entry in open_index(tmp_path / "index").entries] == [videos[1]]
    assert writer.compact()["leftovers"] == 1
    assert not (tmp_path / "index" / "videos" / videos[0]).exists()


def test_a_file_is_noted_as_the_same_a_copy_or_moved(tmp_path):
    writer = IndexWriter(tmp_path / "index", ABOUT)
    video = add(writer, tmp_path, "a.mp4")
    os.utime(tmp_path / "a.mp4", (0, 0))
    assert writer.add_file(video, SourceFile.of(tmp_path / "a.mp4")) == "same"
    (tmp_path / "b.mp4").write_text("content")
    assert writer.add_file(video, SourceFile.of(tmp_path / "b.mp4")) == "copy"
    writer.drop_file(video, str(tmp_path / "a.mp4"))
    assert open_index(tmp_path / "index").entries[0].source == str(tmp_path / "b.mp4")
    (tmp_path / "b.mp4").rename(tmp_path / "c.mp4")
    assert writer.add_file(video, SourceFile.of(tmp_path / "c.mp4")) == "moved"
    writer.drop_file(video, str(tmp_path / "c.mp4"))
    assert open_index(tmp_path / "index").entries == []


def test_a_video_that_another_writer_added_gets_the_file_as_a_copy(tmp_path):
    one, other = (IndexWriter(tmp_path / "index", ABOUT) for _ in range(2))
    add(one, tmp_path, "a.mp4")
    add(other, tmp_path, "b.mp4")
    add(one, tmp_path, "b.mp4")
    (entry,) = open_index(tmp_path / "index").entries
    assert [os.path.basename(file.path) for file in entry.files] == ["a.mp4", "b.mp4"]


def test_a_packed_index_is_the_same_and_is_read_until_the_next_change(tmp_path):
    folder = tmp_path / "index"
    writer = IndexWriter(folder, ABOUT)
    assert writer.pack() == 0 and open_index(folder).packed is None
    rng = np.random.default_rng(0)
    for number in range(4):
        path = tmp_path / f"{number}.mp4"
        path.write_text(str(number))
        vectors = rng.normal(size=(number + 1, 4)).astype(np.float16)
        times = np.arange(number + 1, dtype=np.float32) / 2
        writer.add(content_id(path), SourceFile.of(path), vectors, times, 3.0, warnings=("odd",))

    def same(one, other):
        assert one.entries == other.entries
        for entry in one.entries:
            assert one.vectors(entry.id).dtype == other.vectors(entry.id).dtype == np.float16
            np.testing.assert_array_equal(one.vectors(entry.id), other.vectors(entry.id))
            np.testing.assert_array_equal(one.times(entry.id), other.times(entry.id))

    plain = open_index(folder)
    assert plain.packed is None and writer.pack() == 4
    packed = open_index(folder)
    assert packed.packed is not None
    same(packed, plain)
    first, second = packed.entries[:2]
    changes = (
        lambda: writer.remove(first.id),
        lambda: writer.add_file(second.id, SourceFile.of(tmp_path / "0.mp4")),
        lambda: writer.drop_file(second.id, second.source),
        lambda: (tmp_path / "3.mp4").unlink() or writer.compact(),
        lambda: add(writer, tmp_path, "new.mp4", "new"),
    )
    for change in changes:
        assert open_index(folder).packed is not None
        change()
        plain = open_index(folder)
        assert plain.packed is None
        writer.pack()
        same(open_index(folder), plain)
    assert len(list((folder / "packed").iterdir())) == 1
    np.testing.assert_array_equal(packed.vectors(first.id).shape, (first.frames, 4))  # still open


def test_packing_that_is_killed_changes_nothing(tmp_path, monkeypatch):
    writer = IndexWriter(tmp_path / "index", ABOUT)
    video = add(writer, tmp_path, "a.mp4")
    with monkeypatch.context() as patch:
        patch.setattr(index_writer, "_write_packed", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            writer.pack()
    assert open_index(tmp_path / "index").packed is None
    np.save(tmp_path / "index" / "videos" / video / "vectors.npy", np.zeros((1, 4), np.float16))
    with pytest.raises(StoreError, match="does not have the 3 frames of its entry"):
        writer.pack()


def test_a_packed_copy_is_of_one_version(tmp_path, monkeypatch):
    """Where a file system has no locks, another writer may come in between."""
    writer = IndexWriter(tmp_path / "index", ABOUT)
    add(writer, tmp_path, "a.mp4")

    def changed_after(folder):
        index = open_index(folder)
        add(writer, tmp_path, "b.mp4", "b")
        return index

    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    with monkeypatch.context() as patch:
        patch.setattr(index_writer, "open_index", changed_after)
        writer.pack()
    index = open_index(tmp_path / "index")
    assert len(index.entries) == 2 and index.packed is None
    assert writer.pack() == 2 and open_index(tmp_path / "index").packed is not None


def test_what_is_done_survives_a_loss_of_power(tmp_path, monkeypatch):
    """All bytes are on the disk before a rename, and its name before the next one."""
    real = {name: getattr(os, name) for name in ("fsync", "rename", "replace")}
    bytes_of, names, renamed = set(), set(), []

    def fsync(handle):
        bytes_of.add(os.readlink(f"/proc/self/fd/{handle}"))
        names.add(os.readlink(f"/proc/self/fd/{handle}"))
        real["fsync"](handle)

    def move(kind, source, target):
        if not str(target).endswith(".partial"):  # those are deletions
            inside = [
                os.path.join(folder, f) for folder, _, files in os.walk(source) for f in files
            ]
            assert {str(source), *inside} <= bytes_of, target
            assert not renamed or os.path.dirname(renamed[-1]) in names, renamed[-1]
            renamed.append(str(target))
            names.clear()
        real[kind](source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", lambda *args: move("rename", *args))
    monkeypatch.setattr(os, "replace", lambda *args: move("replace", *args))
    index = tmp_path / "index"
    writer = IndexWriter(index, ABOUT)
    video = add(writer, tmp_path, "a.mp4")
    writer.add_file(video, SourceFile("/b.mp4", 1, 1))
    writer.pack()
    writer.remove(video)
    packed = next((index / "packed").iterdir())
    entry, removed = index / "videos" / video, index / "removed" / f"{video}.json"
    version = index / "version"
    expected = [index / "index.json", version, entry, version, entry / "entry.json", packed]
    assert renamed == list(map(str, [*expected, version, removed]))
    assert os.path.dirname(renamed[-1]) in names
