"""Tests of long Storyboard videos: the same needles in every duration, amid a larger haystack."""

import json

import numpy as np
import pytest

from mova_jax.data.shards import open_split, read_manifest, serialize
from mova_jax.data.storyboard.long import (
    DOMAINS,
    NAMED_SECONDS,
    SPLIT,
    ensure_long,
    make_long_record,
)
from mova_jax.data.storyboard.plan import held_out_class

VIDEOS = 6
NEEDLE = ("subject", "colour", "action", "place", "new_colour", "other")


@pytest.fixture(scope="module", params=DOMAINS)
def videos(request):
    """The domain, and (record, events) of each video, by minutes."""
    made = {
        minutes: [make_long_record(0, request.param, i, 60 * minutes, 4, 16) for i in range(VIDEOS)]
        for minutes in (1, 10)
    }
    truth = {m: [(r, json.loads(r.truth)["events"]) for r in made[m]] for m in made}
    return request.param, truth


def test_named_events_do_not_depend_on_the_duration(videos):
    needles = [
        [[(*(e[k] for k in NEEDLE), e["end"] - e["start"]) for e in events if e["named"]]
         for _, events in some]
        for some in videos[1].values()
    ]  # fmt: skip
    assert needles[0] == needles[1]
    assert len({len(needle) for needle in needles[0]}) > 1
    for needle in needles[0]:
        assert 3 <= len(needle) <= 6 and sum(each[-1] for each in needle) <= NAMED_SECONDS


def test_long_videos_have_their_length_and_events_in_order(videos):
    for minutes, some in videos[1].items():
        for record, events in some:
            assert record.duration == 60 * minutes
            assert record.timestamps.tolist() == list(range(0, 60 * minutes, 4))
            assert len(record.frames) == len(record.timestamps)
            ends = [0] + [e["end"] for e in events]
            assert all(
                e["start"] >= end + (i > 0)
                for i, (e, end) in enumerate(zip(events, ends, strict=False))
            )
            assert ends[-1] <= 60 * minutes
            spans = [(e["start"], e["end"]) for e in events if e["named"]]
            assert [(c.start, c.end) for c in record.captions] == spans


def test_the_haystack_grows_and_shows_nothing_that_is_named(videos):
    counts = {m: sum(len(events) for _, events in some) for m, some in videos[1].items()}
    assert counts[10] > 1.5 * counts[1]
    for _, events in videos[1][10]:
        looks = [{(e["subject"], e["colour"]), tuple(e["other"] or ())} - {()} for e in events]
        named = set().union(*(x for x, e in zip(looks, events, strict=True) if e["named"]))
        unnamed = [x for x, e in zip(looks, events, strict=True) if not e["named"]]
        assert unnamed and not any(each & named for each in unnamed)


def test_each_story_has_one_combination_that_training_never_shows():
    for index in range(VIDEOS):
        events = json.loads(make_long_record(0, "story", index, 120, 120, 16).truth)["events"]
        classes = [held_out_class(e["subject"], e["colour"], e["place"]) for e in events]
        assert sorted(c for c in classes if c in (0, 1)) == [1]


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_frame_is_the_same_at_every_stored_rate(domain):
    whole = make_long_record(3, domain, 1, 70, 1, 32)
    for every in (2, 3):
        some = make_long_record(3, domain, 1, 70, every, 32)
        assert some.frames == whole.frames[::every]
        assert np.array_equal(some.timestamps, whole.timestamps[::every])
        assert (some.captions, some.truth) == (whole.captions, whole.truth)


def test_a_folder_is_made_once(tmp_path):
    sizes = {"every": 30, "workers": 1, "image_size": 16}
    folder = ensure_long(tmp_path / "long", 0, 1.5, "ood_domain", 3, **sizes)
    source = open_split(folder, SPLIT)
    record = make_long_record(0, "ood_domain", 2, 90, 30, 16)
    assert len(source) == 3 and serialize(source[2]) == serialize(record)
    times = [path.stat().st_mtime_ns for path in sorted(folder.iterdir())]
    assert ensure_long(folder, 0, 1.5, "ood_domain", 3, **sizes) == folder
    assert times == [path.stat().st_mtime_ns for path in sorted(folder.iterdir())]
    ensure_long(folder, 1, 1.5, "ood_domain", 3, **sizes)
    assert read_manifest(folder).settings["seed"] == 1


def test_videos_that_cannot_be_made(tmp_path):
    with pytest.raises(ValueError, match="no domain 'sea'; long videos have story, ood_domain"):
        ensure_long(tmp_path / "a", 0, 1, "sea", 2)
    with pytest.raises(ValueError, match="at least 60 s"):
        ensure_long(tmp_path / "a", 0, 0.5, "story", 2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("domain", DOMAINS)
def test_captions_tell_videos_of_half_an_hour_apart(domain):
    """No other video of a gallery has events like all that a caption names."""
    keys = ("subject", "colour", "place", "action")
    records = [make_long_record(0, domain, index, 1800, 1800, 8) for index in range(64)]
    events = [json.loads(record.truth)["events"] for record in records]
    shown = [{tuple(event[key] for key in keys) for event in video} for video in events]
    for index, video in enumerate(events):
        named = {tuple(event[key] for key in keys) for event in video if event["named"]}
        assert [i for i, other in enumerate(shown) if named <= other] == [index]
