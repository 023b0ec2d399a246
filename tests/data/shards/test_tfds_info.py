"""Tests of the metadata: TFDS reads a finished folder as it was written, without TensorFlow."""

import json
import sys

import pytest

from mova_jax.data.shards import (
    Caption,
    Manifest,
    open_split,
    write_manifest,
    write_split,
)
from mova_jax.data.shards.tfds_info import DATASET_INFO, VERSION
from tests.data.shards.test_records import record


def _make(folder, licence="none"):
    splits = {
        "train": write_split(
            folder, "train", [record(i, 1 + i % 4) for i in range(10)], name="clips",
            shard_records=3,
        ),
        "ood_time": write_split(folder, "ood_time", [record(77, 2)], name="clips"),
    }  # fmt: skip
    write_manifest(folder, Manifest("clips", splits, {"fps": 1.0}, licence=licence))
    return folder


def _same(example, ours):
    """Compares what TFDS gives, field by field, with our record."""
    captions = example["captions"]
    got = {
        "id": example["id"].decode(),
        "frames": tuple(example["frames"]),
        "height": example["height"],
        "width": example["width"],
        "timestamps": list(example["timestamps"]),
        "duration": example["duration"],
        "captions": tuple(
            Caption(text.decode(), start, end)
            for text, start, end in zip(
                captions["text"], captions["start"], captions["end"], strict=True
            )
        ),
        "alternatives": tuple(text.decode() for text in example["alternatives"]),
        "source": example["source"].decode(),
        "truth": example["truth"].decode(),
    }
    return got == {**vars(ours), "timestamps": list(ours.timestamps)}


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
