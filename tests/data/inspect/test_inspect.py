"""Tests of `prepare inspect`: statistics worked by hand, the contact sheet, and every fault."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from mova_jax.data.images import encode_jpeg, encode_ppm
from mova_jax.data.inspect import contact_sheet
from mova_jax.data.inspect.checks import frame_fault, plain, record_faults
from mova_jax.data.inspect.command import main
from mova_jax.data.inspect.contact_sheet import (
    BOX,
    HEADER,
    MARGIN,
    SECTION,
    STRIP,
    WIDTH,
    frame_box,
    wrap,
)
from mova_jax.data.inspect.statistics import SplitFigures, table
from mova_jax.data.shards import MANIFEST, Caption
from mova_jax.data.tokenizer import train_tokenizer
from tests.clips import video_record, write_shards

RED, GREEN, BLUE = (220, 20, 20), (20, 200, 20), (20, 20, 220)


def picture(colour, height=16, width=32):
    return encode_jpeg(np.full((height, width, 3), colour, np.uint8), 95, "444")


def video(index=0, colours=(RED, GREEN, BLUE), **changes):
    """A valid record of one frame a second."""
    frames = [picture(colour) for colour in colours]
    captions = [("a cat sits.", 0.0, 1.0), "it leaves."]
    record = video_record(f"video {index}", captions, frames=frames, height=16, width=32)
    return dataclasses.replace(record, **changes)


def noise(index):
    """A record of 40 KB that cannot be compressed, so that places in its file are known."""
    image = np.random.default_rng(index).integers(0, 256, (128, 128, 3), np.uint8)
    jpeg = encode_jpeg(image, 95, "444")
    return video(index, [RED], frames=(jpeg,), height=128, width=128)


def make(folder, splits, tokenizer=None, shard_records=512, **manifest):
    """Writes a shard folder; returns it and the shard files of the first split."""
    made = write_shards(folder, splits, {"shard_records": shard_records}, **manifest)
    if tokenizer:
        shutil.copytree(tokenizer, folder / "tokenizer")
    return folder, [folder / shard.file for shard in next(iter(made.splits.values())).shards]


def change_manifest(folder, shard=None, **split):
    """Writes other values for the split `train` and for its first shard."""
    path = folder / MANIFEST
    fields = json.loads(path.read_text())
    fields["splits"]["train"] |= split
    fields["splits"]["train"]["shards"][0] |= shard or {}
    path.write_text(json.dumps(fields))


@pytest.fixture(scope="session")
def letters(tmp_path_factory):
    """A tokenizer without merges: every letter is a token."""
    folder = tmp_path_factory.mktemp("letters") / "tokenizer"
    train_tokenizer([], 514, folder)
    return folder


def inspect(capsys, *argv):
    """Runs the command; returns exit code, standard output, standard error."""
    code = main([str(word) for word in argv])
    return code, *capsys.readouterr()


def sheet_of(capsys, folder, *flags):
    """The picture that --sheet makes of a shard folder."""
    path = folder.parent / "sheet.png"
    assert inspect(capsys, folder, "--sheet", path, *flags)[0] == 0
    return Image.open(path)


def middle(sheet, begin, column=0):
    """The pixel in the middle of a frame of the strip that begins at row `begin`."""
    left, upper, right, lower = frame_box(begin, column)
    return sheet.getpixel(((left + right) // 2, (upper + lower) // 2))


# ---------------------------------------------------------------------------------------- figures


def test_the_figures_of_a_split():
    figures = SplitFigures()
    tokens = [10, 20, 30, 40, 77, 78, 100, 200, 248, 249]
    for i, length in enumerate(tokens):
        colours = [RED] * (i + 1)
        height = 16 if i < 7 else 20 + i  # 7 videos of one size, 3 of a size each
        figures.add(video(i, colours, height=height, duration=360.0 * (i + 1)), length)
    assert figures.counts == (10, 55, 20)
    lines = [" ".join(line.split()) for line in table({"train": figures}).splitlines()[1:]]
    assert "; ".join(lines) == (
        "videos 10; frames 55; captions (sentences) 20; with times 10; alternative captions 0; "
        "seconds a video: shortest 360.0; median 1,980.0; longest 3,600.0; hours in all 5.50; "
        "frames a video: fewest 1; median 5.5; most 10; videos of 32 x 16 pixels 7; "
        "videos of 32 x 27 pixels 1; videos of 32 x 28 pixels 1; videos of 32 x 29 pixels 1; "
        "tokens a whole caption: median 77.5; 90 % have at most 248; longest 249; "
        "over 77 50.0%; over 248 10.0%"
    )


def test_rare_frame_sizes_share_a_row_and_splits_have_columns():
    one, two = SplitFigures(), SplitFigures()
    for width in (1, 1, 1, 2, 2, 3, 3, 4, 4, 5):
        one.add(video(width=width), None)
    two.add(video(width=6), None)
    rows = [line.split() for line in table({"one": one, "two": two}).splitlines()]
    assert rows[0] == ["one", "two"]
    assert "of 2 other sizes 1 1".split() in rows
    assert "videos of 1 x 16 pixels 3 0".split() in rows
    assert "over 77 - -".split() in rows  # without a tokenizer


def test_the_command_prints_figures_and_notes(tmp_path, capsys, letters):
    skipped = tuple({"id": f"lost {i}", "reason": f"why {i}"} for i in range(7))
    fields = {"settings": {"fps": 1.0}, "skipped": skipped, "licence": "CC BY \x1b[31m4.0"}
    splits = {"train": [video(0), video(1, colours=[RED])], "test": [video(2)]}
    folder, _ = make(tmp_path, splits, letters, **fields)
    code, out, _ = inspect(capsys, folder)
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert code == 0
    # "a cat sits." and "it leaves." have 9 + 9 letters and stops; start and end of text.
    expected = {"train test", "videos 2 1", "tokens a whole caption: median 20 20"}
    expected |= {"licence: CC BY [31m4.0", "settings: fps=1.0"}  # nothing that moves the cursor
    expected |= {"skipped: 7", "lost 4: why 4", "and 2 more, in manifest.json"}
    assert expected <= set(lines) and "lost 5: why 5" not in lines
    assert lines[-1].startswith("all records can be read")


def test_one_split_alone_and_no_tokenizer(tmp_path, capsys):
    folder, _ = make(tmp_path, {"train": [video(0)], "test": [video(1)]})
    code, out, _ = inspect(capsys, folder, "--split", "test", "--verify")
    assert code == 0
    assert out.splitlines()[1].split() == ["test"]
    assert "tokenizer: none in the folder" in out
    assert out.endswith("verified: 1 videos with 3 frames, nothing is wrong\n")


# ------------------------------------------------------------------------------------------ sheet


def test_the_sheet_shows_the_frames_at_their_places(tmp_path, capsys):
    # 12 frames: the middles of 6 equal segments are the frames 1, 3, ... 11.
    colours = [RED if i % 4 == 1 else GREEN if i % 4 == 3 else BLUE for i in range(12)]
    videos = [video(0, colours), video(1, [BLUE, RED])]
    folder, _ = make(tmp_path / "shards", {"train": videos, "test": [video(2)]})
    sheet = sheet_of(capsys, folder, "--videos", 2)
    assert sheet.size == (WIDTH, HEADER + 2 * SECTION + 3 * STRIP + MARGIN)
    top = HEADER + SECTION
    shown = [[RED, GREEN] * 3, [BLUE, RED], [RED, GREEN, BLUE]]
    for strip, begin in zip(shown, (top, top + STRIP, top + 2 * STRIP + SECTION), strict=True):
        for column in range(contact_sheet.COLUMNS):
            left, upper, right, lower = frame_box(begin, column)
            assert right + MARGIN <= WIDTH
            assert lower < begin + STRIP
            expected = strip[column] if column < len(strip) else (255, 255, 255)
            assert np.abs(np.subtract(middle(sheet, begin, column), expected)).max() < 6
            # 2:1 frames in a wider box than high: all of its width, and bars above and below.
            edge = np.array(sheet.getpixel((right - 1, (upper + lower) // 2)))
            assert abs(edge - expected).max() < 6
            if column < len(strip):
                bar = (BOX[1] - BOX[0] // 2) // 2
                assert sheet.getpixel((left, upper + bar - 2)) == (0xF1, 0xF2, 0xF4)
                assert sheet.getpixel((left, upper + bar + 2)) != (0xF1, 0xF2, 0xF4)
    assert [file.name for file in tmp_path.iterdir() if "partial" in file.name] == []


def test_a_damaged_frame_is_marked_and_the_others_are_drawn(tmp_path, capsys):
    frames = (picture(RED)[:-30], picture(GREEN), picture(BLUE))
    folder, _ = make(tmp_path / "shards", {"train": [video(0, frames=frames)]})
    sheet = sheet_of(capsys, folder)
    tile = np.array(sheet.crop(frame_box(HEADER + SECTION, 0))).astype(int)
    assert tile[0, 0].tolist() == [0xF1, 0xF2, 0xF4]
    assert (tile[..., 0] - tile[..., 1] > 100).any()  # red letters on the tile
    assert middle(sheet, HEADER + SECTION, 1)[1] > 190


def test_a_frame_of_one_row_is_drawn(tmp_path, capsys):
    frames = (picture(RED, 1, 800),)
    line = video(0, [RED], frames=frames, height=1, width=800)
    folder, _ = make(tmp_path / "shards", {"train": [line]})
    left, upper = frame_box(HEADER + SECTION, 0)[:2]
    sheet = sheet_of(capsys, folder)
    assert RED[0] - 6 < sheet.getpixel((left, upper + (BOX[1] - 1) // 2))[0] < RED[0] + 6


def test_videos_on_the_sheet_are_spread_over_the_split(tmp_path, capsys):
    # The middles of 2 equal segments of 8 videos are the videos 2 and 6.
    videos = [video(i, [GREEN if i in (2, 6) else RED]) for i in range(8)]
    folder, _ = make(tmp_path / "shards", {"train": videos}, shard_records=3)
    sheet = sheet_of(capsys, folder, "--videos", 2)
    assert all(middle(sheet, HEADER + SECTION + strip * STRIP)[1] > 190 for strip in range(2))


def test_captions_are_wrapped():
    font = contact_sheet._font(14)
    lines = wrap("some words and more of them " * 20, 14, 200, 3)
    assert len(lines) == 3
    assert all(150 < font.getlength(line) <= 200 for line in lines)
    assert lines[-1].endswith("…")
    assert wrap("short text", 14, 200, 3) == ["short text"]
    assert wrap("", 14, 200, 3) == []
    unbroken = wrap("x" * 60, 14, 200, 9)
    assert "".join(unbroken) == "x" * 60
    assert len(unbroken) > 1
    assert wrap("W" * 5, 14, 1, 3) == ["W", "W", "…"]


def test_a_sheet_that_cannot_be_written_leaves_the_old_one(tmp_path, capsys, monkeypatch):
    folder, _ = make(tmp_path / "shards", {"train": [video()]})
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def full(self, file, **_):
        file.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    code, out, err = inspect(capsys, folder, "--sheet", path)
    assert code == 1
    assert "all records can be read" in out  # the results are printed in any case
    assert err.endswith("inspect: No space left on device\n")
    assert path.read_bytes() == b"old"
    assert {file.name for file in tmp_path.iterdir()} == {"shards", "a.png"}


# ----------------------------------------------------------------------------------------- verify


def wrong(capsys, *argv):
    """What the command says is wrong, and the number of videos that it read."""
    code, out, _ = inspect(capsys, *argv)
    assert code == 1
    lines = out.splitlines()
    read = next(line.split()[1] for line in lines if line.split()[:1] == ["videos"])
    begin = next(i for i, line in enumerate(lines) if line.startswith("wrong: "))
    faults = [line.strip() for line in lines[begin + 1 : -1]]
    assert lines[begin] == f"wrong: {len(faults)}"
    return faults, int(read)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"frames": (picture(RED),) * 3}, None),
        ({"frames": (), "timestamps": np.zeros(0)}, "has no frames"),
        (
            {"frames": (picture(RED), picture(RED)[:-30], b"")},
            "2 of 3 frames are damaged, first frame 1: not a whole JPEG of",
        ),
        (
            {"frames": (picture(RED),) * 2 + (picture(RED, 16, 30),)},
            "1 of 3 frames are damaged, first frame 2: is 30 x 16 pixels, its record says 32 x 16",
        ),
        ({"timestamps": np.arange(2.0)}, "has 3 frames, but 2 timestamps"),
        ({"timestamps": np.array([0.0, 2.0, 1.0])}, "its timestamps do not ascend"),
        ({"timestamps": np.array([0.0, 1.0, 1.0])}, "its timestamps do not ascend"),
        ({"timestamps": np.array([0.0, 1.0, np.nan])}, "its timestamps do not ascend"),
        ({"timestamps": np.array([-1.0, 0.0, 1.0])}, "its timestamps do not ascend"),
        ({"duration": float("nan")}, "its duration is nan s"),
        ({"duration": -1.0}, "its duration is -1.0 s"),
        ({"duration": 1.5}, "its last frame is at 2 s, its duration is 1.5 s"),
        ({"captions": ()}, "has no caption"),
        ({"captions": (Caption("a"), Caption(" \n"))}, "sentence 1 of its 2 is empty"),
        ({"captions": (Caption("a", 2.0, 1.0),)}, "sentence 0 is from 2 to 1 s of 3 s"),
        ({"captions": (Caption("a", 2.0, 3.5),)}, "sentence 0 is from 2 to 3.5 s of 3 s"),
        ({"alternatives": ("a", "")}, "one of its alternative captions is empty"),
        ({"id": " "}, "has no id"),
    ],
)
def test_each_fault_of_a_record_has_a_reason(change, reason):
    reasons = record_faults(video(**change))
    assert len(reasons) == (reason is not None)
    assert not reasons or reasons[0].startswith(reason)


def test_raw_frames_are_inspected():
    data = encode_ppm(np.zeros((5, 7, 3), np.uint8))
    assert frame_fault(data, (5, 7)) == ""
    assert frame_fault(data, (7, 5)) == "is 7 x 5 pixels, its record says 5 x 7"
    assert "not a whole PPM of 20 bytes" in frame_fault(data[:20], (5, 7))
    red = encode_ppm(np.full((16, 32, 3), RED, np.uint8))
    strip = contact_sheet.Strip("a", "", "A cat.", (16, 32), ((0.0, red),))
    sheet = contact_sheet.draw_sheet("clips", "", [contact_sheet.Section("train", [strip])])
    assert middle(sheet, HEADER + SECTION) == RED


def test_an_image_that_claims_to_be_huge_is_not_decoded():
    jpeg = bytearray(encode_jpeg(np.zeros((16, 16, 3), np.uint8)))
    at = jpeg.index(b"\xff\xc0") + 5  # the start of frame; then length and precision
    jpeg[at : at + 4] = 2 * (65500).to_bytes(2, "big")
    (reason,) = record_faults(video(frames=(bytes(jpeg),) * 3, height=65500, width=65500))
    assert "65500 x 65500 pixels are too many to decode" in reason


def test_corrupt_frames_are_found_in_their_records_and_the_rest_is_checked(tmp_path, capsys):
    videos = [video(i) for i in range(6)]
    bad = (picture(RED), picture(GREEN)[:-40], picture(BLUE))
    videos[1] = video(1, frames=bad)
    videos[5] = video(5, captions=(Caption("  "),))
    folder, files = make(tmp_path, {"train": videos}, shard_records=4)
    assert inspect(capsys, folder)[0] == 0  # not looked at without --verify
    (first, second), _ = wrong(capsys, folder, "--verify")
    assert first.startswith(f"{files[0].name}, record 1: 1 of 3 frames are damaged, first frame 1:")
    assert second == f"{files[1].name}, record 1: sentence 0 of its 1 is empty"


def test_a_record_with_damaged_bytes(tmp_path, capsys):
    folder, files = make(tmp_path, {"train": [noise(i) for i in range(6)]}, shard_records=3)
    data = bytearray(files[1].read_bytes())
    data[int(len(data) * 0.4)] ^= 1
    files[1].write_bytes(data)
    (line,), read = wrong(capsys, folder)
    assert line.startswith(f"{files[1].name}, record 1: cannot be read (") and read == 5
    (first, second), _ = wrong(capsys, folder, "--verify")
    assert first.startswith(f"{files[1].name}: has the sha256 ") and second == line


def test_a_shard_that_was_cut_and_one_that_is_missing(tmp_path, capsys):
    folder, files = make(tmp_path, {"train": [noise(i) for i in range(9)]}, shard_records=3)
    data = files[0].read_bytes()
    cut = len(data) // 2
    files[0].write_bytes(data[:cut])
    files[1].unlink()
    for flags in ([], ["--verify"]):
        faults, read = wrong(capsys, folder, *flags)
        assert read == 3  # the third shard's
        assert faults == [
            f"{files[0].name}: has {cut:,} bytes, the manifest says {len(data):,}",
            f"{files[0].name}: cannot be opened, so none of its 3 records was checked; it is "
            "truncated or damaged, copy it again",
            f"{files[1].name}: is in the manifest, but no such file is in the folder",
        ]


def test_counts_and_ids(tmp_path, capsys):
    folder, files = make(tmp_path, {"train": [video(0), video(1), video(0)]})
    change_manifest(folder, videos=4, frames=8, captions=5)
    assert wrong(capsys, folder, "--verify")[0] == [
        f"{files[0].name}, record 2: has the id 'video 0' of {files[0].name}, record 0",
        "split train: the manifest says 4 videos, not 3",
        "split train: the manifest says 8 frames, not 9",
        "split train: the manifest says 5 captions, not 6",
    ]
    change_manifest(folder, {"records": 4})
    assert wrong(capsys, folder)[0] == [f"{files[0].name}: holds 3 records, the manifest says 4"]


def test_a_broken_tokenizer(tmp_path, capsys, letters):
    folder, _ = make(tmp_path, {"train": [video(0)]}, letters)
    (folder / "tokenizer" / "tokenizer.json").write_text("{")
    (fault,), read = wrong(capsys, folder)
    assert fault.startswith("tokenizer: cannot be read (") and read == 1


def test_a_folder_that_is_not_there_and_a_manifest_that_cannot_be_used(tmp_path, capsys):
    code, out, err = inspect(capsys, tmp_path / "shards")
    assert (code, out) == (1, "") and err.startswith("inspect: There is no shard folder")
    folder, _ = make(tmp_path / "shards", {"train": [video(0)]})
    change_manifest(folder, {"file": "../secret"})
    code, out, err = inspect(capsys, folder, "--verify")
    assert (code, out) == (1, "") and "is not a manifest" in err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--split", "dev"], "there is no 'dev'; the splits are: train"),
        (["--sheet", "a.jpg"], "must end in .png, got 'a.jpg'"),
        (["--sheet", "nowhere/a.png"], "there is no folder for nowhere/a.png"),
        (["--videos", "0"], "must be 1 to 100, got '0'"),
        (["--videos", "many"], "must be 1 to 100"),
        (["--other"], "unrecognized arguments: --other"),
    ],
)
def test_wrong_flags(tmp_path, capsys, flags, message):
    folder, _ = make(tmp_path, {"train": [video(0)]})
    with pytest.raises(SystemExit) as caught:
        main([str(folder), *flags])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_texts_of_unknown_origin_are_one_printable_line():
    assert plain("a\n\tb\x00c\x1b[2J\u202ed") == "a b c [2J d"
    assert plain("x" * 300, 10) == "x" * 9 + "…"
