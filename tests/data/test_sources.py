"""Tests of sources: what a name opens, several of them under one numbering."""

import pickle
import sys
import types

import pytest

from mova_jax.data.shards import ShardError
from mova_jax.data.sources import ConcatSource, is_tfds, open_source, splits_of
from tests.clips import video_record, write_shards


@pytest.fixture
def folder(tmp_path):
    counts = {"train": 3, "test": 2}
    write_shards(
        tmp_path, {s: [video_record(f"{s}{i}") for i in range(n)] for s, n in counts.items()}
    )
    return tmp_path


def test_a_folder_opens_as_shards(folder):
    source = open_source(str(folder), "test")
    assert [source[i].id for i in range(len(source))] == ["test0", "test1"]
    assert str(folder) in repr(source)
    assert splits_of(folder) == {"train": 3, "test": 2}


def test_what_is_not_there_is_said(folder, tmp_path):
    with pytest.raises(ShardError, match="no split 'tomorrow'"):
        open_source(folder, "tomorrow")
    with pytest.raises(ShardError):
        splits_of(tmp_path / "none")


def test_a_tfds_name_opens_as_tfds(monkeypatch):
    fake = types.ModuleType("mova_jax.data.tfds.source")
    fake.open_tfds = lambda name, split: (name, split)
    fake.tfds_splits = lambda name: {"train": 5}
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    monkeypatch.setattr("mova_jax.data.tfds.source", fake, raising=False)
    name = "tfds:msr_vtt/1.0.0?fps=3"
    assert is_tfds(name) and not is_tfds("shards/tfds")
    assert open_source(name, "train") == (name, "train")
    assert splits_of(name) == {"train": 5}


def test_joined_sources_have_one_numbering(folder):
    parts = [open_source(folder, split) for split in ("train", "test")]
    joined = pickle.loads(pickle.dumps(ConcatSource(parts)))
    assert len(joined) == 5
    assert [joined[i].id for i in range(5)] == ["train0", "train1", "train2", "test0", "test1"]
    assert repr(joined.locate(4)[0]) == repr(parts[1]) and joined.locate(4)[1] == 1
    for index in (-1, 5):
        with pytest.raises(IndexError):
            joined[index]
