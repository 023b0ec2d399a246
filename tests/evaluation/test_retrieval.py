"""The flat metrics, the choice of the blend, and the interval of R@1."""

import numpy as np
import pytest

from mova_jax.evaluation.query_ranks import (
    WEIGHTS,
    choose_weight,
    load_ranks,
    rank_queries,
    save_ranks,
)
from mova_jax.evaluation.ranks import Ranks, RanksBothDirections, blockwise_ranks, summary
from mova_jax.evaluation.retrieval import r1_interval, retrieval_metrics


def blocks_of(**scores):
    return lambda videos, captions: {k: s[videos, captions] for k, s in scores.items()}


def metrics_of(block, count, owner, intervals=False, **options) -> dict[str, float]:
    return retrieval_metrics(rank_queries(block, count, owner, **options), intervals=intervals)


def ranks_of(hit) -> Ranks:
    return Ranks(np.where(hit, 1.0, 2.0), len(hit))


def noisy(seed: int, count: int, strength: float) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(count, count))
    return (noise + strength * np.eye(count)).astype(np.float32)


def chosen(block, count, owner, weights=WEIGHTS) -> float:
    return metrics_of(block, count, owner, blend_weights=weights)["blend/weight"]


def test_metrics_are_the_ranks_of_each_score_and_of_the_blend():
    n, owner = 20, np.arange(20)
    scores = {"global": noisy(0, n, 1.5), "modular": noisy(1, n, 1.5)}
    metrics = metrics_of(blocks_of(**scores), n, owner, blend_weights=(0.5,), blocks=(7, 9))
    scores["blend"] = scores["global"] + np.float32(0.5) * scores["modular"]
    for name, both in blockwise_ranks(blocks_of(**scores), n, owner, n, n).items():
        for way, ranks in both._asdict().items():
            expected = summary(ranks)
            assert {k: metrics[f"{name}/{way}/{k}"] for k in expected} == expected
    assert metrics["blend/weight"] == 0.5
    assert metrics["gallery"] == metrics["gallery_captions"] == n
    assert len(metrics) == 3 * 2 * 5 + 3


def test_model_without_modular_score_has_no_blend():
    metrics = metrics_of(blocks_of(**{"global": noisy(0, 6, 1)}), 6, np.arange(6))
    assert {name.split("/")[0] for name in metrics} == {"global", "gallery", "gallery_captions"}


def test_galleries_are_counted_apart():
    scores = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    metrics = metrics_of(blocks_of(**{"global": scores}), 3, np.array([0, 0, 1, 2, 2]))
    assert (metrics["gallery"], metrics["gallery_captions"]) == (3, 5)


def ranks_with(hits: int, queries: int = 100) -> RanksBothDirections:
    t2v = np.where(np.arange(queries) < hits, 1.0, 2.0)
    return RanksBothDirections(Ranks(t2v, queries), Ranks(t2v[::-1] + 1, queries))


def test_blend_takes_the_largest_weight_within_one_standard_error_of_the_best():
    # One standard error of 90 of 100 is 3 queries.
    assert choose_weight({0.0: ranks_with(90), 1.0: ranks_with(87)}) == 1.0
    assert choose_weight({0.0: ranks_with(90), 1.0: ranks_with(86)}) == 0.0
    assert choose_weight({0.0: ranks_with(80), 1.0: ranks_with(90), 5.0: ranks_with(88)}) == 5.0
    assert choose_weight({2.0: ranks_with(100), 1.0: ranks_with(100), 5.0: ranks_with(99)}) == 2.0


def test_blend_leaves_out_the_score_that_finds_nothing():
    n = 60
    good, bad = noisy(0, n, 6.0), noisy(1, n, 0.0)
    owner = np.arange(n)
    assert chosen(blocks_of(**{"global": good, "modular": bad}), n, owner) < 2.0
    assert chosen(blocks_of(**{"global": bad, "modular": good}), n, owner) == max(WEIGHTS)
    both = {"global": noisy(2, n, 2.0), "modular": noisy(3, n, 2.0)}
    weight = chosen(blocks_of(**both), n, owner)
    assert 0 < weight < max(WEIGHTS)
    one = metrics_of(blocks_of(**both), n, owner, blend_weights=(weight,))
    assert metrics_of(blocks_of(**both), n, owner, blend_weights=WEIGHTS) == one


def test_kept_ranks_are_those_of_the_metrics_with_the_video_of_each_query(tmp_path):
    owner = np.array([0, 0, 1, 3, 3, 3])  # no caption is of video 2
    scores = np.random.default_rng(0).normal(size=(2, 4, 6)).astype(np.float32)
    block = blocks_of(**{"global": scores[0], "modular": scores[1]})
    found = rank_queries(block, 4, owner, blend_weights=(0.5,))
    save_ranks(tmp_path / "ranks" / "test.npz", found, ["a", "b", "c", "d"])
    assert [path.name for path in (tmp_path / "ranks").iterdir()] == ["test.npz"]
    for direction, videos, gallery in (("t2v", "aabddd", 4), ("v2t", "abd", 6)):
        for score, both in found.by_score.items():
            ranks, video = load_ranks(tmp_path / "ranks" / "test.npz", direction, score)
            np.testing.assert_array_equal(ranks.values, getattr(both, direction).values)
            assert (ranks.gallery, "".join(video)) == (gallery, videos)
        record, _ = load_ranks(tmp_path / "ranks" / "test.npz", direction)
        np.testing.assert_array_equal(record.values, getattr(found.by_score["blend"], direction)[0])
    with pytest.raises(ValueError, match="has no local_t2v; it has blend_t2v"):
        load_ranks(tmp_path / "ranks" / "test.npz", "t2v", "local")


def test_block_that_cannot_be_used_is_refused():
    with pytest.raises(ValueError, match="score named 'global'"):
        metrics_of(blocks_of(modular=noisy(0, 3, 1)), 3, np.arange(3))
    with pytest.raises(ValueError, match="no blend weight"):
        metrics_of(blocks_of(modular=noisy(0, 3, 1)), 3, np.arange(3), blend_weights=())


@pytest.mark.parametrize(("share", "queries"), [(0.3, 250), (0.02, 250), (0.004, 1000)])
def test_interval_covers_the_true_share_about_as_often_as_it_says(share, queries):
    rng, covered = np.random.default_rng(0), 0
    for _ in range(400):
        low, high = r1_interval(ranks_of(rng.random(queries) < share))
        covered += low <= 100 * share <= high
    assert 0.92 <= covered / 400 <= 0.98  # of a bootstrap: 0.90 at a share of 0.004


def test_interval_of_no_hit_and_of_one_caption_a_video_is_wilsons():
    # Worked by hand: of 0 hits the upper end is z^2 / (n + z^2), of 20 of 80 from scipy.
    np.testing.assert_allclose(r1_interval(ranks_of(np.zeros(9))), (0, 29.91), atol=0.01)
    np.testing.assert_allclose(r1_interval(ranks_of(np.ones(9))), (70.09, 100), atol=0.01)
    some = ranks_of(np.arange(80) < 20)
    np.testing.assert_allclose(r1_interval(some), (16.81, 35.48), atol=0.01)
    assert r1_interval(some, np.arange(80)[::-1]) == r1_interval(some)
    # Nine captions of three videos, none found: as of three queries.
    three = np.repeat(np.arange(3), 3)
    assert r1_interval(ranks_of(np.zeros(9)), three) == r1_interval(ranks_of(np.zeros(3)))


def test_interval_draws_videos_where_they_have_several_captions():
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 9, 80)
    owner = np.repeat(np.arange(80), counts)
    values = np.where(np.repeat(rng.random(80) < 0.5, counts), 1.0, 3.0)  # all found, or none
    drawn = []
    for _ in range(4000):
        videos = rng.integers(80, size=80)
        drawn.append(100 * np.mean(np.concatenate([values[owner == v] for v in videos]) <= 1))
    expected = np.percentile(drawn, (2.5, 97.5))
    low, high = r1_interval(Ranks(values, 80), owner)
    np.testing.assert_allclose((low, high), expected, atol=1.5)
    narrow = r1_interval(Ranks(values, 80))
    assert high - low > 1.7 * (narrow[1] - narrow[0])


def test_metrics_have_the_intervals_of_both_directions():
    scores = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    owner = np.array([0, 0, 0, 1, 1, 2])
    got = metrics_of(blocks_of(**{"global": scores}), 3, owner, intervals=True)
    both = blockwise_ranks(blocks_of(s=scores), 3, owner, 3, 6)["s"]
    for way, expected in (("t2v", r1_interval(both.t2v, owner)), ("v2t", r1_interval(both.v2t))):
        low, r1, high = (got[f"global/{way}/{key}"] for key in ("r1_low", "r1", "r1_high"))
        assert (low, high) == expected and low <= r1 <= high
