"""Tests of the readers of timed sentences: tiny files as published, and faulty lines."""

import json

import pyarrow
import pytest
from pyarrow import parquet

from mova_jax.data.annotations import InputError
from mova_jax.data.shards import Caption


def _json_lines(*rows):
    return "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)


def _entry(times, *sentences, **fields):
    return {"duration": 91.0, "timestamps": times, "sentences": list(sentences), **fields}


# ------------------------------------------------------------- lines "id start end##sentence"

_LINES = """\
AO8RW 20.0 26.9##a person puts a book on a shelf.
Y6R7T 20.8 30.0##person begins to play on a phone.
AO8RW 0.0 6.9##a person sits ## down.
AKKWU 38.0 13.0##person opens the cabinet.
no line of this form
AO8RW 20.0 soon##when?

AO8RW 20.0 26.9##a person puts a book on a shelf.
"""


@pytest.mark.parametrize(
    ("dataset", "file"),
    [("charades_sta", "charades_sta_train.txt"), ("animal_kingdom", "train.txt")],
)
def test_a_video_has_all_its_lines_in_order_of_time(room, dataset, file):
    room.write(file, _LINES)
    room.film("AO8RW.mp4", "deep/AKKWU.avi")
    items = room.read(dataset)
    book = Caption("a person puts a book on a shelf.", 20.0, 26.9)
    sits = Caption("a person sits ## down.", 0.0, 6.9)
    assert items["AO8RW"].captions == (sits, book, book, Caption("when?"))
    assert items["AKKWU"].captions == (Caption("person opens the cabinet."),)
    assert "38.0, 13.0" in items["AKKWU"].warnings[0]
    assert (room.reading.unit, room.reading.queries) == ("sentences", "caption")
    assert (room.reading.named, room.reading.found) == ({"train": 6}, {"train": 5})
    assert room.reading.missing == {"train": ["Y6R7T"]}
    test = file.replace("train", "test")
    assert room.skipped == {
        f"{file} line 5": "it must be `id start end##sentence`",
        test: "there is no such file, so the split test is left out",
        "Y6R7T": "no file of this name in the videos folder",
    }


# ---------------------------------------------------------------------- ActivityNet's form


def test_uca_is_the_same_from_json_and_from_lines(room):
    sentences = "She kicks the chair.", "He enters."
    room.write(
        "UCFCrime_Test.json", {"Abuse043_x264": _entry([[69.8, 81], [3.4, 7.5]], *sentences)}
    )
    room.film("Abuse/Abuse043_x264.mp4")
    captions = Caption("He enters.", 3.4, 7.5), Caption("She kicks the chair.", 69.8, 81.0)
    item = room.read("uca")["Abuse043_x264"]
    assert (item.captions, item.split) == (captions, "test")
    (room.annotations / "UCFCrime_Test.json").unlink()
    room.write(
        "UCFCrime_Test.txt",
        "Abuse043_x264 01:09.8 01:21.0 ##She kicks the chair.\n"
        "Abuse043_x264 00:03.4 00:07.5 ## He enters.",
    )
    (item,) = room.read("uca").values()
    assert (item.captions, item.split) == (captions, "test")
    assert room.reading.named == {"test": 1}  # its counts are of videos
    assert room.skipped.keys() == {"UCFCrime_Train.json", "UCFCrime_Val.json"}


def test_tacos_counts_in_frames(room):
    videos = {
        "s1-d69.avi": _entry([[294, 588], [30, 147]], "Late.", "Soon.", fps=29.4, num_frames=600),
        "s2-d70.avi": _entry([[1, 2]], "Bare.", num_frames=600),
        "s3-d71.avi": _entry([["x", 294]], "Odd.", fps=29.4),
    }
    room.write("val.json", videos)
    room.film("s1-d69.avi", "s2-d70.avi", "s3-d71.avi")
    items = room.read("tacos")
    soon, late = items["s1-d69.avi"].captions
    assert (soon.text, late.text) == ("Soon.", "Late.")
    times = [soon.start, soon.end, late.start, late.end]
    assert times == pytest.approx([30 / 29.4, 5.0, 10.0, 20.0])
    assert items["s1-d69.avi"].split == "validation"
    assert items["s3-d71.avi"].captions == (Caption("Odd."),)
    reason = "its times are in frames, so `fps` must be a number, got None"
    assert room.skipped["s2-d70.avi"] == reason


@pytest.mark.parametrize(
    ("dataset", "files"),
    [
        ("youcook2", {"train": "yc2_train.json", "test": "yc2_val.json"}),
        (
            "longvale",
            {"train": "longvale-annotations-training.json", "test": "test_set_info_1171.json"},
        ),
    ],
)
def test_files_of_activitynet_s_form_have_their_splits(room, dataset, files):
    for split, file in files.items():
        room.write(file, {f"v_{split}": _entry([[5, 9], [1, 4]], "Then.", "First.")})
    room.film("train.mp4", "v_test.mp4")
    items = room.read(dataset)
    assert {item.split for item in items.values()} == {"train", "test"}
    first = Caption("First.", 1.0, 4.0), Caption("Then.", 5.0, 9.0)
    assert all(item.captions == first for item in items.values())
    assert room.skipped == {}


def test_activitynet_keeps_the_order_of_its_file_and_takes_val_json(room):
    room.write("val.json", {"v_a": _entry([[5, 9], [1, 4]], "Then.", "First.")})
    room.film("a.mp4")
    item = room.read("activitynet")["v_a"]
    assert [caption.text for caption in item.captions] == ["Then.", "First."]
    assert item.split == "test"


# --------------------------------------------------------------------------- QVHighlights, TVR


def test_qvhighlights_has_all_windows_of_a_query_the_longest_first(room):
    video = "j7rJstUseKg_360.0_510.0"
    query = {"qid": 1, "vid": video, "duration": 150}
    room.write(
        "highlight_val_release.jsonl",
        _json_lines(
            query | {"query": "Some march.", "relevant_windows": [[72, 74], [80, 96], [100, 116]]},
            query | {"query": "One waves.", "relevant_windows": [[0, 10]]},
            query | {"query": "Odd.", "relevant_windows": [[0]]},
            "{",
            "[1]",
            {"qid": 2, "query": "Nowhere."},
        ),
    )
    room.write(
        "highlight_test_release.jsonl", _json_lines(query | {"query": "No.", "vid": "t_1.0"})
    )
    room.film(f"{video}.mp4", "t_1.0.mp4")
    items = room.read("qvhighlights")
    march = Caption("Some march.", 80, 96, ((72, 74), (100, 116)))
    assert items[video].captions == (Caption("One waves.", 0, 10), march)
    assert march.windows == ((80, 96), (72, 74), (100, 116))
    assert items[video].split == "validation"
    assert items["t_1.0"].captions == (Caption("No."),)
    assert room.reading.named == {"validation": 2, "test": 1}
    name = "highlight_val_release.jsonl line"
    windows = "`relevant_windows` must be a list of [start, end] in seconds, got [[0]]"
    assert room.skipped.pop(f"{name} 4").startswith("not JSON (")
    assert room.skipped[f"{name} 3"] == windows
    assert room.skipped[f"{name} 5"] == "not a JSON object but list"
    assert room.skipped[f"{name} 6"] == "it has no text `vid`"


def test_tvr_has_one_time_a_sentence(room):
    clip = {"vid_name": "friends_s01e03_seg02_clip_19", "duration": 61.46, "type": "v"}
    lines = clip | {"ts": [16.48, 33.87], "desc": "Phoebe waits. "}, clip | {"ts": [1], "desc": "?"}
    room.write("tvr_val_release.jsonl", _json_lines(*lines))
    room.film(f"{clip['vid_name']}.mp4")
    (item,) = room.read("tvr").values()
    assert item.captions == (Caption("Phoebe waits.", 16.48, 33.87),)
    assert (
        room.skipped["tvr_val_release.jsonl line 2"]
        == "`ts` must be [start, end] in seconds, got [1]"
    )


# ------------------------------------------------------------------------------- long videos


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_lovr_has_a_long_caption_a_video(room, suffix):
    rows = [{"vid": "-7wwfGJXEZg", "cap": "First a cat.\nA dog."}, {"vid": "gone", "cap": "x"}]
    if suffix == "parquet":
        parquet.write_table(
            pyarrow.Table.from_pylist(rows), room.annotations / "video_test.parquet"
        )
    else:
        room.write("all_video.jsonl", _json_lines(*rows))
    room.film("merged/-7wwfGJXEZg.mp4")
    (item,) = room.read("lovr").values()
    assert (item.id, item.split) == ("-7wwfGJXEZg", "test")
    assert item.captions == (Caption("First a cat. A dog."),)
    assert room.reading.missing == {"test": ["gone"]}


def test_flare_finds_videos_by_the_owners_paths(room):
    (room.annotations / "datas").mkdir()
    room.write(
        "datas/video-caption-vision.jsonl",
        _json_lines(
            {"video_path": "/mnt/owner/videos/fFjv93ACGo8.mp4", "caption": "A talk."},
            {"video_path": "../../etc/passwd.mp4", "caption": "Out."},
            {"video_path": "b.mp4", "caption": " "},
        ),
    )
    room.film("fFjv93ACGo8.mp4")
    (item,) = room.read("flare").values()
    assert (item.id, item.captions, item.split) == ("fFjv93ACGo8", (Caption("A talk."),), "test")
    assert "leaves the videos folder" in room.skipped["passwd"]
    assert "it has no text `cap` or `caption`" in room.skipped["video-caption-vision.jsonl line 3"]


# -------------------------------------------------------------------- further forms of old sets


def test_msvd_and_msrvtt_are_read_from_their_other_files(room):
    room.write("captions_msvd.json", {"-a_1_2": ["a cat", "the cat sits"]})
    for split, names in (("train", "-a_1_2"), ("val", "x_1_2"), ("test", "")):
        room.write(f"{split}_list.txt", names)
    room.film("-a_1_2.avi", "video1.mp4", "video7.mp4")
    (item,) = room.read("msvd").values()
    assert (item.captions, item.alternatives) == ((Caption("a cat"),), ("the cat sits",))
    assert room.skipped == {"x_1_2": "captions_msvd.json has no captions for it"}

    def part(video, split):
        sentences = [{"video_id": video, "caption": f"of {video}", "sen_id": 0}]
        return {"videos": [{"video_id": video, "split": split}], "sentences": sentences}

    room.write("train_val_videodatainfo.json", part("video1", "validate"))
    room.write("test_videodatainfo.json", part("video7", "test"))
    items = room.read("msrvtt_full")
    splits = {name: (item.split, item.captions[0].text) for name, item in items.items()}
    assert splits == {"video1": ("validation", "of video1"), "video7": ("test", "of video7")}


@pytest.mark.parametrize(
    ("dataset", "file", "content", "message"),
    [
        (
            "charades_sta",
            "charades_sta_test.txt",
            "AO8RW 0 1 a",
            "got 'AO8RW 0 1 a': it must be `id s",
        ),
        ("qvhighlights", "highlight_val_release.jsonl", "", "a file of lines .*, got no line"),
        ("tvr", "tvr_val_release.jsonl", '{"desc": "a"}', "it has no text `vid_name`"),
        ("lovr", "video_test.parquet", "no parquet", "is not Parquet or cannot be read"),
        ("uca", "UCFCrime_Val.json", [1], "an object of videos by their id, got list"),
        ("flare", "clips.jsonl", "", "There is no datas/video-caption-vision.jsonl or video-capt"),
    ],
)
def test_a_file_of_another_format_is_one_clear_error(room, dataset, file, content, message):
    room.write(file, content)
    with pytest.raises(InputError, match=message):
        room.read(dataset)
