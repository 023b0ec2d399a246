"""The paired difference against drawing again in a plain loop, and what it refuses."""

import io
import zipfile

import numpy as np
import pytest

from mova_jax.evaluation import query_ranks
from mova_jax.evaluation.paired import (
    check_gallery,
    differences,
    load_paired,
    paired_difference,
    paired_difference_over_seeds,
)
from mova_jax.evaluation.query_ranks import (
    KeptRanks,
    QueryRanks,
    directions,
    load_ranks,
    save_ranks,
)
from mova_jax.evaluation.ranks import Ranks, RanksBothDirections


def drawn(hits_a, hits_b, owner, samples=3000):
    """The interval, with every draw written out."""
    rng = np.random.default_rng(1)
    videos = sorted(set(owner))
    differences = []
    for _ in range(samples):
        a, b = [], []
        for video in rng.choice(videos, len(videos)):
            for query in np.flatnonzero(owner == video):
                a.append(hits_a[query])
                b.append(hits_b[query])
        differences.append(100 * (np.mean(a) - np.mean(b)))
    return np.percentile(differences, (2.5, 97.5))


def test_difference_and_interval_are_those_of_drawing_videos_again():
    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(30), rng.integers(1, 6, 30))
    easy = np.repeat(rng.random(30), np.bincount(owner))
    a, b = (np.where(rng.random(len(owner)) < easy, 1.5, 4.0) for _ in range(2))
    found = paired_difference(Ranks(a, 30), Ranks(b, 30), 2, owner, seed=3, samples=4000)
    assert found[0] == pytest.approx(100 * np.mean(a <= 2) - 100 * np.mean(b <= 2))
    np.testing.assert_allclose(found[1:], drawn(a <= 2, b <= 2, owner), atol=1.0)
    single = paired_difference(Ranks(a, 30), Ranks(b, 30), 2, samples=4000)
    np.testing.assert_allclose(single[1:], drawn(a <= 2, b <= 2, np.arange(len(a))), atol=1.2)


def test_difference_over_seeds_draws_the_same_queries_for_all_runs():
    rng = np.random.default_rng(0)
    runs = [np.where(rng.random(60) < share, 1.0, 2.0) for share in (0.3, 0.5, 0.4, 0.6, 0.5)]
    ranks = [Ranks(values, 60) for values in runs]
    found = paired_difference_over_seeds(ranks[:2], ranks[2:], samples=4000)
    hits_a, hits_b = np.mean(np.less(runs[:2], 2), 0), np.mean(np.less(runs[2:], 2), 0)
    assert found[0] == pytest.approx(100 * (hits_a.mean() - hits_b.mean()))
    np.testing.assert_allclose(found[1:], drawn(hits_a, hits_b, np.arange(60)), atol=1.2)


def test_what_both_models_do_alike_cancels_out():
    hard = Ranks(np.where(np.arange(50) % 2, 1.0, 9.0), 50)
    assert paired_difference(hard, hard) == (0.0, 0.0, 0.0)
    one_more = Ranks(np.where(np.arange(50) == 0, 1.0, hard.values), 50)
    difference, low, high = paired_difference(one_more, hard)
    assert difference == pytest.approx(2.0) and 0 == low < high <= 10


def test_other_galleries_and_queries_are_refused(tmp_path):
    ranks = Ranks(np.ones(4), 4)
    with pytest.raises(ValueError, match="4 queries in 4, 4 queries in 5"):
        paired_difference(ranks, Ranks(np.ones(4), 5))
    with pytest.raises(ValueError, match="3 queries in 4, 4 queries in 4"):
        paired_difference(ranks, Ranks(np.ones(3), 4))
    with pytest.raises(ValueError, match="videos of 3 queries"):
        paired_difference(ranks, ranks, video_of_query=np.arange(3))

    def save(name, ids):
        both = RanksBothDirections(ranks, ranks)
        save_ranks(tmp_path / name, QueryRanks({"global": both}, np.arange(4), None), ids)
        return tmp_path / name

    a, b, other = (
        save(f"{n}.npz", list(ids)) for n, ids in (("a", "abcd"), ("b", "abcd"), ("c", "abce"))
    )
    found = load_paired([a, b], "v2t")
    assert len(found.ranks) == 2 and "".join(found.video) == "abcd"
    with pytest.raises(ValueError, match=r"a\.npz and .*c\.npz have ranks of other queries"):
        load_paired([a, other], "v2t")


@pytest.fixture
def kept(tmp_path):
    """A file of ranks of ten videos, with sentences as further queries where there are ranks."""

    def save(name, t2v, sentences=(), ids="abcdefghij"):
        both = RanksBothDirections(Ranks(np.array(t2v), 10), Ranks(np.ones(10), 10))
        other = KeptRanks(
            {"global": Ranks(np.array(sentences), 10)}, np.arange(len(sentences)) // 2
        )
        others = {"sentence": other} if len(sentences) else {}
        ranks = QueryRanks({"global": both}, np.arange(10), None)
        save_ranks(tmp_path / name, ranks, list(ids), others)
        return tmp_path / name

    return save


def test_every_direction_that_both_files_have_is_compared(kept):
    a = kept("a.npz", [1.0] * 10, [1.0, 1.0, 2.0, np.inf])
    b = kept("b.npz", [1.0] * 5 + [7.0] * 5, [1.0, 7.0, 6.0, 1.0])
    assert directions(a) == ["t2v", "v2t", "sentence"]
    found = differences(a, b)
    assert {name: value[0] for name, value in found.items()} == pytest.approx(
        {"t2v/r1": 50, "t2v/r5": 50, "t2v/r10": 0, "v2t/r1": 0, "v2t/r5": 0, "v2t/r10": 0}
        | {"sentence/r1": 0, "sentence/r5": 25, "sentence/r10": -25}
    )
    # Of two videos with two sentences each, one has a difference of 1 hit: drawn 0, 1 or 2 times.
    assert found["sentence/r5"][1:] == (0.0, 50.0)
    assert differences(a, kept("old.npz", [1.0] * 10)).keys() == {
        f"{way}/r{k}" for way in ("t2v", "v2t") for k in (1, 5, 10)
    }


def test_ranks_of_another_gallery_are_refused_by_a_few_ids(kept, tmp_path):
    path, asked = kept("a.npz", [1.0] * 10), []
    check_gallery(path, 10, "abcdefghij".__getitem__)
    with pytest.raises(ValueError, match="has ranks of 10 videos, and this split has 11"):
        check_gallery(path, 11, "abcdefghijk".__getitem__)
    with pytest.raises(ValueError, match="its video 9 is j, here it is k"):
        check_gallery(path, 10, lambda i: asked.append(i) or "abcdefghik"[i], samples=3)
    assert asked == [0, 4, 9]
    (tmp_path / "b.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(ValueError, match=r"b\.npz is no file of ranks"):
        check_gallery(tmp_path / "b.npz", 10, str)


def test_files_of_ranks_that_claim_terabytes_or_unpack_to_gigabytes_are_refused(
    tmp_path, monkeypatch
):
    head = io.BytesIO()
    claim = {"descr": "<f8", "fortran_order": False, "shape": (10**13,)}
    np.lib.format.write_array_header_1_0(head, claim)
    path = tmp_path / "test.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("global_t2v", "t2v_gallery", "t2v_video"):
            archive.writestr(f"{name}.npy", head.getvalue())
    with pytest.raises(ValueError, match=r"test\.npz is no file of ranks"):
        load_ranks(path, "t2v")
    monkeypatch.setattr(query_ranks, "_LARGEST", 100)
    with pytest.raises(ValueError, match="it unpacks to"):
        load_ranks(path, "t2v")
