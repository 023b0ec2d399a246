"""Grounding metrics of hand-worked sentences."""

import numpy as np
import pytest

from mova_jax.evaluation.grounding import (
    frame_edges,
    ground_sentence,
    grounding_metrics,
    predicted_run,
)


def ground(scores, span, times=None, mask=None):
    scores = np.array(scores, np.float32)
    times = np.arange(len(scores), dtype=np.float32) if times is None else np.array(times)
    mask = np.ones(len(scores), bool) if mask is None else np.array(mask, bool)
    return ground_sentence(scores, mask, times, span)


def test_sentence_by_hand():
    # Frames at 0 .. 5 s, each covers half a second either way, the first from 0 on: the video
    # is 0 to 5.5 s. The midpoint of the scores is 0.5: frames 2 and 3 are the predicted segment.
    found = ground([0.0, 0.2, 0.9, 1.0, 0.3, 0.4], (3.0, 5.0))
    assert found.hit == 1.0  # the best frame, at 3 s, is inside
    assert found.chance == pytest.approx(2 / 6)  # frames at 3 and 4 s
    # 1.0 is above all four outside, 0.3 above 0.0 and 0.2 only.
    assert found.auc == pytest.approx((4 + 2) / 8)
    # 1.5 to 3.5 against 3 to 5.
    assert found.iou == pytest.approx(0.5 / 3.5)
    assert found.iou_whole == pytest.approx(2 / 5.5)
    # The frames inside cover 2.5 to 4.5.
    assert found.iou_ceiling == pytest.approx(1.5 / 2.5)


def test_several_spans_count_as_the_best_of_them():
    # As above, but 3 to 5 s is the second span: the first, 0 to 1 s, has the frame at 0 s.
    found = ground([0.0, 0.2, 0.9, 1.0, 0.3, 0.4], [(0.0, 1.0), (3.0, 5.0)])
    assert (found.hit, found.chance) == (1.0, pytest.approx(3 / 6))
    # Inside 0.0, 1.0 and 0.3, outside 0.2, 0.9 and 0.4: they are above none, three and one.
    assert found.auc == pytest.approx((0 + 3 + 1) / 9)
    assert found.iou == pytest.approx(0.5 / 3.5)
    assert found.iou_whole == pytest.approx(2 / 5.5)
    assert found.iou_ceiling == pytest.approx(1.5 / 2.5)


def test_span_holds_its_start_and_not_its_end():
    assert ground([0, 1, 0], (1.0, 2.0)).hit == 1.0
    assert ground([0, 1, 0], (0.0, 1.0)).hit == 0.0
    assert ground([0, 0, 1], (1.0, 2.0)).chance == pytest.approx(1 / 3)


def test_frames_that_tie_for_best_share_the_hit_and_the_overlap():
    # Two peaks, at 1 s and at 4 s, segments 0.5 to 1.5 and 3.5 to 4.5; the span meets the first.
    found = ground([0, 1, 0, 0, 1, 0], (0.5, 1.5))
    assert found.hit == 0.5
    assert found.iou == pytest.approx((1.0 + 0.0) / 2)
    assert found.auc == pytest.approx((4 + 0.5) / 5)  # level with the other peak


def test_constant_score_is_worth_what_needs_no_model():
    found = ground([0.3] * 8, (2.0, 4.0))
    assert found.hit == found.chance == 0.25
    assert found.auc == 0.5
    assert found.iou == pytest.approx(found.iou_whole)


def test_frames_that_only_pad_are_left_out_whatever_they_hold():
    plain = ground([0.1, 0.9, 0.2], (1.0, 2.0))
    padded = ground(
        [0.1, 0.9, 0.2, np.nan, 7.0], (1.0, 2.0), [0, 1, 2, 0, 0], [True] * 3 + [False] * 2
    )
    assert padded == plain


def test_uneven_frames_count_by_their_time():
    # Borders at 0, 0.5, 2.5, 7, 13: the best frame covers 2.5 to 7, and the span is 4 to 10.
    found = ground([0, 0, 1, 0], (4.0, 10.0), [0, 1, 4, 10])
    assert found.iou == pytest.approx(3 / 7.5)
    assert found.iou_whole == pytest.approx(6 / 13)
    assert found.iou_ceiling == pytest.approx(3 / 7.5)


def test_video_without_frames_outside_has_no_auc():
    found = ground([0.1, 0.5, 0.2], (0.0, 10.0))
    assert found.hit == found.chance == 1.0 and np.isnan(found.auc)
    sentence = (np.array([0.1, 0.5]), np.ones(2, bool), np.arange(2.0), (0.0, 9.0))
    metrics = grounding_metrics([sentence])
    assert "auc" not in metrics and metrics["hit"] == 1.0
    partly = (np.array([0.1, 0.5]), np.ones(2, bool), np.arange(2.0), (1.0, 9.0))
    assert grounding_metrics([sentence, partly])["auc"] == 1.0


def test_averages_and_counts():
    frames = np.ones(4, bool), np.arange(4.0)
    hit = (np.array([0, 1, 0, 0.0]), *frames, (1.0, 3.0))
    miss = (np.array([0, 0, 0, 1.0]), *frames, (0.0, 1.0))
    untimed = (np.zeros(4), *frames, (-1.0, -1.0))
    between = (np.zeros(4), *frames, (1.2, 1.8))
    metrics = grounding_metrics([hit, miss, untimed, between])
    assert metrics["sentences"] == 2 and metrics["left_out"] == 2
    assert metrics["hit"] == 0.5
    assert metrics["chance"] == pytest.approx((2 / 4 + 1 / 4) / 2)
    assert metrics["auc"] == pytest.approx((0.75 + 1 / 3) / 2)
    # 0.5 to 1.5 on 1 to 3; 2.5 to 3.5 on 0 to 1.
    assert metrics["miou"] == pytest.approx((0.5 / 2.5 + 0) / 2)


def test_nothing_timed_gives_the_counts_alone():
    untimed = (np.zeros(2), np.ones(2, bool), np.arange(2.0), (-1.0, -1.0))
    assert grounding_metrics([untimed]) == {"sentences": 0, "left_out": 1}
    assert grounding_metrics([]) == {"sentences": 0, "left_out": 0}


def test_predicted_run_stops_at_the_first_frame_below_the_midpoint():
    scores = np.array([0.9, 0.4, 0.5, 1.0, 0.6, 0.0, 0.8])
    assert predicted_run(scores, 3) == (2, 4)
    assert predicted_run(scores, 0) == (0, 0)
    assert predicted_run(np.array([0.2]), 0) == (0, 0)
    assert predicted_run(np.array([0.0, 0.6, 1.0]), 2) == (1, 2)


def test_edges_lie_midway_and_not_below_zero():
    assert frame_edges(np.array([1.0, 2.0, 6.0])).tolist() == [0.5, 1.5, 4.0, 8.0]
    assert frame_edges(np.array([0.0, 4.0])).tolist() == [0.0, 2.0, 6.0]
    assert frame_edges(np.array([3.0])).tolist() == [2.5, 3.5]


def test_scores_and_times_that_cannot_be_are_refused():
    with pytest.raises(FloatingPointError, match="1 of 3 frame scores"):
        ground([0, np.nan, 1], (0, 1))
    with pytest.raises(ValueError, match=r"frame 1 is at 2\.0 s, frame 2 at 1\.0 s"):
        ground([0, 1, 2], (0, 1), [0, 2, 1])
