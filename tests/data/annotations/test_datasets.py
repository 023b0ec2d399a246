"""Tests of the readers of data sets: their files as published, and faulty entries."""

import json
import pickle

import pytest

from mova_jax.data.annotations import InputError
from mova_jax.data.annotations.registry import DATASETS, read_dataset
from mova_jax.data.shards import Caption

# ------------------------------------------------------------------------------------ ActivityNet


def _event(*sentences, times=None):
    times = times or [[float(i), i + 1.5] for i in range(len(sentences))]
    return {"duration": 9.5, "sentences": list(sentences), "timestamps": times}


def test_activitynet_is_paragraph_to_video(room):
    train = {"v_a": _event("A cat sits.", " It leaves."), "v_gone": _event("Nothing.")}
    train["v_odd"] = _event("Odd.", "Bare.", times=[[5, 2]])
    train["v_bad"] = {"duration": 3}
    room.write("train.json", json.dumps(train)[:-1] + ', "v_a": {"sentences": []}}')
    room.write("val_1.json", {"v_b": _event("A dog runs."), "v_a": _event("Again.")})
    room.film("a.mp4", "deep/v_b.webm", "v_odd.mkv", "v_bad.mp4")
    items = room.read("activitynet")
    assert items["v_a"].captions == (Caption("A cat sits.", 0, 1.5), Caption("It leaves.", 1, 2.5))
    assert (items["v_a"].split, items["v_b"].split) == ("train", "test")
    assert items["v_b"].path == room.videos / "deep/v_b.webm"
    assert items["v_odd"].captions == (Caption("Odd."), Caption("Bare."))
    assert "caption 0 is kept without its times" in items["v_odd"].warnings[0]
    assert room.skipped["v_bad"] == "it must have lists of `sentences` and `timestamps`"
    assert room.skipped["v_gone"] == "no file of this name in the videos folder"
    reasons = [entry["reason"] for entry in room.reading.skipped if entry["id"] == "v_a"]
    twice = "train.json has it twice; the first was used"
    assert reasons == [twice, "the id was already used in train"]
    assert room.reading.missing == {"train": ["v_gone"]}
    assert room.reading.named == {"train": 3, "test": 1}
    assert room.reading.found == {"train": 2, "test": 1}


# ----------------------------------------------------------------------------------------- DiDeMo


def _moment(video, text, *times, **fields):
    return {"video": video, "description": text, "times": list(times), **fields}


def test_didemo_joins_the_sentences_of_a_video_under_all_its_names(room):
    moments = [
        _moment("9@N0_1_ab.mov", "a cat", [1, 1], [0, 2], [0, 2], [0, 0]),
        _moment("9@N0_2_cd.3gp", "a dog", [5, 5]),
        _moment("9@N0_1_ab.mp4", "a fox", [5, 5]),
        _moment("9@N0_1_ab.mov", "no time", ["x", 1]),
        {"video": "9@N0_3_ef.avi"},
        _moment("9@N0_4_gh.", "a name that ends in a point", [0, 0]),
    ]
    room.write("train_data.json", moments)
    room.write("val_data.json", [_moment("v.mov", "a hen", [0, 0])])
    room.write("test_data.json", [_moment("t.mov", "a cow", [0, 0])])
    # The owners' script stores under the whole name with .mp4 behind it.
    room.film("9@N0_1_ab.mp4", "9@N0_2_cd.3gp.mp4", "9@N0_4_gh.mp4", "v.mov", "t.avi")
    items = room.read("didemo")
    cats = items["9@N0_1_ab"]
    assert cats.captions == (
        Caption("a cat", 0.0, 15.0),  # the pair of most annotators
        Caption("a fox", 25.0, 30.0),
        Caption("no time"),
    )
    assert (cats.start, cats.end, cats.video) == (0.0, 30.0, "9@N0_1_ab.mp4")
    assert items["9@N0_2_cd"].video == "9@N0_2_cd.3gp.mp4"
    assert [items[name].split for name in ("v", "t")] == ["validation", "test"]
    assert len(items) == 5
    assert room.skipped == {"train_data.json entry 4": "`video` and `description` must be texts"}


# ------------------------------------------------------------------------------------------- MSVD


def _msvd(room, captions, protocol=2, **lists):
    room.write("raw-captions.pkl", pickle.dumps(captions, protocol=protocol))
    for split in ("train", "val", "test"):
        room.write(f"{split}_list.txt", "\n".join(lists.get(split, [])) + "\n")


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_msvd_has_many_captions_a_video(room, protocol):
    captions = {"-a_1_2": [["a", "cat"], ["the", "cat", "sits"]], "b_3_4": [["a", "dog"]]}
    captions["c_5_6"] = [["a", 3]]
    lists = {"train": ["-a_1_2", "c_5_6", "z_7_8"], "test": ["b_3_4", "b_3_4"]}
    _msvd(room, captions, protocol, **lists)
    room.film("-a_1_2.avi", "b_3_4.avi", "c_5_6.avi")
    items = room.read("msvd")
    assert items["-a_1_2"].captions == (Caption("a cat"),)
    assert items["-a_1_2"].alternatives == ("the cat sits",)
    assert (items["b_3_4"].split, items["b_3_4"].alternatives) == ("test", ())
    assert room.skipped == {
        "c_5_6": "a caption must be a list of tokens, got ['a', 3]",
        "z_7_8": "raw-captions.pkl has no captions for it",
        "b_3_4": "the id was already used in test",
    }


def test_captions_of_python_2_are_read(room):
    _msvd(room, {}, train=["b"])
    # {'b': [['caf\xc3\xa9']]} as cPickle of Python 2 writes it: byte strings.
    room.write("raw-captions.pkl", b"\x80\x02}U\x01b]]U\x05caf\xc3\xa9aas.")
    room.film("b.avi")
    assert room.read("msvd")["b"].captions == (Caption("café"),)


class _Malicious:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_malicious_pickle_is_refused_and_not_run(room, tmp_path, protocol):
    target = tmp_path / "ran"
    pickle.loads(pickle.dumps(_Malicious(target)))
    assert target.exists()  # so it would
    target.unlink()
    for captions in (_Malicious(target), {"a": [[_Malicious(target)]]}):
        _msvd(room, captions, protocol, train=["a"])
        with pytest.raises(InputError, match=r"raw-captions.pkl is not a pickle of plain.*open"):
            room.read("msvd")
    assert not target.exists()


@pytest.mark.parametrize("data", [b"", b"\x80\x04", b"no pickle", b"\x80\x02}q\x00r\xff\xff\xff"])
def test_a_damaged_pickle_is_one_error(room, data):
    room.write("raw-captions.pkl", data)
    with pytest.raises(InputError, match=r"raw-captions\.pkl"):
        room.read("msvd")


# ---------------------------------------------------------------------------------------- MSR-VTT


def _msrvtt(room):
    splits = ["train", "validate", "test", "train"]
    videos = [{"video_id": f"video{i}", "split": split} for i, split in enumerate(splits)]
    sentences = [
        {"sen_id": 10 * i + k, "video_id": f"video{i}", "caption": f"text {i} {k}"}
        for i in range(4)
        for k in range(3)
    ]
    sentences.append({"sen_id": 99, "video_id": "video1"})
    room.write("MSRVTT_data.json", {"info": {}, "videos": videos, "sentences": sentences})
    room.table("MSRVTT_train.9k.csv", ["video_id"], ["video0"], ["video1"], ["video3"], ["video2"])
    header = ["key", "vid_key", "video_id", "sentence"]
    room.table("MSRVTT_JSFUSION_test.csv", header, ["ret0", "msr2", "video2", "one, of them"])
    room.film(*(f"{name}.mp4" for name in ("video0", "video1", "video2")))


def test_msrvtt_9k_trains_on_all_captions_and_tests_on_one(room):
    _msrvtt(room)
    items = room.read("msrvtt")
    assert items["video0"].captions == (Caption("text 0 0"),)
    assert items["video0"].alternatives == ("text 0 1", "text 0 2")
    assert (items["video2"].captions, items["video2"].split) == ((Caption("one, of them"),), "test")
    assert items["video2"].alternatives == ()
    assert items["video1"].split == "train"
    assert room.skipped["video2"] == "the id was already used in test"  # it leaks into train
    assert room.reading.missing == {"train": ["video3"]}
    assert "MSRVTT_data.json sentence 12" in room.skipped


def test_msrvtt_full_goes_by_the_split_of_the_json(room):
    _msrvtt(room)
    items = room.read("msrvtt_full")
    splits = {name: item.split for name, item in items.items()}
    assert splits == {"video0": "train", "video1": "validation", "video2": "test"}
    assert len(items["video2"].alternatives) == 2


# ------------------------------------------------------------------------------------------ LSMDC


def test_lsmdc_sentences_have_their_times_in_the_clip(room):
    times = ("00.01.00.500", "00.01.01.000", "00.01.00.000", "00.01.02.000")
    clip = "1001_Movie_00.01.00.000-00.01.02.000"
    rows = [[clip, *times, "SOMEONE waves."], [clip, *times, "She smiles."], ["x", "y"]]
    rows.append(["1002_Movie_x", *"abcd", "Odd."])
    for file, *lines in (
        ("annos_training", *rows),
        ("annos_val", ["2", *times, "Val."]),
        ("challenge_1000_publictect", ["3", *times, "Test."]),
    ):
        room.table(f"LSMDC16_{file}.csv", *lines, delimiter="\t")
    room.film(f"1001_Movie/{clip}.avi", "1002_Movie/1002_Movie_x.avi", "2.avi")
    items = room.read("lsmdc")
    assert items[clip].captions == (Caption("SOMEONE waves.", 0.5, 1.0),)
    assert items[clip].alternatives == ("She smiles.",)
    assert items["1002_Movie_x"].captions == (Caption("Odd."),)
    assert room.reading.named == {"train": 3, "validation": 1, "test": 1}
    assert room.reading.found == {"train": 3, "validation": 1}
    assert room.skipped["LSMDC16_annos_training.csv line 3"] == "it has 2 cells in place of 6"


# ----------------------------------------------------------- VideoUFO, UltraVideo, ShareGPT4V


@pytest.mark.parametrize("space", [" ", "_"])
def test_videoufo_has_a_long_and_a_brief_caption(room, space):
    header = ["ID", "Topic", f"Detailed{space}Caption", f"Brief{space}Caption", "Start Time"]
    rows = [["--x.0", "cats", 'A "long" text, with\na new line.', "A cat.", "0:00"], ["y.1", "z"]]
    room.table("VideoUFO.csv", header, *rows)
    room.film("--x.0.mp4", "y.1.mp4")
    items = room.read("videoufo")
    assert items["--x.0"].captions == (Caption('A "long" text, with a new line.'),)
    assert (items["--x.0"].alternatives, items["--x.0"].split) == (("A cat.",), "")
    assert room.skipped == {"y.1": "line 4: it has 2 cells, the header 5"}


def test_ultravideo_reads_the_tables_that_are_there(room):
    columns = ["clip_id", "url", "Brief Description", "Detailed Description"]
    header = [*columns, "Summarized Description"]
    room.table("short.csv", header, ["a.mp4", "u", "Brief.", "Detailed.", "Summary."])
    room.film("clips_short_1920/a.mp4", "clips_short_960/a.mp4", "b.mp4")
    (item,) = room.read("ultravideo").values()
    assert (item.captions, item.alternatives) == ((Caption("Summary."),), ("Brief.",))
    assert item.warnings == ("2 files have its name; clips_short_1920/a.mp4 was used",)
    room.table("long.csv", columns, ["b.mp4", "u", "", "Detailed."])
    assert room.read("ultravideo")["b.mp4"].captions == (Caption("Detailed."),)


def test_sharegpt4v_has_images_with_answers(room):
    def entry(image, *turns):
        turns = [{"from": who, "value": text} for who, text in turns]
        return {"id": "1", "image": image, "conversations": turns}

    talk = (("human", "<image>\nDescribe it."), ("gpt", "A cat.\n\nIt sits."), ("gpt", "No."))
    entries = [entry("coco/train2017/1.jpg", *talk), entry("sam/2.jpg", ("human", "?")), 3]
    entries.append(entry("../../etc/passwd.jpg", *talk))
    file = room.write("mine.json", entries)
    room.film("coco/train2017/1.jpg", "sam/2.jpg", "1.mp4")
    (item,) = room.read("sharegpt4v", file).values()
    assert (item.id, item.captions) == ("coco/train2017/1.jpg", (Caption("A cat. It sits."),))
    assert room.skipped == {
        "entry 1": "sam/2.jpg: `conversations` has no answer of 'gpt'",
        "entry 2": "it has no `image`",
        "../../etc/passwd.jpg": "the path '../../etc/passwd.jpg' leaves the videos folder",
    }


# ----------------------------------------------------------------------------------- your own, CSV


def test_a_csv_has_cuts_splits_and_more_captions(room):
    room.table(
        "mine.csv",
        ["Caption", "video", "start", "end", "id", "split", "note"],
        ["A cat.", "a", "", "", "", "val", ""],
        ["The cat.", "a", "", "", "", "val", ""],
        ["The  cat.", "a", "", "", "", "val", ""],
        ["A dog.", "a.mp4", "1", "2.5", "", "", ""],
        ["Other.", "b.mp4", "", "", "a", "", ""],
        ["Late.", "a", "soon", "", "", "", ""],
        ["", "a", "", "", "x", "", ""],
        ["Cut.", "a", "5", "3", "", "", ""],
        ["Split.", "a", "", "", "s", "Ü", ""],
    )
    room.film("a.mp4", "b.mp4")
    items = room.read("csv")
    assert items["a"].captions == (Caption("A cat."),)
    assert (items["a"].alternatives, items["a"].split) == (("The cat.",), "validation")
    assert (items["a.mp4#1.0-2.5"].start, items["a.mp4#1.0-2.5"].end) == (1.0, 2.5)
    assert len(items) == 2
    assert room.skipped == {
        "line 4": "the id 'a' has this caption already",
        "line 6": "the id 'a' was already used for another video, cut or split",
        "line 7": "`start` must be seconds, got 'soon'",
        "line 8": "`caption` is empty",
        "a#5.0-3.0": "the cut must have 0 <= start < end in seconds, got 5.0, 3.0",
        "s": "`split` must be a lower case name, got 'Ü'",
    }


def test_null_bytes_and_ten_thousand_words_survive(room):
    words = " ".join(f"word{i}" for i in range(10_000))
    room.write("mine.csv", f"\ufeffvideo,caption\r\na,nul \0 byte\r\nb,{words}\r\n".encode())
    room.film("a.mp4", "b.mp4")
    items = room.read("csv")
    assert items["a"].captions == (Caption("nul byte"),)
    assert items["b"].captions == (Caption(words),)
    room.write("train.json", {"v_a": _event("nul \0 \ud83d", words)})
    room.write("val_1.json", {"v_b": _event("b")})
    assert room.read("activitynet")["v_a"].captions[0].text == "nul ?"


# ------------------------------------------------------------------------------ your own, subtitles


def test_subtitles_are_timed_sentences(room):
    room.write("a.en.vtt", _VTT)
    room.write("b.srt", "1\r\n00:00:01,500 --> 00:00:03,000\r\nOne <i>line</i>\r\nand more.\r\n")
    room.write("c.srt", "no cues")
    room.write("d.vtt", "WEBVTT\n\n00:01.000 --> 00:02.000\nLost.")
    room.film("deep/a.mp4", "b.mkv", "c.mp4")
    items = room.read("subtitles")
    captions = Caption("A cat & a dog.", 1.0, 4.0), Caption("They leave.", 3661.5, 3662.0)
    assert items["a"].captions == captions
    assert items["b"].captions == (Caption("One line and more.", 1.5, 3.0),)
    assert room.skipped == {
        "c": "c.srt: it has no cue with times and text; lines that are not understood: 1, "
        "the first is line 1: 'no cues'",
        "d": "no file of this name in the videos folder",
    }


_VTT = """WEBVTT - a title

NOTE not a cue
of several lines

STYLE
::cue { color: red }

intro
00:01.000 --> 00:04.000 align:start position:0%
<v Ann>A cat &amp; a dog.</v>

01:01:01.500 --> 01:01:02.000
They leave.

02:00.000 --> 02:01.000

"""


# --------------------------------------------------------------------------------- faulty files


@pytest.mark.parametrize(
    ("dataset", "file", "content", "message"),
    [
        ("activitynet", "train.json", "{", "train.json is not JSON"),
        ("activitynet", "train.json", [1], r"must be an object of videos by their id, got list"),
        ("activitynet", "train.json", {"a": {"x": 1}}, r'{"v_...": {"duration", "timestamps"'),
        ("activitynet", "other.json", {}, r"There is no train.json in .*which has other.json"),
        ("didemo", "train_data.json", {"a": 1}, "must be a list of descriptions, got dict"),
        ("didemo", "train_data.json", [{"a": 1}], 'a list of {"video", "description", "times"}'),
        ("msvd", "raw-captions.pkl", pickle.dumps([1]), "must be a dict {video id"),
        ("msrvtt", "MSRVTT_data.json", {"videos": []}, 'the lists "videos" and "sentences"'),
        ("lsmdc", "LSMDC16_annos_training.csv", "a,b,c", "lines of 6 tab-separated cells"),
        ("videoufo", "VideoUFO.csv", "ID,Topic\n1,2\n", "got the columns ID, Topic .without Det"),
        ("ultravideo", "short.csv", "", "got the columns none .without clip_id, Summ"),
        ("ultravideo", "medium.csv", "", "There is no short.csv or long.csv"),
        ("sharegpt4v", "x.json", [], "There is no share-captioner"),
        ("csv", "a.csv", "file,text\na,b\n", "a CSV with the columns video, caption, got the col"),
        ("csv", "a.csv", 'video,caption\na,"' + "x" * 10_000_001, "is not a CSV: line 2: field"),
        ("csv", "a.csv", 'video,caption\na,b\n\nb,"A\nc,d', "line 4: a quote in this row is nev"),
        ("csv", "a.csv", 'video,caption\na,"', "line 2: a quote in this row is never closed"),
        ("csv", "a.csv", 'video,"caption\na,b', "line 1: a quote in this row is never closed"),
        ("csv", "a.txt", "", "must hold one CSV, got none"),
        ("subtitles", "a.txt", "", "There are no subtitles"),
    ],
)
def test_a_file_of_another_format_is_one_clear_error(room, dataset, file, content, message):
    room.write(file, content)
    with pytest.raises(InputError, match=message):
        room.read(dataset)


def test_one_file_is_not_enough_where_several_are_needed(room):
    file = room.write("train.json", {"v_a": _event("A cat.")})
    with pytest.raises(InputError, match=r"There is no train\.json in .*train\.json"):
        room.read("activitynet", file)


@pytest.mark.parametrize("dataset", sorted(DATASETS))
def test_folders_that_do_not_exist(room, tmp_path, dataset):
    with pytest.raises(InputError, match=r"There is no .*nowhere; --annotations is to have"):
        room.read(dataset, tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"There is no folder .*; --videos is the folder"):
        read_dataset(dataset, room.annotations, tmp_path / "nowhere")
