"""The frames of named events, unnamed events and gaps, by hand."""

import json
import types

import numpy as np
import pytest

from mova_jax.evaluation import masks

EVENTS = [
    {"start": 1, "end": 3, "named": True},
    {"start": 3, "end": 5, "named": False},
    {"start": 6, "end": 8, "named": False},
]


def context_of(spans, valid, timestamps):
    """A context of one video."""
    sentences = [types.SimpleNamespace(video=0, windows=np.reshape(one, (-1, 2))) for one in spans]
    video = types.SimpleNamespace(frame_mask=np.array([valid], bool))
    return types.SimpleNamespace(
        folder="shards",
        split="test",
        num_videos=1,
        timed_sentences=[types.SimpleNamespace(sentence=sentence) for sentence in sentences],
        embeddings=types.SimpleNamespace(video=video, timestamps=np.array([timestamps])),
    )


@pytest.fixture
def with_truth(monkeypatch):
    def set_truth(truth):
        records = [types.SimpleNamespace(truth=truth)]
        monkeypatch.setattr(masks, "open_source", lambda *_: records)

    return set_truth


def test_frames_are_grouped_by_what_they_show(with_truth):
    context = context_of([(1, 3)], [1, 1, 1, 1, 1, 0], [0.0, 1.0, 2.9, 3.0, 5.0, 6.0])
    with_truth(json.dumps({"events": EVENTS}))
    groups = masks.frames_by_event(context)
    assert {name: np.flatnonzero(frames).tolist() for name, frames in groups.items()} == {
        "named": [1, 2],
        "unnamed": [3],  # the frame at 6 s is padding
        "gap": [0, 4],
    }


def test_a_frame_in_any_window_of_a_sentence_is_named(with_truth):
    context = context_of([[(0, 1), (3, 4)]], [1, 1, 1, 1], [0.0, 1.0, 3.0, 4.0])
    with_truth("")
    assert masks.frames_by_event(context)["named"].tolist() == [[True, False, True, False]]


def test_data_without_truth_know_named_and_other_frames(with_truth):
    context = context_of([(1, 3)], [1, 1, 1, 0], [0.0, 1.0, 3.0, 4.0])
    with_truth("")
    groups = masks.frames_by_event(context)
    assert {name: np.flatnonzero(frames).tolist() for name, frames in groups.items()} == {
        "named": [1],
        "other": [0, 2],
    }


def test_without_timed_sentences_there_are_no_groups():
    assert masks.frames_by_event(context_of([], [1, 1], [0.0, 1.0])) == {}
