"""Tests of the frames and captions chosen from a record: bounds and distributions."""

import collections
import math

import numpy as np
import pytest

from mova_jax.config import KEYS
from mova_jax.data.pipeline.sampling import (
    CAPTION_POLICIES,
    FRAME_POLICIES,
    choose_caption,
    choose_frames,
    choose_moment,
)
from tests.clips import video_record


def _record(captions=("A dog runs.", "It stops."), *alternatives):
    return video_record("r", captions, alternatives)


def _moment(record, rng):
    """The frame and the text of a moment, whose only sentence is the text."""
    frame, caption = choose_moment(record, rng)
    assert caption.sentences == (caption.text,)
    return frame, caption.text


def _frames(available, frames, policy="even", rng=None):
    """Frames of a video with one frame a second."""
    return choose_frames(np.arange(available, dtype=np.float32), frames, policy, rng)


@pytest.mark.parametrize(("available", "frames"), [(48, 12), (17, 12), (13, 12), (100, 1)])
def test_frames_are_one_from_each_equal_segment(available, frames):
    edges = [i * available // frames for i in range(frames + 1)]
    even = _frames(available, frames)
    samples = [even] + [
        _frames(available, frames, "jittered", np.random.default_rng(seed)) for seed in range(20)
    ]
    for picked in samples:
        assert len(picked) == frames
        for index, low, high in zip(picked, edges[:-1], edges[1:], strict=True):
            assert low <= index < high
    if frames > 1:
        assert np.ptp(np.diff(even)) <= 1 + (available % frames > 0)


def test_even_frames_are_in_the_middle_of_their_segments():
    assert _frames(30, 3).tolist() == [5, 15, 25]


def test_a_moment_is_a_sentence_and_a_frame_of_its_time_all_equally_likely():
    captions = [("long", 0.0, 4.0), ("one frame", 4.0, 5.0), ("between frames", 4.2, 4.8)]
    record = video_record("r", [*captions, "untimed"], frames=(b"",) * 6)
    rng = np.random.default_rng(0)
    drawn = collections.Counter(_moment(record, rng) for _ in range(800))
    assert set(drawn) == {(0, "long"), (1, "long"), (2, "long"), (3, "long"), (4, "one frame")}
    assert 340 < drawn[4, "one frame"] < 460
    assert all(60 < drawn[frame, "long"] < 140 for frame in range(4))


def test_without_times_a_moment_is_any_frame_with_any_sentence():
    record = video_record("r", ["A dog runs.", "It stops."], frames=(b"",) * 3)
    rng = np.random.default_rng(0)
    drawn = {_moment(record, rng) for _ in range(90)}
    assert drawn == {(frame, text) for frame in range(3) for text in ("A dog runs.", "It stops.")}


@pytest.mark.parametrize("rng", [None, np.random.default_rng(0)])
@pytest.mark.parametrize("available", [1, 5, 8])
@pytest.mark.parametrize("policy", FRAME_POLICIES)
def test_a_short_video_gives_all_its_frames(available, rng, policy):
    assert _frames(available, 8, policy, rng).tolist() == list(range(available))


@pytest.mark.parametrize("policy", FRAME_POLICIES)
def test_evaluation_is_even_whatever_the_policy(policy):
    assert _frames(50, 7, policy).tolist() == _frames(50, 7, "even").tolist()


def test_dense_is_every_run_of_neighbours_equally_often():
    rng = np.random.default_rng(0)
    drawn = collections.Counter(tuple(_frames(9, 4, "dense", rng).tolist()) for _ in range(1200))
    assert set(drawn) == {tuple(range(start, start + 4)) for start in range(6)}
    assert all(150 < count < 250 for count in drawn.values())


def test_jitter_takes_every_frame_of_a_segment_equally_often():
    rng = np.random.default_rng(0)
    drawn = collections.Counter(i for _ in range(1000) for i in _frames(10, 2, "jittered", rng))
    assert set(drawn) == set(range(10))
    assert all(150 < count < 250 for count in drawn.values())


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (np.arange(40) / 10, [0, 10, 20, 30, 39]),  # 3.9 s is nearest to the fourth second
        ([0.0], [0]),
        ([7.3], [0]),
        ([0.0, 0.5, 1.0], [0, 2]),
        ([0.5, 1.5, 2.5], [0, 1, 2]),  # of two that are as near, the earlier one
        ([0.0, 0.1, 30.0], [0, 1, 2]),  # nothing is shown twice in a gap
        ([4.9, 5.2, 5.9, 6.1], [0, 2]),
    ],
)
def test_fps1_is_nearest_to_whole_seconds(times, expected):
    rng = np.random.default_rng(0)
    times = np.asarray(times, np.float32)
    got = choose_frames(times, 64, "fps1", rng).tolist()
    assert got == expected
    seconds = range(math.ceil(times[0] - 0.5), math.floor(times[-1] + 0.5) + 1)
    brute = {min(range(len(times)), key=lambda i: abs(float(times[i]) - s)) for s in seconds}
    assert got == sorted(brute)


def test_fps1_is_thinned_evenly():
    rng = np.random.default_rng(0)
    picked = choose_frames(np.arange(0, 90, 0.25), 9, "fps1", rng)
    assert picked.tolist() == [4 * second for second in range(5, 90, 10)]


def test_a_policy_that_is_not_there_is_an_error():
    with pytest.raises(ValueError, match="no frame policy 'all'; there are jittered"):
        _frames(3, 2, "all")
    with pytest.raises(ValueError, match="no caption policy 'even'; there are all"):
        choose_caption(_record(), policy="even")


def test_the_configuration_offers_every_policy():
    assert KEYS["data.frame_policy"].choices == FRAME_POLICIES
    assert KEYS["data.caption_policy"].choices == CAPTION_POLICIES


@pytest.mark.parametrize(
    ("policy", "texts"), [("prefix", ["a.", "a. b.", "a. b. c."]), ("one", ["a.", "b.", "c."])]
)
def test_caption_policies_draw_each_text_equally_often(policy, texts):
    record = _record(("a.", "b.", " ", "c."), "short")
    rng = np.random.default_rng(0)
    drawn = collections.Counter(choose_caption(record, rng, policy=policy).text for _ in range(900))
    assert set(drawn) == set(texts)
    assert all(240 < count < 360 for count in drawn.values())
    assert choose_caption(record, None, policy=policy).text == record.caption


def test_short_captions_come_with_their_probability_and_only_in_training():
    record = _record(("A dog runs.", "It stops."), "dog", "runner")
    rng = np.random.default_rng(0)
    texts = [choose_caption(record, rng, 0.5).text for _ in range(400)]
    short = [text for text in texts if text in record.alternatives]
    assert 150 < len(short) < 250
    assert set(short) == set(record.alternatives)
    assert choose_caption(record, None, 1.0).text == record.caption
    assert choose_caption(record, rng, 0.0).text == record.caption
    assert choose_caption(_record(), rng, 1.0).text == _record().caption


def test_caption_joins_all_sentences_and_a_record_without_any_is_named():
    assert choose_caption(_record()).text == "A dog runs. It stops."
    with pytest.raises(ValueError, match="'r' has no caption text"):
        choose_caption(_record((" ", "")))


@pytest.mark.parametrize("policy", CAPTION_POLICIES)
def test_the_sentences_of_a_caption_are_those_of_the_record(policy):
    """They are not split again, and have the words of the text."""
    record = _record(("One. Two.", " ", "Three.", "Four."))
    rng = np.random.default_rng(0)
    for text, sentences in (choose_caption(record, rng, policy=policy) for _ in range(30)):
        assert set(sentences) <= {"One. Two.", "Three.", "Four."}
        assert " ".join(sentences).split() == text.split()
    assert choose_caption(record).sentences == ("One. Two.", "Three.", "Four.")


@pytest.mark.parametrize("policy", CAPTION_POLICIES)
def test_a_paragraph_and_an_alternative_are_split_at_sentence_ends(policy):
    record = _record(("One. Two. Three.", " "), "Four. Five.", " ")
    rng = np.random.default_rng(0)
    text, sentences = choose_caption(record, rng, policy=policy)
    assert (text.strip(), sentences) == ("One. Two. Three.", ("One.", "Two.", "Three."))
    short = {choose_caption(record, rng, 1.0, policy) for _ in range(30)}
    assert short == {("Four. Five.", ("Four.", "Five.")), (" ", ())}
    assert choose_moment(record, rng)[1].sentences == ("One.", "Two.", "Three.")
