"""Re-ranking against full matrices of scores: ties, several captions a video, small galleries."""

import numpy as np
import pytest

from mova_jax.evaluation.query_ranks import WEIGHTS, QueryRanks, rank_queries
from mova_jax.evaluation.rerank import rerank, shortlist
from tests.evaluation.test_ranks import dense_ranks

# Twelve videos; 5 has no caption, others up to three, out of order.
OWNER = np.array([3, 0, 1, 1, 6, 2, 0, 4, 1, 3, 7, 8, 9, 10, 11, 11])
VIDEOS = 12


def drawn(seed: int, levels: int) -> dict[str, np.ndarray]:
    """Scores `[b c]` by name, with many ties where there are few levels."""
    rng = np.random.default_rng(seed)
    names = ("global", "first", "modular")
    return {n: rng.integers(0, levels, (VIDEOS, len(OWNER))).astype(np.float32) for n in names}


def ranked_again(scores, k: int, weights=(0.5,), blocks=(5, 7), scored=None) -> QueryRanks:
    def first_stage(videos, captions):
        return {name: scores[name][videos, captions] for name in ("global", "first")}

    def answers(caption, videos):
        if scored is not None:
            scored.extend((video, caption) for video in videos)
        return {name: scores[name][videos, caption] for name in ("global", "modular")}

    found = shortlist(first_stage, VIDEOS, OWNER, k=k, blocks=blocks)
    return rerank(found, answers, weights)


def two_stage(first: np.ndarray, second: np.ndarray, k: int) -> np.ndarray:
    """One score of all answers (columns) of each query: candidates by the second, above others."""
    out = np.empty(first.shape)
    for query, row in enumerate(first):
        border = sorted(row)[-k - 1] if len(row) > k else -np.inf
        out[query] = np.where(row > border, 1000 + second[query], row)
    return out


@pytest.mark.parametrize("levels", [2, 5, 1000])
@pytest.mark.parametrize("k", [1, 3, 8, 15])
@pytest.mark.parametrize("blocks", [(1, 1), (5, 7), (50, 50)])
def test_ranks_are_those_of_a_plain_loop_over_two_stages(levels, k, blocks):
    scores = drawn(k, levels)
    found = ranked_again(scores, k, blocks=blocks)
    seconds = {"modular": scores["modular"], "blend": scores["global"] + 0.5 * scores["modular"]}
    for name, second in seconds.items():
        t2v, _ = dense_ranks(two_stage(scores["first"].T, second.T, k).T, OWNER)
        _, v2t = dense_ranks(two_stage(scores["first"], second, k), OWNER)
        assert found.by_score[name].t2v.values.tolist() == t2v
        assert found.by_score[name].v2t.values.tolist() == v2t
        assert found.by_score[name].t2v.gallery == VIDEOS
        assert found.by_score[name].v2t.gallery == len(OWNER)
    t2v, v2t = dense_ranks(scores["global"], OWNER)
    assert found.by_score["global"].t2v.values.tolist() == t2v
    assert found.by_score["global"].v2t.values.tolist() == v2t
    assert found.reranked == k


@pytest.mark.parametrize("levels", [3, 1000])
def test_galleries_of_at_most_k_answers_are_ranked_by_all_pair_scores(levels):
    scores = drawn(0, levels)

    def block(videos, captions):
        return {name: scores[name][videos, captions] for name in ("global", "modular")}

    whole = rank_queries(block, VIDEOS, OWNER, blend_weights=WEIGHTS)
    for k in (len(OWNER), 40):
        found = ranked_again(scores, k, WEIGHTS)
        assert found.blend_weight == whole.blend_weight
        for name, both in whole.by_score.items():
            for one, other in zip(both, found.by_score[name], strict=True):
                np.testing.assert_array_equal(one.values, other.values)


def test_only_candidates_are_scored_each_pair_once():
    scored, scores = [], drawn(3, 1000)
    ranked_again(scores, 2, scored=scored)
    first = scores["first"]
    expected = {(v, c) for c in range(len(OWNER)) for v in np.argsort(first[:, c])[-2:]}
    searching = set(OWNER)
    expected |= {(v, c) for v in searching for c in np.argsort(first[v])[-2:]}
    assert len(scored) == len(set(scored)) and set(scored) == expected


def test_ties_over_the_border_are_left_together():
    # One query of each kind matters: the right video 0 ties for places 2 and 3, with k = 2.
    scores = {name: np.zeros((VIDEOS, len(OWNER)), np.float32) for name in ("global", "first")}
    scores["modular"] = np.zeros((VIDEOS, len(OWNER)), np.float32)
    scores["first"][:3, 1] = [1, 2, 1]
    scores["modular"][:3, 1] = [9, 0, 0]
    assert ranked_again(scores, 2).by_score["modular"].t2v.values[1] == 2.5
    assert ranked_again(scores, 3).by_score["modular"].t2v.values[1] == 1.0


def test_score_of_a_candidate_that_is_not_finite_is_refused():
    scores = drawn(0, 1000)
    scores["modular"][4, 2] = np.nan
    with pytest.raises(FloatingPointError, match="'modular' is nan for video 4 and caption 2"):
        ranked_again(scores, 20)
