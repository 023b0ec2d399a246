"""Tests of a shard folder: what is written is what is read, or a clear error."""

import hashlib
import json
import pickle

import numpy as np
import pytest

from mova_jax.data.shards import (
    MANIFEST,
    Manifest,
    ShardError,
    open_split,
    read_manifest,
    serialize,
    write_split,
)
from mova_jax.data.shards.tfds_info import DATASET_INFO
from tests.clips import write_shards
from tests.data.shards.test_records import record, same


def _make(folder, count=10, **limits):
    records = [record(i) for i in range(count)]
    return write_shards(folder, {"train": records}, limits, settings={"fps": 1.0}).splits["train"]


def test_records_are_read_at_random(tmp_path):
    info = _make(tmp_path, 10, shard_records=4)
    assert (info.videos, info.frames, info.captions) == (10, 30, 20)
    assert [shard.records for shard in info.shards] == [4, 4, 2]
    source = pickle.loads(pickle.dumps(open_split(tmp_path, "train")))
    assert len(source) == 10
    for index in (9, 0, 4, 3):
        assert same(source[np.int64(index)], record(index))
    for index in (10, -1):
        with pytest.raises(IndexError, match="has 10"):
            source[index]


def test_a_shard_is_closed_when_it_is_large_enough(tmp_path):
    info = _make(tmp_path, 5, shard_bytes=2 * len(serialize(record())) - 50)
    assert [shard.records for shard in info.shards] == [2, 2, 1]


def test_the_manifest_says_what_is_in_the_folder(tmp_path):
    info = _make(tmp_path, 5, shard_records=3)
    manifest = read_manifest(tmp_path)
    assert manifest == Manifest("clips", {"train": info}, {"fps": 1.0})
    files = {shard.file for shard in info.shards} | {MANIFEST, DATASET_INFO, "features.json"}
    assert {path.name for path in tmp_path.iterdir()} == files
    for shard in info.shards:
        data = (tmp_path / shard.file).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (shard.bytes, shard.sha256)


def test_an_error_in_the_middle_leaves_no_files(tmp_path):
    def records():
        yield from (record(i) for i in range(5))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_split(tmp_path / "shards", "train", records(), name="clips", shard_records=2)
    assert list((tmp_path / "shards").iterdir()) == []


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
    with pytest.raises(ShardError, match=r"clips-train.*written.*No space left.*make room"):
        write_split(tmp_path, "train", [record()], name="clips")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["Train", "a-b", "", "../x", "1a"])
def test_names_that_would_not_make_a_file_name(tmp_path, name):
    for split, dataset in ((name, "clips"), ("train", name)):
        with pytest.raises(ValueError, match="lower case letters"):
            write_split(tmp_path, split, [record()], name=dataset)


def test_a_split_without_records_and_a_folder_that_is_not_there_or_not_whole(tmp_path):
    with pytest.raises(ShardError, match=r"There is no shard folder .*mova_jax.prepare"):
        open_split(tmp_path / "nowhere", "train")
    with pytest.raises(ShardError, match="is empty"):
        open_split(tmp_path, "train")
    with pytest.raises(ShardError, match=r"'train' has no records"):
        write_split(tmp_path, "train", [], name="clips")
    write_split(tmp_path, "train", [record()], name="clips")
    with pytest.raises(ShardError, match=r"has no manifest.json"):
        open_split(tmp_path, "train")


OUTSIDE = ("../secret", "/etc/passwd", "..", ".", "", "a/b")


def _splits(file="a", **changes):
    shard = {"file": file, "records": 1, "bytes": 1, "sha256": ""}
    split = {"videos": 1, "frames": 1, "captions": 1, "shards": [shard]}
    return {"splits": {"train": split | changes}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 99}, "have schema version 99, this code reads version 1"),
        ({"splits": {"train": {"videos": 1}}}, "is not a manifest"),
        ({"unknown": 1}, "is not a manifest"),
        *((_splits(file), "not a name in the folder") for file in OUTSIDE),
        (_splits(5), "is not a manifest"),
        (_splits(videos="1"), "is not a manifest"),
        (_splits(frames=-1), "is not a manifest"),
        (_splits(videos=10**30), "is not a manifest"),
        ({"skipped": [{"id": "a"}]}, "is not a manifest"),
        ({"warnings": ["a"]}, "is not a manifest"),
        ({"settings": []}, "is not a manifest"),
        (None, "is not a manifest"),
    ],
)
def test_a_manifest_of_another_make(tmp_path, change, message):
    _make(tmp_path)
    path = tmp_path / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | change) if change else "{")
    with pytest.raises(ShardError, match=message):
        open_split(tmp_path, "train")


def test_a_split_and_a_shard_that_are_not_there(tmp_path):
    info = _make(tmp_path)
    with pytest.raises(ShardError, match=r"no split 'test' in .*the splits are: train"):
        open_split(tmp_path, "test")
    (tmp_path / info.shards[0].file).unlink()
    with pytest.raises(ShardError, match="in the manifest but not in the folder"):
        open_split(tmp_path, "train")


@pytest.mark.parametrize("size", [0, 700, -1])
def test_a_truncated_shard_is_named(tmp_path, size):
    path = tmp_path / _make(tmp_path).shards[0].file
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ShardError, match=rf"{path.name} has \d+ bytes.*truncated; copy it again"):
        open_split(tmp_path, "train")


def test_a_damaged_record_is_named_when_it_is_read(tmp_path):
    records = [record(i, frames=1, size=40_000) for i in range(8)]
    shards = write_shards(tmp_path, {"train": records}, {"shard_records": 4}).splits["train"].shards
    path = tmp_path / shards[1].file
    data = bytearray(path.read_bytes())
    data[int(2.5 * 40_300)] ^= 0xFF
    path.write_bytes(data)
    source = open_split(tmp_path, "train")
    assert source[4].id == records[4].id
    with pytest.raises(ShardError, match=rf"Record 2 of shard .*{path.name}.*sha256"):
        source[6]
