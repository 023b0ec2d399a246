"""Tests of the shards: what is written is what is read, or a clear error."""

import dataclasses
import hashlib
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

from mova_jax.data.shards.reader import (
    MANIFEST,
    Caption,
    Manifest,
    ShardError,
    ShardWriter,
    VideoRecord,
    open_split,
    parse,
    read_manifest,
    serialize,
    write_manifest,
    write_split,
)
from mova_jax.data.shards.tfds_info import DATASET_INFO


def _record(index=0, frames=3, size=500):
    rng = np.random.default_rng(index)
    return VideoRecord(
        id=f"video {index} é",
        frames=tuple(rng.bytes(size + i) for i in range(frames)),
        height=4,
        width=6,
        timestamps=np.arange(frames, dtype=np.float32) / 3,
        duration=frames / 4,
        captions=(Caption("A cat sits.", 0.25, 1.5), Caption("Untimed ☂.")),
        alternatives=("short", ""),
        source="a/b.mp4",
        truth='{"events": []}',
    )


def _make(folder, count=10, **limits):
    records = [_record(i) for i in range(count)]
    info = write_split(folder, "train", records, name="clips", **limits)
    write_manifest(folder, Manifest("clips", {"train": info}, {"fps": 1.0}))
    return info


def _same(one, two):
    fields = {field.name for field in dataclasses.fields(VideoRecord)} - {"timestamps"}
    np.testing.assert_array_equal(one.timestamps, two.timestamps)
    return all(getattr(one, name) == getattr(two, name) for name in fields)


@pytest.mark.parametrize("frames", [1, 7])
def test_a_record_comes_back_as_it_was(frames):
    record = _record(frames=frames)
    again = parse(serialize(record))
    assert _same(again, record)
    assert again.timestamps.dtype == np.float32
    assert again.caption == "A cat sits. Untimed ☂."
    assert [caption.timed for caption in again.captions] == [True, False]


def test_a_record_without_extras_comes_back():
    record = VideoRecord("a", (b"",), 1, 1, np.zeros(1), 1.0, (Caption("x"),))
    assert _same(parse(serialize(record)), record)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": ""}, "must have an id"),
        ({"frames": ()}, "must have an id, frames and captions"),
        ({"captions": ()}, "must have an id, frames and captions"),
        ({"timestamps": np.zeros(2)}, "3 frames but 2 timestamps"),
    ],
)
def test_a_record_that_cannot_be_used_is_not_written(change, message):
    with pytest.raises(ValueError, match=message):
        serialize(dataclasses.replace(_record(), **change))


@pytest.mark.parametrize("data", [b"", b"\x00garbage", serialize(_record())[:-40]])
def test_other_bytes_are_no_record(data):
    with pytest.raises(ValueError, match="not a video record of schema 1"):
        parse(data)


def test_records_are_read_at_random(tmp_path):
    info = _make(tmp_path, 10, shard_records=4)
    assert (info.videos, info.frames, info.captions) == (10, 30, 20)
    assert [shard.records for shard in info.shards] == [4, 4, 2]
    source = pickle.loads(pickle.dumps(open_split(tmp_path, "train")))
    assert len(source) == 10
    for index in (9, 0, 4, 3):
        assert _same(source[np.int64(index)], _record(index))
    for index in (10, -1):
        with pytest.raises(IndexError, match="has 10"):
            source[index]


def test_a_shard_is_closed_when_it_is_large_enough(tmp_path):
    info = _make(tmp_path, 5, shard_bytes=2 * len(serialize(_record())) - 50)
    assert [shard.records for shard in info.shards] == [2, 2, 1]


def test_the_manifest_says_what_is_in_the_folder(tmp_path):
    info = _make(tmp_path, 5, shard_records=3)
    manifest = read_manifest(tmp_path)
    assert manifest == Manifest("clips", {"train": info}, {"fps": 1.0})
    files = {shard.file for shard in info.shards}
    assert {path.name for path in tmp_path.iterdir()} == files | {
        MANIFEST,
        DATASET_INFO,
        "features.json",
    }
    for shard in info.shards:
        data = (tmp_path / shard.file).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (shard.bytes, shard.sha256)


def test_the_same_records_give_the_same_bytes_in_any_process(tmp_path):
    code = (
        "import sys, numpy as np\n"
        "from mova_jax.data.shards.reader import *\n"
        "record = VideoRecord('a', (b'x',), 1, 1, np.zeros(1), 1.0, (Caption('c'),), ('s',))\n"
        "print(write_split(sys.argv[1], 'train', [record] * 3, name='a').shards[0].sha256)"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / f"run{i}")], capture_output=True, text=True
        )
        for i in range(3)
    ]
    digests = [run.stdout.strip() for run in runs]
    assert len(digests[0]) == 64, runs[0].stderr
    assert len(set(digests)) == 1


def test_an_error_in_the_middle_leaves_no_files(tmp_path):
    def records():
        yield from (_record(i) for i in range(5))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_split(tmp_path / "shards", "train", records(), name="clips", shard_records=2)
    assert list((tmp_path / "shards").iterdir()) == []


def test_what_a_killed_run_left_is_removed(tmp_path):
    (tmp_path / "clips-train.array_record-00007.partial").write_bytes(b"half")
    (tmp_path / "other.partial").write_bytes(b"not ours")
    _make(tmp_path)
    assert [path.name for path in tmp_path.glob("*.partial")] == ["other.partial"]


class _FullDisk:
    """Fails as ArrayRecord's writer does when there is no space left."""

    def __init__(self, path, options):
        open(path, "wb").close()

    def write(self, data):
        raise RuntimeError("write() failed: No space left on device")

    close = lambda self: self.write(b"")  # noqa: E731


def test_a_full_disk_is_a_clear_error_and_leaves_no_files(tmp_path, monkeypatch):
    module = "array_record.python.array_record_module.ArrayRecordWriter"
    monkeypatch.setattr(module, _FullDisk)
    with pytest.raises(ShardError, match=r"'train' could not be written.*No space left.*make room"):
        write_split(tmp_path, "train", [_record()], name="clips")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["Train", "a-b", "", "../x", "1a"])
def test_names_that_would_not_make_a_file_name(tmp_path, name):
    with pytest.raises(ValueError, match="lower case letters"):
        ShardWriter(tmp_path, name, name="clips")
    with pytest.raises(ValueError, match="lower case letters"):
        ShardWriter(tmp_path, "train", name=name)


def test_a_split_without_records(tmp_path):
    with pytest.raises(ShardError, match=r"'train' has no records"):
        write_split(tmp_path, "train", [], name="clips")


def test_a_folder_that_is_not_there_or_not_whole(tmp_path):
    with pytest.raises(ShardError, match=r"There is no shard folder .*mova_jax.prepare"):
        open_split(tmp_path / "nowhere", "train")
    with pytest.raises(ShardError, match="is empty"):
        open_split(tmp_path, "train")
    write_split(tmp_path, "train", [_record()], name="clips")
    with pytest.raises(ShardError, match=r"has no manifest.json"):
        open_split(tmp_path, "train")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 99}, "have schema version 99, this code reads version 1"),
        ({"splits": {"train": {"videos": 1}}}, "is not a manifest"),
        ({"unknown": 1}, "is not a manifest"),
        (None, "is not a manifest"),
    ],
)
def test_a_manifest_of_another_make(tmp_path, change, message):
    _make(tmp_path)
    path = tmp_path / MANIFEST
    text = json.dumps(json.loads(path.read_text()) | change) if change else "{"
    path.write_text(text)
    with pytest.raises(ShardError, match=message):
        open_split(tmp_path, "train")


def test_a_split_that_is_not_there(tmp_path):
    _make(tmp_path)
    with pytest.raises(ShardError, match=r"no split 'test' in .*the splits are: train"):
        open_split(tmp_path, "test")


def test_a_missing_shard(tmp_path):
    info = _make(tmp_path)
    (tmp_path / info.shards[0].file).unlink()
    with pytest.raises(ShardError, match="in the manifest but not in the folder"):
        open_split(tmp_path, "train")


def test_a_shard_that_was_cut_short_names_the_first_lost_record(tmp_path):
    size = 40_000  # random bytes, so records of this size cannot be compressed
    records = [_record(i, frames=1, size=size) for i in range(10)]
    info = write_split(tmp_path, "train", records, name="clips")
    write_manifest(tmp_path, Manifest("clips", {"train": info}))
    path = tmp_path / info.shards[0].file
    data = path.read_bytes()
    for whole in (0, 1, 4, 9):
        path.write_bytes(data[: int((whole + 0.5) * (size + 300))])
        with pytest.raises(ShardError, match=f"record {whole} of 10 is the first"):
            open_split(tmp_path, "train")
    path.write_bytes(b"")
    with pytest.raises(ShardError, match=r"has 0 bytes.*record 0 of 10"):
        open_split(tmp_path, "train")
    path.write_bytes(data)
    assert open_split(tmp_path, "train")[9].id == records[9].id


def test_a_damaged_record_is_named_when_it_is_read(tmp_path):
    records = [_record(i, frames=1, size=40_000) for i in range(8)]
    info = write_split(tmp_path, "train", records, name="clips", shard_records=4)
    write_manifest(tmp_path, Manifest("clips", {"train": info}))
    path = tmp_path / info.shards[1].file
    data = bytearray(path.read_bytes())
    data[int(2.5 * 40_300)] ^= 0xFF
    path.write_bytes(data)
    source = open_split(tmp_path, "train")
    assert source[4].id == records[4].id
    with pytest.raises(ShardError, match=rf"Record 2 of shard .*{info.shards[1].file}.*sha256"):
        source[6]


def test_threads_may_be_the_first_to_read(tmp_path):
    """In a fresh process: TFDS imports its parts late, and not in two threads at once."""
    _make(tmp_path, count=8)
    program = f"""
import concurrent.futures
from mova_jax.data.shards.reader import open_split
source = open_split({str(tmp_path)!r}, "train")
with concurrent.futures.ThreadPoolExecutor(8) as pool:
    assert len({{record.id for record in pool.map(source.__getitem__, range(8))}}) == 8
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_manifest_that_names_a_file_elsewhere_is_refused(tmp_path):
    _make(tmp_path / "shards")
    path = tmp_path / "shards" / MANIFEST
    fields = json.loads(path.read_text())
    fields["splits"]["train"]["shards"][0]["file"] = "../secret"
    path.write_text(json.dumps(fields))
    with pytest.raises(ShardError, match="not a name in the folder"):
        read_manifest(tmp_path / "shards")
