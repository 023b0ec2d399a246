"""Tests of the metadata: TFDS reads a finished folder as it was written, without TensorFlow."""

import dataclasses
import json
import sys

import pytest

from mova_jax.data.shards import Caption, open_split
from mova_jax.data.shards.tfds_info import DATASET_INFO, VERSION
from tests.clips import write_shards
from tests.data.shards.test_records import record


def _make(folder, licence="none"):
    records = {"train": [record(i, 1 + i % 4) for i in range(10)], "ood_time": [record(77, 2)]}
    write_shards(folder, records, {"shard_records": 3}, settings={"fps": 1.0}, licence=licence)
    return folder


def test_tfds_gives_the_first_window_of_a_sentence_that_has_several(tmp_path):
    import tensorflow_datasets as tfds

    often = Caption("Often.", 0.5, 1.0, ((0.0, 0.25),))
    one = dataclasses.replace(record(), captions=(often, Caption("Again.", 1.0, 2.0)))
    write_shards(tmp_path, {"test": [one]}, settings={"fps": 1.0})
    assert open_split(tmp_path, "test")[0].captions == one.captions
    (example,) = tfds.builder_from_directory(tmp_path).as_data_source("test")
    assert list(example["captions"]["end"]) == [1.0, 2.0]


def _same(example, ours):
    """Compares what TFDS gives, field by field, with our record."""
    fields = vars(ours) | {"timestamps": list(ours.timestamps)}
    parts = [example["captions"][part] for part in ("text", "start", "end")]
    captions = tuple(Caption(text.decode(), *times) for text, *times in zip(*parts, strict=True))
    got = {name: example[name] for name in fields} | {"captions": captions}
    for name in ("id", "source", "truth"):
        got[name] = got[name].decode()
    got["frames"], got["timestamps"] = tuple(got["frames"]), list(got["timestamps"])
    got["alternatives"] = tuple(text.decode() for text in got["alternatives"])
    return got == fields


def test_tfds_reads_what_we_wrote(tmp_path):
    import tensorflow_datasets as tfds

    folder = _make(tmp_path / "clips" / VERSION)
    builder = tfds.builder_from_directory(folder)
    for split, count in (("train", 10), ("ood_time", 1)):
        ours, theirs = open_split(folder, split), builder.as_data_source(split)
        named = tfds.data_source("clips", data_dir=tmp_path, split=split)
        assert len(ours) == len(theirs) == len(named) == count
        for i in range(count):
            assert _same(theirs[i], ours[i]) and _same(named[i], ours[i])
    assert builder.info.redistribution_info.license == "none"
    assert "tensorflow" not in sys.modules


def test_metadata_depends_on_nothing_but_the_content(tmp_path):
    texts = {(_make(tmp_path / folder) / DATASET_INFO).read_bytes() for folder in "ab"}
    assert len(texts) == 1
    [text] = texts
    assert str(tmp_path).encode() not in text
    [train] = [s for s in json.loads(text)["splits"] if s["name"] == "train"]
    assert train["shardLengths"] == ["3", "3", "3", "1"]


@pytest.mark.parametrize("licence", ["", "CC BY 4.0"])
def test_folders_without_it_are_read_as_before(tmp_path, licence):
    folder = _make(tmp_path, licence)
    assert ("redistributionInfo" in (folder / DATASET_INFO).read_text()) == bool(licence)
    (folder / DATASET_INFO).unlink()
    assert open_split(folder, "train")[9].id == "video 9 é"
