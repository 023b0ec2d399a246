"""The sentence of a frame, by hand and in a loop."""

import numpy as np
import pytest

from mova_jax.evaluation.sentence_of_frame import VideoSentences, frame_accuracy


def video(scores, spans):
    times = np.arange(len(scores[0]), dtype=np.float32)
    windows = [np.reshape(one, (-1, 2)) for one in spans]
    return VideoSentences(np.array(scores, float), times, windows)


def test_accuracy_worked_by_hand():
    # Frames 0 and 1 are of sentence 0, frame 3 of sentence 1; 2 is of both, 4 of none. Frame 0 is
    # right, frame 1 ties, frame 3 is wrong.
    two = video([[0.9, 0.5, 0.1, 0.8, 0.9], [0.1, 0.5, 0.9, 0.2, 0.1]], [(0, 3), (2, 4)])
    assert frame_accuracy([two]) == (pytest.approx(1.5 / 3), 0.5, 3)
    # With a second window, frame 4 is of sentence 0, rightly.
    more = video(two.scores, [[(0, 3), (4, 5)], (2, 4)])
    assert frame_accuracy([more]) == (pytest.approx(2.5 / 4), 0.5, 4)
    one = video([[0.1, 0.2]], [(0, 2)])  # nothing to confuse
    assert frame_accuracy([one]) is None
    assert frame_accuracy([two, one]) == frame_accuracy([two])


def test_accuracy_is_that_of_a_loop_over_frames():
    rng = np.random.default_rng(0)
    videos, hits, chances = [], [], []
    for count in (2, 3, 5):
        spans = np.sort(rng.uniform(0, 20, (count, 2)), axis=1)
        videos.append(video(rng.integers(0, 4, (count, 20)), spans))
        for f in range(20):
            holds = [s for s, (start, end) in enumerate(spans) if start <= f < end]
            if len(holds) != 1:
                continue
            column = videos[-1].scores[:, f]
            winners = [s for s in range(count) if column[s] == max(column)]
            hits.append((holds[0] in winners) / len(winners))
            chances.append(1 / count)
    accuracy, chance, frames = frame_accuracy(videos)
    assert frames == len(hits) > 10
    assert accuracy == pytest.approx(np.mean(hits))
    assert chance == pytest.approx(np.mean(chances))
