"""Subtitles as they are found in the wild: YouTube's, broken ones, names and encodings."""

import pytest

from mova_jax.data.annotations.subtitles import parse
from mova_jax.data.shards import Caption


def _read(text):
    return parse(text.encode())


YOUTUBE = """WEBVTT
Kind: captions
Language: en

00:00:00.160 --> 00:00:02.389 align:start position:0%
 
hello<00:00:00.320><c> and</c><00:00:00.400><c> welcome</c>

00:00:02.389 --> 00:00:02.399 align:start position:0%
hello and welcome
 

00:00:02.399 --> 00:00:04.550 align:start position:0%
hello and welcome
to<00:00:02.560><c> the</c><00:00:02.720><c> show</c>

00:00:04.550 --> 00:00:04.560 align:start position:0%
to the show
 

00:00:04.560 --> 00:00:07.000 align:start position:0%
to the show
[Music]

00:00:07.000 --> 00:00:07.010 align:start position:0%
[Music]
 

00:00:09.000 --> 00:00:10.000 align:start position:0%
 
[Music]
"""
SAID = [
    ("hello and welcome", 0.16, 2.389),
    ("to the show", 2.399, 4.55),
    ("[Music]", 4.56, 7.0),
    ("[Music]", 9.0, 10.0),
]


def test_automatic_captions_of_youtube_give_each_line_once_when_it_was_said():
    assert _read(YOUTUBE) == (SAID, [])


@pytest.mark.parametrize("gap", [" ", ""])
def test_the_same_captions_as_srt(gap):
    """Other programs convert them, with a line that is empty or has one space."""
    cues = YOUTUBE.split("\n\n")[1:]
    lines = []
    for number, cue in enumerate(cues, 1):
        times, *text = cue.split("\n")
        times = times.removesuffix(" align:start position:0%").replace(".", ",")
        lines += [str(number), times, *(line.strip() or gap for line in text), ""]
    assert _read("\r\n".join(lines)) == (SAID, [])


def test_lines_that_scroll_up_over_three_rows_count_once():
    cues = ["A", "A\nB", "A\nB\nC", "B\nC\nD"]
    text = "".join(f"0:0:{i} --> 0:0:{i + 1}\n{cue}\n\n" for i, cue in enumerate(cues))
    assert _read(text) == ([(text, i, i + 1.0) for i, text in enumerate("ABCD")], [])


def test_a_text_that_stays_is_longer_and_one_that_comes_again_is_another():
    text = "00:01.0 --> 00:02.0\nNo.\n\n00:02.0 --> 00:03.0\nNo.\n\n00:04.0 --> 00:05.0\nNo.\n"
    assert _read(f"WEBVTT\n\n{text}")[0] == [("No.", 1.0, 3.0), ("No.", 4.0, 5.0)]


@pytest.mark.parametrize("header", ["", "WEBVTT\n\n"])
def test_cues_without_empty_lines_between_them(header):
    text = (
        f"{header}1\n00:00:01,000 --> 00:00:02,000\nOne.\n2\n00:00:02,000 --> 00:00:03,000\nTwo\n"
        "lines.\n3\n00:00:03,000 --> 00:00:04,000\n1968\n4\n00:00:05,000 --> 00:00:06,000\nEnd."
    )
    said = [("One.", 1, 2), ("Two lines.", 2, 3), ("1968", 3, 4), ("End.", 5, 6)]
    assert _read(text) == (said, [])


def test_a_number_that_is_said_is_no_number_of_a_cue():
    text = "00:00:01,0 --> 00:00:02,0\nIn\n42\n\n00:00:03,0 --> 00:00:04,0\n7\n\n0:0:5 --> 0:0:6\nx"
    assert _read(text) == ([("In 42", 1, 2), ("7", 3, 4), ("x", 5, 6)], [])


@pytest.mark.parametrize(
    ("times", "seconds"),
    [
        ("00:00:01 --> 00:00:02", (1, 2)),
        ("01:01:01.5 --> 01:01:02", (3661.5, 3662)),
        ("00:01,25-->00:02,5 X1:40 Y1:5", (1.25, 2.5)),
        ("0:00:01.000 -> 0:00:02.000", (1, 2)),
        ("100:00:00.000000 --> 100:00:01.0 align:start", (360000, 360001)),
    ],
)
def test_times_are_read_as_people_write_them(times, seconds):
    for header in ("", "WEBVTT\n\n"):
        assert _read(f"{header}{times}\nText.") == ([("Text.", *seconds)], [])


def test_markup_goes_and_signs_stay():
    text = "00:01.0 --> 00:02.0\n<v Ann>I <3 R&amp;D, {\\an8}a < b <i>it</i>{b} <c.red>--> go</c>"
    assert _read(text)[0] == [("I <3 R&D, a < b it{b} --> go", 1, 2)]


def test_what_is_not_understood_is_counted_and_costs_nothing_else():
    text = """WEBVTT

NOTE of several
lines

stray

00:00:01.000 --> 00:00:02.000
One.

00:00:0x.000 --> 00:00:04.000
Lost.

5
00:00:05.000 --> 00:00:06.000
Two."""
    said = [("One.", 1, 2), ("Two.", 5, 6)]
    note = "lines that are not understood: 2, the first is line 6: 'stray'"
    assert _read(text) == (said, [note])
    srt = text.replace("WEBVTT\n\nNOTE of several\nlines\n\nstray\n\n", "1\n")
    note = "1, the first is line 5: '00:00:0x.000 --> 00:00:04.000'"
    assert _read(srt) == (said, [f"lines that are not understood: {note}"])
    assert not _read("1" * 5000 + ":00:00 --> 00:00:02\nLost.")[0]  # too long for an int


def test_times_in_the_wrong_order_are_told(room):
    room.write("a.srt", "1\n00:00:02,000 --> 00:00:01,000\nOne.\n")
    room.film("a.mp4")
    item = room.read("subtitles")["a"]
    assert item.captions == (Caption("One."),) and "without its times" in item.warnings[0]


def test_a_language_is_a_code_that_no_video_has_in_its_name(room):
    cue = "00:00:01,000 --> 00:00:02,000\n"
    films = "talk", "talk.ann", "talk.bob", "show.en", "film", "movie"
    room.film(*(f"{name}.mp4" for name in films))
    names = "talk.de", "talk.ann", "talk.bob", "show.en", "film.pt-BR", "movie.eng"
    for name in (*names, "film.bob"):
        room.write(f"{name}.srt", cue + name)
    items = room.read("subtitles")
    texts = {name: item.captions[0].text for name, item in items.items()}
    assert texts == dict(zip(films, names, strict=True))
    assert {name: item.video for name, item in items.items()} == {n: f"{n}.mp4" for n in films}
    assert room.skipped == {"film.bob": "no file of this name in the videos folder"}


def test_another_encoding_and_faults_are_told_with_the_file(room):
    text = "1\n00:00:01,000 --> 00:00:02,000\nL’été à Nîmes\n\n0:x:0 --> 0:0:1\n"
    for name, encoding in (("a", "cp1252"), ("b", "utf-16"), ("c", "utf-8-sig")):
        room.write(f"{name}.srt", text.encode(encoding))
        room.film(f"{name}.mp4")
    items = room.read("subtitles")
    assert {item.captions for item in items.values()} == {(Caption("L’été à Nîmes", 1, 2),)}
    guessed, unknown = items["a"].warnings
    assert guessed.startswith("a.srt: it is not UTF-8 and was read as cp1252")
    assert unknown == items["b"].warnings[0].replace("b.srt", "a.srt")
    assert len(items["b"].warnings) == len(items["c"].warnings) == 1


def test_a_pointer_of_git_lfs_is_named(room):
    room.write("a.vtt", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    room.film("a.mp4")
    assert not room.read("subtitles")
    assert "a Git LFS pointer" in room.skipped["a"]
