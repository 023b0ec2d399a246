"""Data sets in their owners' layout, with videos made on the fly, through the command to shards."""

import shutil

import numpy as np
import pytest
from PIL import Image

from mova_jax import prepare
from mova_jax.data.annotations.registry import DATASETS
from mova_jax.data.images import decode_image
from mova_jax.data.ingest.video_reader import decode_video
from mova_jax.data.shards import Caption, open_split, read_manifest
from mova_jax.data.tokenizer import Tokenizer
from tests.clips import ramp, write_video


@pytest.fixture
def prepared(room, tmp_path, capsys):
    """`prepared(dataset)`: exit code, output, records by split and id."""

    def run(dataset, *more):
        arguments = [dataset, "--videos", room.videos, "--annotations", room.annotations]
        arguments += ["--output", tmp_path / "shards", "--workers", 0, "--short_side", 16, *more]
        code = prepare.main(list(map(str, arguments)))
        out, err = capsys.readouterr()
        if code == 1:
            return code, err, {}
        splits = read_manifest(tmp_path / "shards").splits
        sources = {split: open_split(tmp_path / "shards", split) for split in splits}
        return code, out, {s: {r.id: r for r in source} for s, source in sources.items()}

    return run


def test_activitynet(room, tmp_path, prepared):
    event = {"duration": 3.0, "timestamps": [[0, 1.5], [1.0, 99.0]]}
    event["sentences"] = ["A cat sits.", "It leaves."]
    room.write("train.json", {f"v_{name}": event for name in "abc"})
    words = " ".join(f"word{i}" for i in range(10_000))
    test = {"v_d": {"duration": 2, "timestamps": [[0, 1]], "sentences": [words]}}
    room.write("val_1.json", test)
    for name in "ad":
        write_video(room.videos / f"v_{name}.mp4", ramp(30))
    room.film("v_b.mp4", content=b"no video")
    code, out, records = prepared("activitynet")
    assert code == 3
    missing = tmp_path / "shards" / "missing.txt"
    assert missing.read_text() == "train\tv_c\n"
    assert (
        "train: 10,009 videos expected, 2 found; the annotations name 3; "
        f"1 files missing, listed in {missing}" in out
    )
    assert "test: 4,917 videos expected, 1 found; the annotations name 1\n" in out
    assert f"--config=configs/activitynet.py:data={tmp_path}/shards,init=CLIP,batch=2 " in out
    record = records["train"]["v_a"]
    assert record.caption == "A cat sits. It leaves."
    left = Caption("It leaves.", 1.0, record.duration)
    assert record.captions == (Caption("A cat sits.", 0.0, 1.5), left)
    manifest = read_manifest(tmp_path / "shards")
    assert {entry["id"] for entry in manifest.skipped} == {"v_b", "v_c"}
    assert (manifest.name, manifest.truncated_captions) == ("activitynet", 1)
    assert manifest.licence == DATASETS["activitynet"].licence
    assert manifest.settings["dataset"]["missing"] == {"train": 1}
    tokens = Tokenizer(tmp_path / "shards" / "tokenizer").encode(records["test"]["v_d"].caption)
    assert tokens.truncated and len(tokens.ids) <= 248


def test_an_image_is_a_video_of_one_frame(room, tmp_path, prepared):
    image = np.zeros((20, 30, 3), np.uint8)
    image[:, :15] = 255
    names = ["coco/1.jpg", "coco/2.png", "coco/3.jpg"]
    room.film(names[2], content=b"\xff\xd8\xff\xe0 cut")
    exif = Image.Exif()
    exif[0x112] = 6  # turned by a quarter
    Image.fromarray(image).save(room.videos / names[0], exif=exif)
    Image.fromarray(image).save(room.videos / names[1])
    talk = [{"from": "human", "value": "?"}, {"from": "gpt", "value": "Half white."}]
    entries = [{"image": name, "conversations": talk} for name in names]
    room.write("sharegpt4v_instruct_gpt4-vision_cap100k.json", entries)
    code, _, records = prepared("sharegpt4v", "--splits", "train=1", "--fps", 50)
    assert code == 3 and set(records["train"]) == set(names[:2])
    for name, shape in zip(names, [(24, 16), (16, 24)], strict=False):
        record = records["train"][name]
        assert len(record.frames) == 1 and record.caption == "Half white."
        assert decode_image(record.frames[0]).shape == (*shape, 3)
    assert [entry["id"] for entry in read_manifest(tmp_path / "shards").skipped] == ["coco/3.jpg"]
    assert not (tmp_path / "shards" / "missing.txt").exists()  # the file was found
    assert len(decode_video(room.videos / names[1], fps=100).frames) == 1


def test_a_csv_with_cuts_and_subtitles(room, tmp_path, prepared):
    write_video(room.videos / "a.mp4", ramp(40))
    rows = [["a", "A cat.", "1", "3"], ["a.mp4", "A dog.", "0", "1"], ["b", "Gone.", "", ""]]
    room.table("mine.csv", ["video", "caption", "start", "end"], *rows)
    code, out, records = prepared("csv", "--splits", "test=1", "--licence", "mine")
    assert code == 3 and "all: 3 named, 2 found; 1 files missing" in out
    assert read_manifest(tmp_path / "shards").licence == "mine"
    assert records["test"]["a#1.0-3.0"].duration == pytest.approx(2.0)
    room.write("a.srt", "1\n00:00:01,000 --> 00:00:02,000\nA cat sits.\n")
    shutil.rmtree(tmp_path / "shards")
    code, _, records = prepared("subtitles", "--splits", "train=1")
    assert code == 0
    assert records["train"]["a"].captions == (Caption("A cat sits.", 1.0, 2.0),)


def test_a_wrong_file_or_no_video_is_one_line_and_leaves_nothing(room, tmp_path, prepared):
    room.write("mine.csv", "file\na\n")
    code, err, _ = prepared("csv")
    assert code == 1 and err.count("\n") == 1
    assert "must be a CSV with the columns video, caption, got the columns file" in err
    room.write("mine.csv", "video,caption\na,text\n")
    code, err, _ = prepared("csv")
    assert code == 1 and "No video of csv could be used (1 skipped: a: no file of this" in err
    assert not (tmp_path / "shards").exists()


@pytest.mark.parametrize("alone", [False, True])
def test_videos_and_annotations_at_urls(room, tmp_path, capsys, alone):
    """As a folder or one file; other files in it and names that lead out are ignored."""
    write_video(room.videos / "deep" / "a.mp4", ramp(10))
    room.write("mine.csv", "video,caption\na,A cat sits.\n../a,No.\nb,Missing.\n")
    room.write("large.mp4", "not copied")
    notes = "annotations/mine.csv" if alone else "annotations"
    arguments = ["csv", "--videos", f"file://{tmp_path}/videos", "--workers", "0"]
    arguments += ["--annotations", f"file://{tmp_path}/{notes}", "--output", f"{tmp_path}/shards"]
    assert prepare.main(arguments) == 3
    record = open_split(tmp_path / "shards", "train")[0]
    assert (record.source, record.caption) == ("deep/a.mp4", "A cat sits.")
    out = capsys.readouterr().out
    assert "../a: the path '../a' leaves the videos folder" in out
    assert "b: no file of this name in the videos folder" in out
    arguments[-1] = f"{tmp_path}/other"
    place = arguments.index(f"file://{tmp_path}/{notes}")
    for scheme, shown in (("memory:/", "memory:/"), ("file://", "")):
        arguments[place] = f"{scheme}{tmp_path}/no"
        assert prepare.main(arguments) == 1
        assert f"There is no {shown}{tmp_path}/no" in capsys.readouterr().err
