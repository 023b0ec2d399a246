"""`prepare montage` and `prepare pictures`: from captioned files to shards with known truth."""

import json

import numpy as np
import pytest
from PIL import Image

from mova_jax.data.annotations import InputError
from mova_jax.data.images import decode_image, encode_jpeg
from mova_jax.data.montage import command
from mova_jax.data.montage.items import Frames, as_sentence, read_items
from mova_jax.data.shards import open_split, read_manifest
from mova_jax.data.tokenizer import Tokenizer
from tests.clips import assert_same_files, numbered, write_lines, write_video

SIZE = 16


def _grey(level, height=SIZE, width=SIZE):
    return np.full((height, width, 3), level, np.uint8)


def _level(image):
    return round(float(decode_image(image).mean()))


@pytest.fixture
def pictures(tmp_path):
    """Twelve grey pictures of test, whose captions name their level; six of train."""
    folder = tmp_path / "in"
    folder.mkdir()
    lines = []
    for number in range(18):
        (folder / f"{number}.jpg").write_bytes(encode_jpeg(_grey(10 * number)))
        captions = [f"grey number {number} .", f"Level {number}"]
        split = "test" if number < 12 else "train"
        lines.append({"image": f"{number}.jpg", "captions": captions, "split": split})
    write_lines(folder / "captions.jsonl", *lines)
    return folder / "captions.jsonl"


def _run(*argv):
    return command.main([str(word) for word in argv])


def test_frames_sentences_and_truth_agree(pictures, tmp_path):
    out = tmp_path / "out"
    flags = "--items 4 --named 2 --seconds 2-4 --every 0.5 --size 16 --vocab_size 600".split()
    assert _run("montage", "--input", pictures, "--output", out, "--videos", "test=4", *flags) == 0
    source = open_split(out, "test")
    assert len(source) == 4
    for record in map(source.__getitem__, range(4)):
        events = json.loads(record.truth)["events"]
        assert len(events) == 4 and events[-1]["end"] == record.duration
        for event in events:
            inside = (event["start"] <= record.timestamps) & (record.timestamps < event["end"])
            assert 4 <= inside.sum() <= 8
            number = int(event["item"].removesuffix(".jpg"))
            assert all(
                abs(_level(frame) - 10 * number) <= 1
                for frame, held in zip(record.frames, inside, strict=True)
                if held
            )
        named = [event for event in events if event["named"]]
        spans = [(event["start"], event["end"]) for event in named]
        assert [(caption.start, caption.end) for caption in record.captions] == spans
        numbers = [event["item"].removesuffix(".jpg") for event in named]
        assert [caption.text.rstrip(".").split()[-1] for caption in record.captions] == numbers
        # The alternative has the other caption of each named picture, in the same order.
        (other,) = record.alternatives
        assert [word.rstrip(".") for word in other.split() if word[0].isdigit()] == numbers
        assert other.count(".") == 2 and not {c.text for c in record.captions} & {other}
    assert read_manifest(out).settings["dataset"]["queries"] == "all"


def test_the_same_command_keeps_a_folder_and_another_one_leaves_it(pictures, tmp_path, capsys):
    arguments = ["montage", "--input", pictures, "--items", 3, "--named", 1, "--size", 16]
    arguments += ["--videos", "test=3,train=2", "--vocab_size", 600, "--output"]
    one, two = tmp_path / "one", tmp_path / "two"
    assert _run(*arguments, one) == _run(*arguments, two) == 0
    assert_same_files(one, two)
    before = (one / "manifest.json").stat().st_mtime_ns
    assert _run(*arguments, one) == 0
    assert (one / "manifest.json").stat().st_mtime_ns == before
    assert _run(*arguments, one, "--seed", 1) == 1
    assert "was not made with these settings" in capsys.readouterr().err


def test_nothing_is_left_when_a_picture_cannot_be_decoded(pictures, tmp_path, capsys):
    (pictures.parent / "3.jpg").write_bytes(b"\xff\xd8 no picture")
    arguments = [
        "--items",
        4,
        "--videos",
        "test=1",
        "--size",
        16,
        "--output",
        tmp_path / "o" / "out",
    ]
    for seed in range(20):
        if _run("montage", "--input", pictures, *arguments, "--seed", seed) == 1:
            break
        (tmp_path / "o").rename(tmp_path / f"made-{seed}")
    assert "3.jpg cannot be decoded" in capsys.readouterr().err
    assert not list((tmp_path / "o").iterdir())


def test_pictures_have_views_and_all_captions_in_train_only(pictures, tmp_path):
    out = tmp_path / "out"
    flags = ["--size", 16, "--views", 3, "--vocab_size", 600, "--output", out]
    assert _run("pictures", "--input", pictures, *flags) == 0
    train, test = open_split(out, "train")[0], open_split(out, "test")[0]
    assert train.frames[0] == (pictures.parent / "12.jpg").read_bytes()
    assert len(train.frames) == 3 and len(test.frames) == 1
    assert [caption.text for caption in train.captions] == ["Grey number 12.", "Level 12."]
    assert [caption.text for caption in test.captions] == ["Grey number 0."]
    assert test.alternatives == ("Level 0.",)
    assert Tokenizer(out / "tokenizer").vocab_size <= 600


def test_clips_are_folders_or_videos_and_all_frames_get_one_square_size(tmp_path):
    folder = tmp_path / "clip"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.png").write_bytes(b"")
        Image.fromarray(_grey(40 * number, 20, 30)).save(folder / f"{number}.png")
    write_video(tmp_path / "v.mp4", numbered(20), rate=10)
    write_lines(
        tmp_path / "c.jsonl",
        {"video": "clip", "caption": "a"},
        {"video": "clip", "id": "two", "frames": ["clip/4.png", "clip/1.png"], "caption": "b"},
        {"video": "v.mp4", "caption": "c"},
        {"video": "clip", "id": "ppm", "frames": ["clip/x.ppm"], "caption": "d"},
    )
    items, skipped = read_items(tmp_path / "c.jsonl")
    assert [item.id for item in items] == ["clip", "two", "v.mp4"]
    assert skipped == [{"id": "line 4", "reason": "there is no file clip/x.ppm"}]
    frames = Frames(SIZE, 3, fps=5.0)
    assert [_level(image) for image in frames(items[0])] == [0, 80, 160]  # even ones
    assert [_level(image) for image in frames(items[1])] == [160, 40]
    shapes = {decode_image(image).shape for item in items for image in frames(item)}
    assert shapes == {(SIZE, SIZE, 3)}
    video = Frames(32, 3, fps=5.0)(items[2])
    assert len(video) == 3  # the first ones


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"image": "../a.jpg", "caption": "a"}, "leaves the folder"),
        ({"image": "none.jpg", "caption": "a"}, "no file none.jpg"),
        ({"image": "a.jpg"}, "no `caption`"),
        ({"image": "a.jpg", "captions": [" . "]}, "captions are empty"),
        ({"caption": "a"}, "must be a path"),
        ({"image": "a.jpg", "caption": "a", "split": "A b"}, "`split` must be"),
        (b"[1]", "not a JSON object"),
        (b"{", "Expecting"),
    ],
)
def test_a_wrong_line_is_skipped_with_its_reason(tmp_path, line, reason):
    (tmp_path / "a.jpg").write_bytes(encode_jpeg(_grey(1)))
    write_lines(tmp_path / "c.jsonl", {"image": "a.jpg", "caption": "good", "id": 1}, line)
    items, (skipped,) = read_items(tmp_path / "c.jsonl")
    assert [item.id for item in items] == ["1"] and reason in skipped["reason"]


def test_a_file_without_a_usable_line_says_what_a_line_looks_like(tmp_path):
    with pytest.raises(InputError, match=r'must look like ."image"'):
        read_items(write_lines(tmp_path / "c.jsonl", {"image": "b.jpg", "caption": "b"}))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("a dog runs .", "A dog runs."), ("Stop!", "Stop!"), (" ", ""), ("éa\n b", "Éa b.")],
)
def test_captions_become_sentences(text, sentence):
    assert as_sentence(text) == sentence
