"""Tests of the embedded data: the same everywhere, and with true captions."""

import collections
import hashlib
import itertools
import json
import re
import subprocess
import sys

import numpy as np
import pytest

from mova_jax.data.images import decode_image
from mova_jax.data.shards import ShardError, open_split, read_manifest, serialize
from mova_jax.data.storyboard.concepts import (
    COLOURS,
    DISTRACTOR_COLOURS,
    DISTRACTOR_SHAPES,
    MOTIONS,
    PLACES,
    SPLITS,
    SUBJECTS,
    style_of,
)
from mova_jax.data.storyboard.generate import ensure, make_record
from mova_jax.data.storyboard.plan import held_out_class
from mova_jax.data.storyboard.scenes import colour as colour_of
from mova_jax.data.storyboard.words import LEXICONS
from mova_jax.data.tokenizer import Tokenizer
from tests.clips import assert_same_files

COUNT = 60  # videos of each split that are looked at
GENERATE = "mova_jax.data.storyboard.generate"


@pytest.fixture(scope="module")
def videos():
    """(record, truth) of each split."""
    made = {s: [make_record(0, s, i) for i in range(COUNT)] for s in SPLITS}
    return {s: [(r, json.loads(r.truth)) for r in records] for s, records in made.items()}


@pytest.fixture(scope="module")
def everything(videos):
    return [video for some in videos.values() for video in some]


def _named(record, truth):
    """(caption, event) of the named events."""
    return zip(record.captions, [e for e in truth["events"] if e["named"]], strict=True)


def test_a_video_depends_on_its_arguments_only():
    code = (
        "import hashlib\n"
        "from mova_jax.data.shards import serialize\n"
        "from mova_jax.data.storyboard.generate import make_record\n"
        "print(hashlib.sha256(serialize(make_record(3, 'test', 7))).hexdigest())"
    )
    one, two = (subprocess.check_output([sys.executable, "-c", code]) for _ in range(2))
    assert len(one) == 65 and one == two


# Of the first three videos of each split, seed 1: a hash of texts and truth, the mean of pixels.
# Where these change, so does VERSION, and figures of older data do not compare.
FIRST_VIDEOS = {
    "train": ("865b194c2fc37e54", 114.76),
    "validation": ("41203147311b6dec", 129.72),
    "test": ("b65cf7afd10a9d4c", 140.18),
    "ood_time": ("106da18f88407c1e", 139.66),
    "ood_domain": ("8b8abfafadb7e674", 136.28),
}


@pytest.mark.parametrize("split", FIRST_VIDEOS)
def test_videos_are_those_of_version_2(split):
    records = [make_record(1, split, i) for i in range(3)]
    texts = [text for r in records for text in (r.caption, *r.alternatives, r.truth)]
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()
    pixels = np.mean([decode_image(frame).mean() for r in records for frame in r.frames])
    assert digest.startswith(FIRST_VIDEOS[split][0])
    np.testing.assert_allclose(pixels, FIRST_VIDEOS[split][1], atol=0.02)


def test_seed_split_and_index_all_count():
    arguments = [(0, "train", 0), (1, "train", 0), (0, "train", 1), (0, "test", 0)]
    assert len({make_record(*some).frames for some in arguments}) == 4
    with pytest.raises(ValueError, match="Unknown split 'dev'"):
        make_record(0, "dev", 0)
    with pytest.raises(ValueError):
        make_record(-1, "train", 0)


def test_videos_have_the_size_and_the_lengths_of_their_split(videos):
    for split, some in videos.items():
        for index, (record, truth) in enumerate(some):
            style = style_of(split, index)
            assert style.frames[0] <= len(record.frames) <= style.frames[1]
            assert style.events[0] <= len(truth["events"]) <= style.events[1]
            assert record.duration == len(record.frames) == len(truth["frames"])
            np.testing.assert_array_equal(record.timestamps, np.arange(len(record.frames)))
            assert (record.height, record.width) == decode_image(record.frames[0]).shape[:2]
    assert {truth["domain"] for _, truth in videos["ood_domain"]} == {"surveillance", "science"}
    assert {truth["domain"] for _, truth in videos["train"]} == {"story"}
    story = videos["train"] + videos["validation"] + videos["test"]
    assert {16 <= len(record.frames) <= 48 for record, _ in story} == {True}
    assert {record.height for record, _ in story} == {64}


def test_ood_time_is_mostly_empty_and_in_another_order(videos):
    def share(split):
        frames = [f for _, truth in videos[split] for f in truth["frames"]]
        return np.mean([not frame["subjects"] for frame in frames])

    def motions_come_first(split):
        actions = [[e["action"] in MOTIONS for e in t["events"]] for _, t in videos[split]]
        return np.mean([a[0] for a in actions]) > np.mean([a[-1] for a in actions])

    assert share("train") < 0.5 < share("ood_time")
    assert motions_come_first("train") and not motions_come_first("ood_time")


def test_sentences_are_timed_inside_the_video_and_events_never_overlap(everything):
    for record, truth in everything:
        for caption, event in _named(record, truth):
            assert (caption.start, caption.end) == (event["start"], event["end"])
            assert 0 <= caption.start < caption.end <= record.duration
        events = truth["events"]
        assert all(one["end"] < two["start"] for one, two in itertools.pairwise(events))
        assert 2 <= len(record.captions) <= len(events)


def _says(text, names):
    return any(re.search(rf"\b{re.escape(name)}\b", text, re.IGNORECASE) for name in names)


def test_every_sentence_names_what_is_seen(everything):
    for record, truth in everything:
        words = LEXICONS[truth["domain"]]
        for caption, event in _named(record, truth):
            text = caption.text
            looks = [(event["subject"], event["colour"])]
            looks += [event["other"]] if event["other"] else []
            for subject, colour in looks:
                assert _says(text, [f"{colour} {name}" for name in words.subjects[subject]]), text
            assert _says(text, sum(words.places[event["place"]], ())), text
            phrases = sum(words.actions[event["action"]], ())
            assert _says(text, [p.format(new=event["new_colour"]) for p in phrases]), text


def test_every_short_caption_names_every_named_event(everything):
    for record, truth in everything:
        words = LEXICONS[truth["domain"]]
        assert len(record.alternatives) == 2
        for text in record.alternatives:
            sentences = text.rstrip(".").split(". ")
            assert len(sentences) == len(record.captions)
            for sentence, (_, event) in zip(sentences, _named(record, truth), strict=True):
                names = [f"{event['colour']} {n}" for n in words.subjects[event["subject"]]]
                assert _says(sentence, names), sentence
        length = len(record.caption.split())
        assert len(record.alternatives[0].split()) < length or length < 50


def test_what_is_not_named_is_not_in_the_caption(everything):
    distractors = {*DISTRACTOR_SHAPES, *DISTRACTOR_COLOURS} - {"grey"}  # a yard may be grey
    seen = collections.Counter()
    for record, truth in everything:
        text = " ".join([record.caption, *record.alternatives])
        seen.update(frame["distractors"] > 0 for frame in truth["frames"])
        assert not _says(text, distractors), text
        words = LEXICONS[truth["domain"]]
        for event in truth["events"]:
            if not event["named"]:
                names = [f"{event['colour']} {name}" for name in words.subjects[event["subject"]]]
                assert not _says(text, names), text
                seen["unnamed"] += 1
    assert min(seen[True], seen["unnamed"]) > 20


def test_captions_have_their_lengths_and_vary(videos, everything):
    lengths = [len(record.caption.split()) for record, _ in everything]
    assert 20 <= min(lengths) <= 40 and 80 <= max(lengths) <= 155
    starts = {" ".join(c.text.split()[:3]) for r, _ in videos["train"] for c in r.captions}
    assert len(starts) > COUNT


def test_remarks_are_true(everything):
    counts = {"four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
    checked = collections.Counter()
    for record, truth in everything:
        for caption, event in _named(record, truth):
            seconds = event["end"] - event["start"]
            if match := re.search(r"(?:for|in) (?:about )?(\w+) seconds", caption.text):
                checked["seconds"] += match[1] in counts
                assert counts.get(match[1], seconds) == seconds
            if "gone" in caption.text or "disappear" in caption.text:
                checked["gone"] += 1
                assert event["end"] < record.duration
            if caption.text.startswith(("Finally", "At the end")):
                checked["last"] += 1
                assert event == truth["events"][-1]
            if caption.text.startswith(("At first", "In the beginning")):
                checked["first"] += 1
                assert event == truth["events"][0]
    assert min(checked[key] for key in ("seconds", "gone", "last", "first")) > 10


def test_held_out_combinations_are_never_in_training(videos):
    def classes(split, named):
        for _, truth in videos[split]:
            yield [
                held_out_class(subject["subject"], subject["colour"], frame["place"])
                for frame in truth["frames"]
                for subject in frame["subjects"]
                if subject["named"] or not named
            ]

    for split in ("train", "ood_time"):
        assert not {0, 1} & {c for some in classes(split, named=False) for c in some}
    for split, own, other in (("validation", 0, 1), ("test", 1, 0), ("confusable", 1, 0)):
        assert all(own in some and other not in some for some in classes(split, named=True))
        assert not any(other in some for some in classes(split, named=False))


def test_every_concept_and_every_pair_can_be_met_in_training():
    for subject in SUBJECTS:
        for colour in COLOURS:
            found = collections.Counter(held_out_class(subject, colour, p) for p in PLACES)
            assert found[0] == found[1] == 1


def test_the_colours_of_a_video_are_on_the_screen(videos):
    """A colour is visible in a frame exactly when the truth has a subject of it there."""
    for record, truth in videos["train"][:20]:
        for frame, shown in zip(record.frames, truth["frames"], strict=True):
            image = decode_image(frame).astype(np.float32)
            colours = {subject["colour"] for subject in shown["subjects"]}
            for name in COLOURS:
                rgb = colour_of(name, truth["domain"])
                pixels = int((np.abs(image - rgb).max(-1) < 24).sum())
                assert (pixels >= 6) == (name in colours), (record.id, name)


def test_another_size_shows_the_same(videos):
    record, _ = videos["train"][0]
    large = make_record(0, "train", 0, size=128)
    assert large.caption == record.caption and large.height == 128
    small = decode_image(large.frames[5]).reshape(64, 2, 64, 2, 3).mean((1, 3))
    assert np.abs(small - decode_image(record.frames[5])).mean() < 12


# ------------------------------------------------------------------------------------------ cache

COUNTS = {"train": 20} | dict.fromkeys(SPLITS[1:], 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return ensure(tmp_path_factory.mktemp("cache") / "story", 0, COUNTS, workers=0, vocab_size=600)


def test_the_folder_holds_what_was_asked_for(folder):
    manifest = read_manifest(folder)
    assert {split: info.videos for split, info in manifest.splits.items()} == COUNTS
    for split, count in COUNTS.items():
        source = open_split(folder, split)
        assert serialize(source[count - 1]) == serialize(make_record(0, split, count - 1))
    tokenizer = Tokenizer(folder / "tokenizer")
    assert tokenizer.vocab_size <= 600
    assert not tokenizer.encode(open_split(folder, "train")[0].caption).truncated


@pytest.mark.parametrize("workers", [1, 2])
def test_the_bytes_do_not_depend_on_the_workers(folder, tmp_path, workers):
    other = ensure(tmp_path / "story", 0, COUNTS, workers=workers, vocab_size=600)
    assert len(list(folder.rglob("*"))) >= 10
    assert_same_files(folder, other)


def test_a_whole_folder_is_used_again_and_any_other_is_replaced(tmp_path, monkeypatch):
    folder = ensure(tmp_path / "story", 0, {"train": 2}, workers=0)
    with monkeypatch.context() as patch:
        patch.setattr(f"{GENERATE}._make", pytest.fail)
        assert ensure(folder, 0, {"train": 2, "test": 0}, workers=0) == folder
    first = open_split(folder, "train")[0].caption
    ensure(folder, 1, {"train": 3}, workers=0)
    assert len(open_split(folder, "train")) == 3
    assert open_split(folder, "train")[0].caption != first
    monkeypatch.setattr(f"{GENERATE}.VERSION", 99)
    ensure(folder, 1, {"train": 3}, workers=0)
    assert read_manifest(folder).settings["version"] == 99
    assert [path.name for path in tmp_path.iterdir()] == ["story"]


def test_an_error_leaves_nothing_and_keeps_the_old_folder(tmp_path, monkeypatch):
    folder = ensure(tmp_path / "story", 0, {"train": 2}, workers=0)

    def fail(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"{GENERATE}.train_tokenizer", fail)
    for target in (folder, tmp_path / "new"):
        with pytest.raises(KeyboardInterrupt):
            ensure(target, 5, {"train": 2}, workers=0)
    assert [path.name for path in tmp_path.iterdir()] == ["story"]
    assert len(open_split(folder, "train")) == 2


def test_folders_of_others_stay_as_they_are(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ShardError, match="no Storyboard cache"):
        ensure(tmp_path, 0, {"train": 1}, workers=0)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "counts", [{}, {"test": 1}, {"train": 0}, {"train": 1, "test": -1}, {"train": 1, "x": 1}]
)
def test_counts_that_cannot_be_made(tmp_path, counts):
    with pytest.raises(ValueError, match="at least 1 for train"):
        ensure(tmp_path / "story", 0, counts)


def test_a_shard_that_was_cut_short_is_drawn_again(tmp_path):
    folder = ensure(tmp_path / "data", 0, {"train": 3}, workers=0, image_size=16)
    shard = next(folder.glob("*.array_record-*"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100])
    ensure(folder, 0, {"train": 3}, workers=0, image_size=16)
    assert shard.read_bytes() == whole
