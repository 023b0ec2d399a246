"""Tests of the JSONL: the meaning of lines, refused lines, and the assignment of splits."""

import collections

import pytest

from mova_jax.data.annotations import assign_splits, read_annotations
from mova_jax.data.shards import Caption
from tests.clips import line, write_lines


def _read(tmp_path, *lines):
    reading = read_annotations(write_lines(tmp_path / "captions.jsonl", *lines))
    return reading.items, reading.skipped


def _one(tmp_path, text):
    """The only item of a line, or the reason why there is none."""
    items, skipped = _read(tmp_path, text)
    assert len(items) + len(skipped) == 1
    return items[0] if items else skipped[0]["reason"]


def test_a_line_with_everything(tmp_path):
    item = _one(
        tmp_path,
        line(
            "clips/./b.mp4",
            caption=" All\nof it. ",
            captions=["One.", {"text": "Two.", "start": 1, "end": 2.5}, ""],
            alternatives=["short"],
            id=7,
            start=0.5,
            end=9,
            split="val",
            unknown="ignored",
        ),
    )
    assert (item.id, item.video, item.path) == ("7", "clips/b.mp4", tmp_path / "clips/b.mp4")
    assert item.captions == (Caption("One."), Caption("Two.", 1.0, 2.5))
    assert item.alternatives == ("All of it.", "short")
    assert (item.start, item.end, item.split) == (0.5, 9.0, "validation")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (line("../a.mp4"), "leaves the folder"),
        (line("x/../../a.mp4"), "leaves the folder"),
        (line("/etc/passwd"), "leaves the folder"),
        (line("a\0b.mp4"), "null byte"),
        (line("\ud800.mp4"), "not valid Unicode"),
        (line(""), "`video` must be a path, got ''"),
        (line(None), "`video` must be a path"),
        (line(caption=""), "the caption is empty"),
        (line(caption=" \0\n"), "the caption is empty"),
        (line(caption=3), "`caption` must be a text"),
        (line(captions="no list"), "`captions` a list"),
        (line(captions=[{"start": 1}]), r"captions\[0\] must be a text"),
        (line(captions=[{"text": "A.", "windows": [1, 2]}]), r"`captions\[0\].windows` must be a"),
        (line(alternatives="x"), "`alternatives` must be a list"),
        (line(id=["x"]), "`id` must be a text"),
        (line(id=True), "`id` must be a text"),
        (line(start=3, end=3), "0 <= start < end"),
        (line(start=-1), "0 <= start < end"),
        (line(start=10**400), "0 <= start < end"),
        (line(end=float("nan")), "0 <= start < end"),
        (line(split="../x"), "`split` must be a lower case name"),
        (line(split=["train"]), "`split` must be a lower case name"),
        (line(domain=["science"]), "`domain` must be a text"),
        (b"{not json", "not JSON"),
        (b'{"video": "a.mp4"', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"\xff\xff", "not JSON"),
        (b"[1]", "not a JSON object but list"),
    ],
)
def test_a_line_that_cannot_be_used_has_a_reason(tmp_path, text, reason):
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(_one(tmp_path, text))


def test_a_video_may_name_its_domain(tmp_path):
    assert _one(tmp_path, line(domain="science")).domain == "science"
    assert _one(tmp_path, line()).domain == ""


def test_null_bytes_and_half_characters_in_captions_are_replaced(tmp_path):
    text = b'{"video": "a.mp4", "caption": "nul \\u0000 and \\ud83d half \xe2\x98\x82"}'
    assert _one(tmp_path, text).captions == (Caption("nul and ? half ☂"),)


def test_an_id_is_used_once_and_cuts_get_their_own(tmp_path):
    lines = [line(), b"", line(), line(start=1), line(start=2, end=3), line("b.mp4", id="x")]
    items, skipped = _read(tmp_path, *lines, line("c.mp4", id="x"))
    assert [item.id for item in items] == ["a.mp4", "a.mp4#1-None", "a.mp4#2-3", "x"]
    assert skipped == [
        {"id": "a.mp4", "reason": "line 3: the id was already used in line 1"},
        {"id": "x", "reason": "line 7: the id was already used in line 6"},
    ]


def test_times_that_cannot_be_are_dropped_with_a_warning(tmp_path):
    item = _one(tmp_path, line(captions=[{"text": "One.", "start": 4, "end": 2}]))
    assert item.captions == (Caption("One."),)
    assert "captions[0] is kept without its times" in item.warnings[0]


# ----------------------------------------------------------------------------------------- splits

SHARES = (("train", 0.8), ("validation", 0.1), ("test", 0.1))


def _items(tmp_path, videos, **fields):
    lines = [line(video, id=str(i), **fields) for i, video in enumerate(videos)]
    return _read(tmp_path, *lines)[0]


def test_splits_have_their_shares_and_do_not_move(tmp_path):
    videos = [f"{i}.mp4" for i in range(1000)]
    items = assign_splits(_items(tmp_path, videos), SHARES)
    counts = collections.Counter(item.split for item in items)
    assert counts["train"] == pytest.approx(800, abs=40)
    assert counts["test"] == pytest.approx(100, abs=30)
    before = {item.video: item.split for item in items}
    more = assign_splits(_items(tmp_path, ["new.mp4", *reversed(videos)]), SHARES)
    assert all(item.split == before[item.video] for item in more[1:])


def test_cuts_of_one_video_share_a_split(tmp_path):
    videos = [f"{'./' * (i % 2)}{i // 4}.mp4" for i in range(200)]
    splits = collections.defaultdict(set)
    for item in assign_splits(_items(tmp_path, videos), SHARES):
        splits[item.video].add(item.split)
    assert len(splits) == 50 and all(len(some) == 1 for some in splits.values())


def test_a_named_split_stays_and_takes_the_other_cuts_along(tmp_path):
    lines = [line("a.mp4", id="1", split="mine"), line("a.mp4", id="2"), line("b.mp4", id="3")]
    items = _read(tmp_path, *lines)[0]
    assert [i.split for i in assign_splits(items, (("train", 1.0),))] == ["mine", "mine", "train"]


def test_few_videos_still_fill_every_split(tmp_path):
    items = assign_splits(_items(tmp_path, ["a.mp4", "b.mp4", "c.mp4"]), SHARES)
    assert {item.split for item in items} == {"train", "validation", "test"}
    alone = assign_splits(_items(tmp_path, ["a.mp4"]), (("train", 1), ("test", 0)))
    assert [item.split for item in alone] == ["train"]


def test_a_caption_that_nobody_wrote_is_left_out(tmp_path):
    items, skipped = _read(tmp_path, line(), line(id="b", caption="A cat sits. " * 100_000))
    assert [item.id for item in items] == ["a.mp4"]
    assert "1,199,999 characters together, expected 1,000,000" in skipped[0]["reason"]
