"""Ranks against a plain loop over all pairs, with ties, several captions a video, uneven blocks."""

import numpy as np
import pytest

from mova_jax.evaluation import ranks as ranks_lib
from mova_jax.evaluation.ranks import Ranks, blockwise_ranks, chance, summary

# Seven videos, one of which (5) has no caption; captions out of order, up to three a video.
OWNER = np.array([3, 0, 1, 1, 6, 2, 0, 4, 1, 3])
VIDEOS = 7


def dense_ranks(scores: np.ndarray, owner: np.ndarray) -> tuple[list[float], list[float]]:
    """Every rank from its definition: 1 + wrong answers above + half of those level."""

    def above(rival, right):
        return 1.0 if rival > right else 0.5 if rival == right else 0.0

    t2v, v2t = [], []
    for c, own in enumerate(owner):
        rivals = (scores[v, c] for v in range(len(scores)) if v != own)
        t2v.append(1 + sum(above(rival, scores[own, c]) for rival in rivals))
    for v in range(len(scores)):
        mine = [scores[v, c] for c in range(len(owner)) if owner[c] == v]
        others = [scores[v, c] for c in range(len(owner)) if owner[c] != v]
        if mine:
            v2t.append(1 + sum(above(rival, max(mine)) for rival in others))
    return t2v, v2t


def table(scores: np.ndarray, name: str = "s"):
    return lambda videos, captions: {name: scores[videos, captions]}


@pytest.mark.parametrize("levels", [2, 4, 1000])  # few levels make many ties
@pytest.mark.parametrize("blocks", [(1, 1), (2, 3), (3, 4), (7, 10), (50, 50)])
def test_ranks_are_those_of_a_plain_loop(levels, blocks):
    scores = np.random.default_rng(levels).integers(0, levels, (VIDEOS, len(OWNER)))
    t2v, v2t = dense_ranks(scores, OWNER)
    ranks = blockwise_ranks(table(scores.astype(np.float32)), VIDEOS, OWNER, *blocks)["s"]
    assert ranks.t2v.values.tolist() == t2v
    assert ranks.v2t.values.tolist() == v2t
    assert (ranks.t2v.gallery, ranks.v2t.gallery) == (VIDEOS, len(OWNER))


def test_scores_that_are_not_kept_give_the_same_ranks(monkeypatch):
    scores = np.random.default_rng(0).normal(size=(VIDEOS, len(OWNER))).astype(np.float32)
    kept = blockwise_ranks(table(scores), VIDEOS, OWNER, 2, 3)["s"]
    monkeypatch.setattr(ranks_lib, "KEPT_SCORES", 7)
    calls = []

    def score_block(videos, captions):
        calls.append((videos.start, captions.start))
        return {"s": scores[videos, captions]}

    again = blockwise_ranks(score_block, VIDEOS, OWNER, 2, 3)["s"]
    assert len(calls) > len(set(calls))  # most blocks were scored twice
    np.testing.assert_array_equal(again.t2v.values, kept.t2v.values)
    np.testing.assert_array_equal(again.v2t.values, kept.v2t.values)


def test_each_block_is_scored_once_when_all_are_kept():
    calls = []

    def score_block(videos, captions):
        calls.append((videos, captions))
        return {"s": np.zeros((videos.stop - videos.start, captions.stop - captions.start))}

    blockwise_ranks(score_block, 6, np.arange(6), 2, 2)
    assert len(calls) == 9


def test_ties_end_in_the_middle_and_not_at_the_top():
    ranks = blockwise_ranks(table(np.zeros((5, 5), np.float32)), 5, np.arange(5), 2, 2)["s"]
    assert ranks.t2v.values.tolist() == [3.0] * 5
    assert summary(ranks.t2v)["r1"] == 0.0


def test_hand_worked_case():
    # Video 0 owns captions 0 and 1, video 1 owns caption 2.
    scores = np.array([[0.9, 0.2, 0.5], [0.9, 0.1, 0.6]], np.float32)
    ranks = blockwise_ranks(table(scores), 2, np.array([0, 0, 1]), 2, 2)["s"]
    # Caption 0 ties with video 1; caption 1 wins; caption 2 wins.
    assert ranks.t2v.values.tolist() == [1.5, 1.0, 1.0]
    # Video 0: its best caption 0.9 is above 0.5. Video 1: caption 0 with 0.9 is above its 0.6.
    assert ranks.v2t.values.tolist() == [1.0, 2.0]


def test_siblings_are_neither_rivals_nor_right_for_others():
    scores = np.array([[0.1, 0.8, 0.7], [0.0, 0.0, 0.2]], np.float32)
    ranks = blockwise_ranks(table(scores), 2, np.array([0, 0, 1]), 1, 1)["s"]
    assert ranks.v2t.values[0] == 1.0  # 0.1 is below 0.7, but 0.8 is the one that counts
    assert ranks.t2v.values.tolist() == [1.0, 1.0, 2.0]


def test_several_scores_in_one_sweep():
    scores = np.random.default_rng(3).normal(size=(6, 6)).astype(np.float32)

    def both(videos, captions):
        return {"up": scores[videos, captions], "down": -scores[videos, captions]}

    ranks = blockwise_ranks(both, 6, np.arange(6), 4, 4)
    np.testing.assert_array_equal(ranks["up"].t2v.values + ranks["down"].t2v.values, 7)


def test_summary_by_hand():
    metrics = summary(Ranks(np.array([1.0, 1.5, 5.0, 10.0, 11.0]), 20))
    expected = {"r1": 20.0, "r5": 60.0, "r10": 80.0, "mdr": 5.0, "mnr": 5.7}
    assert metrics == pytest.approx(expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [(4, 0), (1, 2)])  # a wrong pair, and a right one
def test_score_that_is_not_finite_is_refused_with_its_pair(bad, place):
    scores = np.zeros((VIDEOS, len(OWNER)), np.float32)
    scores[place] = bad
    words = rf"score 's' is -?(nan|inf) for video {place[0]} and caption {place[1]} "
    with pytest.raises(FloatingPointError, match=words):
        blockwise_ranks(table(scores), VIDEOS, OWNER, 2, 3)


@pytest.mark.parametrize(
    ("owner", "words"),
    [
        (np.array([], int), "non-empty"),
        (np.array([0.0, 1.0]), "integers"),
        (np.array([0, -1]), "from -1 to 0, expected 0 to 1"),
        (np.array([0, 2]), "from 0 to 2, expected 0 to 1"),
    ],
)
def test_owners_that_cannot_be_are_refused(owner, words):
    with pytest.raises(ValueError, match=words):
        blockwise_ranks(table(np.zeros((2, 2))), 2, owner, 1, 1)


def test_blocks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="expected at least 1 each"):
        blockwise_ranks(table(np.zeros((2, 2))), 2, np.arange(2), 0, 1)
    with pytest.raises(ValueError, match=r"shape \(3, 2\).*expected \(2, 2\)"):
        blockwise_ranks(lambda v, c: {"s": np.zeros((3, 2))}, 2, np.arange(2), 2, 2)
    names = iter("aab")
    with pytest.raises(ValueError, match="same names"):
        blockwise_ranks(lambda v, c: {next(names): np.zeros((1, 1))}, 2, np.arange(2), 1, 1)


@pytest.mark.parametrize(("gallery", "right"), [(1, 1), (2, 1), (13, 1), (30, 3), (12, 11)])
def test_chance_is_what_random_orders_give(gallery, right):
    order = np.random.default_rng(0).random((40_000, gallery))
    best = order[:, :right].max(1, keepdims=True)
    drawn = summary(Ranks(1.0 + (order[:, right:] > best).sum(1), gallery))
    expected = chance(gallery, right)
    for key in ("r1", "r5", "r10"):
        assert expected[key] == pytest.approx(drawn[key], abs=1.0)
    assert expected["mnr"] == pytest.approx(drawn["mnr"], rel=0.02)
    assert expected["mdr"] == pytest.approx(drawn["mdr"], abs=0.5)


def test_chance_with_one_right_answer_by_hand():
    expected = {"r1": 0.5, "r5": 2.5, "r10": 5.0, "mdr": 100.5, "mnr": 100.5}
    assert chance(200) == pytest.approx(expected)
