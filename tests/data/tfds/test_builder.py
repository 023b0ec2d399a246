"""Tests of the builder: TFDS makes the records that `prepare` makes, without TensorFlow."""

import json
import sys

import pytest

from mova_jax.data.ingest.ingest import IngestSettings, ingest
from mova_jax.data.shards import open_split, serialize
from mova_jax.data.shards.tfds_info import VERSION
from mova_jax.data.tfds.source import open_tfds, tfds_splits
from tests.clips import ramp, write_video

SPLITS = ("test", "train", "validation")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A folder of four videos, one of which is none."""
    folder = tmp_path_factory.mktemp("clips")
    lines = []
    for i, split in enumerate(("train", "train", "validation", "test")):
        write_video(folder / f"{i}.mp4", ramp(11 + 10 * i))
        sentence = {"text": f"Sentence {i}.", "start": 0.0, "end": 0.5}
        lines.append({"video": f"{i}.mp4", "captions": [sentence, "Ünd."], "split": split})
    (folder / "broken.mp4").write_text("no video")
    lines.append({"video": "broken.mp4", "caption": "None.", "split": "train"})
    lines.append({"video": "0.mp4", "id": "no caption"})
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def _build(clips, data_dir, **config):
    from tensorflow_datasets.core.download import DownloadConfig

    from mova_jax.data.tfds.builder import OwnVideos, OwnVideosConfig

    config = OwnVideosConfig(name="test", workers=1, **config)
    builder = OwnVideos(data_dir=data_dir, config=config, file_format="array_record")
    builder.download_and_prepare(download_config=DownloadConfig(manual_dir=clips))
    return builder


def test_tfds_builds_the_records_of_prepare(clips, tmp_path):
    builder = _build(clips, tmp_path / "data", fps=2.0, short_side=16)
    ingest(clips / "captions.jsonl", tmp_path / "shards", IngestSettings(fps=2.0, short_side=16))
    name = f"tfds:own_videos/test/{VERSION}?data_dir={tmp_path / 'data'}"
    assert tfds_splits(name) == {"test": 1, "train": 2, "validation": 1}
    for split in SPLITS:
        ours, built = open_split(tmp_path / "shards", split), open_tfds(name, split)
        assert [serialize(r) for r in built] == [serialize(r) for r in ours]
    assert len(builder.as_data_source("train")[1]["frames"]) == 5  # 2.1 s, twice a second
    assert "tensorflow" not in sys.modules


def test_wrong_settings_are_refused_before_a_video_is_read(clips, tmp_path):
    with pytest.raises(Exception, match="fps must be positive, got -1"):
        _build(clips, tmp_path, fps=-1.0)


def test_a_split_without_any_usable_video_is_refused_with_the_reasons(tmp_path):
    (tmp_path / "a.mp4").write_text("no video")
    (tmp_path / "captions.jsonl").write_text('{"video": "a.mp4", "caption": "x", "split": "test"}')
    with pytest.raises(Exception, match="No video of split 'test' could be used: a"):
        _build(tmp_path, tmp_path / "data")
