"""Tests of what an unfinished `prepare` keeps: plan, shards, and what the next call finds."""

import pickle

import numpy as np
import pytest

from mova_jax.data.ingest import partial_output as unfinished_lib
from mova_jax.data.ingest.partial_output import ItemResult, PartialOutput, ShardPlan, shard_name
from mova_jax.data.shards import (
    Caption,
    ShardError,
    VideoRecord,
    read_shard,
    serialize,
    write_split,
)
from mova_jax.data.storage import Folder


def _record(key):
    frames = (f"frame of {key}".encode(),)
    return VideoRecord(key, frames, 1, 1, np.zeros(1), 1.0, (Caption("A cat sits."),))


def _keep(kept, *keys):
    for key in keys:
        data = serialize(_record(key))
        kept.keep(key, ItemResult.of(data, 1, 1, ("A cat sits.",), ("a note",)), data)


def _files(folder):
    folder = folder / ".partial"
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.*"))


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setattr(unfinished_lib, "SHARD_RECORDS", 2)
    return PartialOutput(Folder(tmp_path))


def _items(keys, split="train"):
    return [(split, key) for key in keys]


def test_the_plan_goes_by_number_and_size(monkeypatch):
    monkeypatch.setattr(unfinished_lib, "SHARD_RECORDS", 3)
    monkeypatch.setattr(unfinished_lib, "SHARD_BYTES", 100)
    plan = ShardPlan()
    sizes = {"a": 10, "b": 10, "c": 10, "d": 99, "e": 1, "f": 500, "g": 1}
    full = [plan.add("train", key, size) for key, size in sizes.items()]
    assert [keys for keys in full if keys] == [["a", "b", "c"], ["d", "e"], ["f"]]
    assert plan.add("test", "h", 1) == []
    assert plan.open_shards() == {"train": ["g"], "test": ["h"]}
    assert plan.shards["train"] == [["a", "b", "c"], ["d", "e"], ["f"], ["g"]]


def test_a_shard_is_the_one_that_a_split_writer_makes(kept, tmp_path):
    _keep(kept, "a", "b")
    packed = kept.pack(["a", "b"])
    records = [_record("a"), _record("b")]
    info = write_split(tmp_path / "other", "train", records, name="x").shards[0]
    assert (packed.sha256, packed.size) == (info.sha256, info.bytes)
    path = tmp_path / shard_name(["a", "b"])
    assert list(read_shard(path)) == list(map(serialize, records))
    assert pickle.loads(pickle.dumps(kept)).pack(["a", "b"]) == packed  # and finds it again


def test_records_are_in_a_shard_or_by_themselves(kept, tmp_path):
    _keep(kept, "a", "b", "c")
    kept.keep("d", ItemResult(reason="no video"), b"")
    kept.pack(["a", "b"])
    stem = shard_name(["a", "b"]).removeprefix(".partial/").removesuffix(".array_record")
    items = ["items/c.json", "items/c.record", "items/d.json"]
    assert _files(tmp_path) == [*items, f"{stem}.array_record", f"{stem}.json"]
    known = kept.restore(_items("abcde"))
    assert {key: result.size > 0 for key, result in known.items()} == {
        "a": True, "b": True, "c": True, "d": False,
    }  # fmt: skip
    assert known["a"].warnings == ("a note",) and known["d"].reason == "no video"
    assert _files(tmp_path) == [*items, f"{stem}.array_record", f"{stem}.json"]


@pytest.mark.parametrize("items", ["acb", "xab", "bc", "b", "ba"])
def test_a_shard_that_is_none_any_more_gives_its_records_back(kept, tmp_path, items):
    """`x` is new, so what comes after it may fall into other shards."""
    _keep(kept, "a", "b", "c")
    kept.pack(["a", "b"])
    known = kept.restore(_items(items))
    assert sorted(known) == sorted(set(items) - {"x"})
    ends = ("json", "record")
    assert _files(tmp_path) == [f"items/{key}.{end}" for key in "abc" for end in ends]
    for key in "abc":
        data = (tmp_path / f".partial/items/{key}.record").read_bytes()
        assert data == serialize(_record(key))


@pytest.mark.parametrize("items", ["", "xyz", "c"])
def test_what_is_finished_outlives_a_call_that_does_not_ask_for_it(kept, tmp_path, items):
    """Whose videos are not mounted, for one, or whose --fps is a slip of the pen."""
    _keep(kept, "a", "b", "c")
    kept.keep("d", ItemResult(reason="no video"), b"")
    kept.pack(["a", "b"])
    before = _files(tmp_path)
    assert set(kept.restore(_items(items))) == set(items) & {"c"}
    assert _files(tmp_path) == before
    assert sorted(kept.restore(_items("abcd"))) == list("abcd")


def test_an_outcome_that_lost_its_record_is_made_again(kept, tmp_path):
    _keep(kept, "a", "b")
    (tmp_path / ".partial/items/b.record").unlink()
    assert list(kept.restore(_items("ab"))) == ["a"]
    assert kept.result("b") is None


def test_another_split_does_not_touch_a_shard(kept, tmp_path):
    _keep(kept, "a", "b")
    kept.pack(["a", "b"])
    before = _files(tmp_path)
    kept.restore([("test", "x"), *_items("ab"), *_items("y")])
    assert _files(tmp_path) == before


def test_what_a_killed_call_left_half_is_removed(kept, tmp_path):
    _keep(kept, "a", "b", "c", "d")
    kept.pack(["a", "b"])
    stem = tmp_path / shard_name(["c", "d"])
    stem.write_bytes(b"a shard without its .json")
    items = tmp_path / ".partial" / "items"
    (items / "c.json").unlink()
    (items / "e.json").write_bytes(b"{")
    (items / "f.record.0a.partial").write_bytes(b"half")
    (items / "g.passing").write_bytes(ItemResult(reason="no memory").to_json())
    assert sorted(kept.restore(_items("abcdefg"))) == ["a", "b", "d"]
    names = {name for name in _files(tmp_path) if name.startswith("items/")}
    assert names == {"items/d.json", "items/d.record"} and not stem.exists()
    (items / "other.record").write_bytes(b"without its .json")
    kept.restore(_items("abcd"))
    assert not (items / "other.record").exists()


@pytest.mark.parametrize("damage", [lambda data: data[:-10], lambda data: bytes(len(data))])
def test_a_damaged_shard_costs_its_records_only(kept, tmp_path, damage):
    _keep(kept, "a", "b", "c")
    kept.pack(["a", "b"])
    path = tmp_path / shard_name(["a", "b"])
    path.write_bytes(damage(path.read_bytes()))
    assert list(kept.restore(_items("bac"))) == ["c"]
    assert _files(tmp_path) == ["items/c.json", "items/c.record"]


def test_a_damaged_record_is_made_again_by_the_next_call(kept, tmp_path):
    _keep(kept, "a", "b")
    (tmp_path / ".partial/items/b.record").write_bytes(b"")
    with pytest.raises(ShardError, match="was damaged and is removed; run again"):
        kept.pack(["a", "b"])
    assert _files(tmp_path) == ["items/a.json", "items/a.record"]
