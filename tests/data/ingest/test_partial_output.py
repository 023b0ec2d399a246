"""Tests of the unfinished work of `prepare`: plan, shards, and what the next call restores."""

import pickle

import pytest

from mova_jax.data.ingest.partial_output import ItemResult, PartialOutput, ShardPlan, shard_name
from mova_jax.data.shards import ShardError, read_shard, serialize, write_split
from mova_jax.data.storage import Folder
from tests.clips import video_record


def _record(key):
    return video_record(key, ["A cat sits."], frames=(f"frame of {key}".encode(),))


def _store(partial_output, *keys):
    for key in keys:
        data = serialize(_record(key))
        partial_output.store(key, ItemResult.of(data, 1, 1, ("A cat sits.",), ("a note",)), data)


def _files(folder):
    folder = folder / ".partial"
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


@pytest.fixture
def partial_output(tmp_path, monkeypatch):
    monkeypatch.setattr("mova_jax.data.ingest.partial_output.SHARD_RECORDS", 2)
    return PartialOutput(Folder(tmp_path))


def _items(keys, split="train"):
    return [(split, key) for key in keys]


def test_a_shard_is_full_by_records_or_bytes(monkeypatch):
    monkeypatch.setattr("mova_jax.data.ingest.partial_output.SHARD_RECORDS", 3)
    monkeypatch.setattr("mova_jax.data.ingest.partial_output.SHARD_BYTES", 100)
    plan = ShardPlan()
    sizes = {"a": 10, "b": 10, "c": 10, "d": 99, "e": 1, "f": 500, "g": 1}
    full = [plan.add("train", key, size) for key, size in sizes.items()]
    assert [keys for keys in full if keys] == [["a", "b", "c"], ["d", "e"], ["f"]]
    assert plan.add("test", "h", 1) == []
    assert plan.open_shards() == {"train": ["g"], "test": ["h"]}
    assert plan.shards["train"] == [["a", "b", "c"], ["d", "e"], ["f"], ["g"]]


def test_a_packed_shard_equals_one_of_write_split(partial_output, tmp_path):
    _store(partial_output, "a", "b")
    packed = partial_output.pack(["a", "b"])
    records = [_record("a"), _record("b")]
    info = write_split(tmp_path / "other", "train", records, name="x").shards[0]
    assert (packed.sha256, packed.size) == (info.sha256, info.bytes)
    path = tmp_path / shard_name(["a", "b"])
    assert list(read_shard(path)) == list(map(serialize, records))
    again = pickle.loads(pickle.dumps(partial_output))
    assert again.pack(["a", "b"]) == packed  # which it finds


def test_a_record_is_either_in_a_shard_or_an_item(partial_output, tmp_path):
    _store(partial_output, "a", "b", "c")
    partial_output.store("d", ItemResult(reason="no video"), b"")
    partial_output.pack(["a", "b"])
    stem = shard_name(["a", "b"]).removeprefix(".partial/").removesuffix(".array_record")
    items = ["items/c.json", "items/c.record", "items/d.json"]
    assert _files(tmp_path) == [*items, f"{stem}.array_record", f"{stem}.json"]
    known = partial_output.restore(_items("abcde"))
    has_record = {key: result.size > 0 for key, result in known.items()}
    assert has_record == {"a": True, "b": True, "c": True, "d": False}
    assert known["a"].warnings == ("a note",) and known["d"].reason == "no video"
    assert _files(tmp_path) == [*items, f"{stem}.array_record", f"{stem}.json"]


@pytest.mark.parametrize("items", ["acb", "xab", "bc", "b", "ba"])
def test_a_shard_that_no_longer_fits_is_unpacked(partial_output, tmp_path, items):
    """`x` is new, so the records after it may belong to other shards."""
    _store(partial_output, "a", "b", "c")
    partial_output.pack(["a", "b"])
    known = partial_output.restore(_items(items))
    assert sorted(known) == sorted(set(items) - {"x"})
    ends = ("json", "record")
    assert _files(tmp_path) == [f"items/{key}.{end}" for key in "abc" for end in ends]
    for key in "abc":
        data = (tmp_path / f".partial/items/{key}.record").read_bytes()
        assert data == serialize(_record(key))


@pytest.mark.parametrize("items", ["", "xyz", "c"])
def test_a_call_keeps_finished_work_that_it_does_not_use(partial_output, tmp_path, items):
    """Its videos may not be mounted, or its --fps mistyped."""
    _store(partial_output, "a", "b", "c")
    partial_output.store("d", ItemResult(reason="no video"), b"")
    partial_output.pack(["a", "b"])
    before = _files(tmp_path)
    assert set(partial_output.restore(_items(items))) == set(items) & {"c"}
    assert _files(tmp_path) == before
    assert sorted(partial_output.restore(_items("abcd"))) == list("abcd")


def test_a_result_without_its_record_is_not_restored(partial_output, tmp_path):
    _store(partial_output, "a", "b")
    (tmp_path / ".partial/items/b.record").unlink()
    assert list(partial_output.restore(_items("ab"))) == ["a"]
    assert partial_output.result("b") is None


def test_another_split_does_not_touch_a_shard(partial_output, tmp_path):
    _store(partial_output, "a", "b")
    partial_output.pack(["a", "b"])
    before = _files(tmp_path)
    partial_output.restore([("test", "x"), *_items("ab"), *_items("y")])
    assert _files(tmp_path) == before


def test_incomplete_files_of_a_killed_call_are_removed(partial_output, tmp_path):
    _store(partial_output, "a", "b", "c", "d")
    partial_output.pack(["a", "b"])
    stem = tmp_path / shard_name(["c", "d"])
    stem.write_bytes(b"a shard without its .json")
    items = tmp_path / ".partial" / "items"
    (items / "c.json").unlink()
    (items / "e.json").write_bytes(b"{")
    (items / "f.record.0a.partial").write_bytes(b"half")
    (items / "g.retry").write_bytes(ItemResult(reason="no memory").to_json())
    (items / "h.passing").write_bytes(b"{}")  # the name of .retry in earlier versions
    assert sorted(partial_output.restore(_items("abcdefgh"))) == ["a", "b", "d"]
    names = {name for name in _files(tmp_path) if name.startswith("items/")}
    assert names == {"items/d.json", "items/d.record"} and not stem.exists()
    (items / "other.record").write_bytes(b"without its .json")
    partial_output.restore(_items("abcd"))
    assert not (items / "other.record").exists()


@pytest.mark.parametrize("damage", [lambda data: data[:-10], lambda data: bytes(len(data))])
def test_a_damaged_shard_loses_its_own_records_only(partial_output, tmp_path, damage):
    _store(partial_output, "a", "b", "c")
    partial_output.pack(["a", "b"])
    path = tmp_path / shard_name(["a", "b"])
    path.write_bytes(damage(path.read_bytes()))
    assert list(partial_output.restore(_items("bac"))) == ["c"]
    assert _files(tmp_path) == ["items/c.json", "items/c.record"]


def test_a_damaged_record_is_made_again_by_the_next_call(partial_output, tmp_path):
    _store(partial_output, "a", "b")
    (tmp_path / ".partial/items/b.record").write_bytes(b"")
    with pytest.raises(ShardError, match="was damaged and is removed; run again"):
        partial_output.pack(["a", "b"])
    assert _files(tmp_path) == ["items/a.json", "items/a.record"]
