"""Pairs of a batch that is sharded over devices: values and gradients equal the dense form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mova_jax.losses import hard_pairs, ring
from mova_jax.losses.replica_group import SingleReplica
from mova_jax.parallel import collectives
from mova_jax.parallel import mesh as mesh_lib
from tests import tiny

B, D, K = 24, 3, 4  # videos, width, captions a video chooses


def replicas_of(devices):
    if devices == "2x2x2":  # four replicas of two devices; the compiler partitions a replica
        return collectives.replica_group(mesh_lib.make_mesh(data=2, fsdp=2, tensor=2))
    return collectives.replica_group(mesh_lib.make_mesh(data=devices))


def inputs():
    """Weights; videos and captions, each as (vectors, indices, validity mask)."""
    rng = np.random.default_rng(0)
    normal = functools.partial(rng.normal, size=(B, D))
    mask = rng.random(B) < 0.8
    mask[3:6] = False  # all rows of one of eight replicas
    rows = jnp.arange(B), jnp.asarray(mask)
    weights = rng.normal(size=(D, D)).astype(np.float32)
    return weights, *((normal().astype(np.float32), *rows) for _ in range(2))


def logits_of(weights, videos, captions):
    return 3 * jnp.tanh(videos @ weights @ captions.T)


def tile_stats(weights, videos, captions):
    """By video a logsumexp and two sums, by caption a logsumexp, a sum and a maximum."""
    (videos, b, valid_b), (captions, c, valid_c) = videos, captions
    logits = logits_of(weights, videos, captions)
    valid = valid_b[:, None] & valid_c
    known = jnp.where(valid, logits, ring.NEG_INF)
    own = jnp.where(valid & (b[:, None] == c), logits, 0.0)
    squares = jnp.where(valid, jnp.square(logits), 0.0)
    by_video = ring.Stats(
        total={"own": own.sum(1), "squares": jnp.stack([squares, -squares], -1).sum(1)},
        logsumexp=jax.nn.logsumexp(known, 1),
    )
    by_caption = ring.Stats(squares.sum(0), jax.nn.logsumexp(known, 0), known.max(0))
    return by_video, by_caption


def weighed(stats, valid):
    """A scalar in which each valid entry has a different weight."""
    weight = jnp.sin(1.0 + jnp.arange(B))
    by_video, by_caption = stats
    entries = [by_video.total["own"], by_video.total["squares"] @ jnp.array([1.0, 0.3])]
    entries += [by_video.logsumexp, by_caption.total, by_caption.logsumexp]
    return sum((i + 1) * jnp.where(valid, x * weight, 0).sum() for i, x in enumerate(entries))


def sharded_stats(devices, tile):
    """Statistics of the whole batch, computed by replicas and gathered."""
    group = replicas_of(devices)

    def at_replica(weights, rows):
        return group.all_gather(ring.reduce_pairs(group, tile_stats, weights, *rows, tile))

    def run(weights, videos, captions):
        if group.size == 1:
            return at_replica(weights, (videos, captions))
        return gathered(group, at_replica, weights, (videos, captions))

    return run


def gathered(group, fn, replicated, sharded):
    """`group.shard_map` of a function whose results are gathered: their mean over replicas."""

    def at_replica(replicated, sharded):
        return jax.tree.map(lambda x: x / group.size, group.psum(fn(replicated, sharded)))

    return group.shard_map(at_replica, replicated, sharded)


@pytest.mark.parametrize(
    ("devices", "tile"),
    [
        (1, (24, 24)),
        (1, (5, 24)),
        (1, (7, 11)),
        (2, (12, 12)),
        (2, (5, 7)),
        (4, (6, 6)),
        (4, (4, 5)),
        (8, (3, 3)),
        (8, (2, 1)),
        ("2x2x2", (4, 5)),
    ],
)
def test_statistics_of_all_pairs_equal_the_dense_form(devices, tile):
    weights, videos, captions = inputs()
    valid = np.asarray(videos[2])

    def value(stats_of, weights, v, c):
        stats = stats_of(weights, (v, *videos[1:]), (c, *captions[1:]))
        return weighed(stats, valid), stats

    def result(stats_of):
        fn = jax.value_and_grad(functools.partial(value, stats_of), (0, 1, 2), has_aux=True)
        return tiny.jit(fn)(weights, videos[0], captions[0])

    ((got, stats), gradients) = result(sharded_stats(devices, ring.Tile(*tile)))
    ((expected, dense), reference) = result(tile_stats)
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    keep = functools.partial(jax.tree.map, lambda leaf: np.asarray(leaf)[valid])
    tiny.assert_near(keep(stats), keep(dense), 1e-5)
    tiny.assert_near(gradients, reference, 1e-5)
    assert all(np.abs(leaf).max() > 0.1 for leaf in gradients)


@pytest.mark.parametrize("devices", [1, 4])
def test_no_tile_is_larger_than_asked_for(devices):
    """Neither forward nor backward; the program has no array of all pairs of the batch."""
    weights, videos, captions = inputs()

    def total(weights, tile):
        (by_video, _) = sharded_stats(devices, tile)(weights, videos, captions)
        return by_video.logsumexp.sum()

    def program(tile):
        return str(jax.make_jaxpr(jax.grad(total), static_argnums=1)(weights, ring.Tile(*tile)))

    assert f"f32[{B},{B}]" not in program((2, 3)) and "f32[2,3]" in program((2, 3))
    assert (f"f32[{B},{B}]" in program((B, B))) == (devices == 1)


@pytest.mark.parametrize(
    ("devices", "chunk"), [(1, 96), (1, 7), (2, 5), (4, 16), (8, 1), (8, 64), ("2x2x2", 5)]
)
def test_scores_of_chosen_pairs_equal_the_dense_form(devices, chunk):
    weights, videos, captions = inputs()
    group = replicas_of(devices)
    rng = np.random.default_rng(1)
    picks = rng.integers(0, B, (B, K))
    picks[::2] = rng.integers(0, 3, (B // 2, K))  # one replica has more than its share
    cotangent = rng.normal(size=(B, K)).astype(np.float32)

    def matched(weights, videos, captions):
        return jnp.tanh(jnp.einsum("md,de,me->m", videos[0], weights, captions[0]))

    def at_replica(weights, rows):
        videos, captions, picks = rows
        found = hard_pairs.score_chosen(group, matched, weights, videos, captions, picks, chunk)
        return group.all_gather(found)

    def sharded(weights, v, c):
        rows = (v, *videos[1:]), (c, *captions[1:]), jnp.asarray(picks)
        if group.size == 1:
            return at_replica(weights, rows)
        return gathered(group, at_replica, weights, rows)

    def dense(weights, v, c):
        return jnp.take_along_axis(jnp.tanh(v @ weights @ c.T), picks, axis=1)

    def result(scores_of):
        def value(*args):
            scores = scores_of(*args)
            return (scores * cotangent).sum(), scores

        fn = jax.value_and_grad(value, (0, 1, 2), has_aux=True)
        return tiny.jit(fn)(weights, videos[0], captions[0])

    tiny.assert_near(result(sharded), result(dense), 1e-5)


def test_tiles_blocks_and_chunks_fit_the_memory_limits(monkeypatch):
    monkeypatch.setattr(ring, "STORED_FLOATS", 9000)
    monkeypatch.setattr(ring, "TILE_FLOATS", 1000)
    one, two = SingleReplica(), replicas_of(2)
    assert ring.choose_tile(one, 30, 10) == (30, 30)
    assert ring.choose_tile(two, 30, 10) == (3, 30)
    assert ring.choose_tile(two, 8, 10) == (8, 8)
    assert ring.choose_tile(one, 200, 10) == (1, 100)
    assert ring.choose_tile(one, 200, 5000) == (1, 1)
    assert [ring.choose_block(rows, 300) for rows in (30, 31)] == [30, 3]
    assert [hard_pairs.choose_chunk(one, pairs, 300) for pairs in (30, 31)] == [30, 3]
    assert [hard_pairs.choose_chunk(two, *sizes) for sizes in ((30, 300), (1, 10**6))] == [15, 1]


@pytest.mark.parametrize(
    ("rows", "size", "tiles"),
    [
        (2048, 21, (128, 16)),  # 98 tiles of 21 would have to be padded
        (12, 4, (3, 4)),
        (6, 9, (1, 6)),
        (7, 3, (3, 3)),  # no number of tiles below twice the minimum divides 7
        (1, 1, (1, 1)),
    ],
)
def test_tiles_without_padding_are_preferred(rows, size, tiles):
    values = np.arange(1, 2 * rows + 1).reshape(rows, 2)
    [found] = ring._split([values], size)
    assert found.shape == (*tiles, 2)
    assert not found.reshape(-1, 2)[rows:].any()
    np.testing.assert_array_equal(ring._join(found, rows), values)


def test_gradients_of_bfloat16_captions_are_summed_in_float32():
    weights, videos, captions = inputs()
    half = jnp.asarray(captions[0], jnp.bfloat16)

    def total(c, tile):
        _, by_caption = sharded_stats(8, tile)(weights, videos, (c, *captions[1:]))
        return by_caption.total.sum()

    def dense(c):
        return tile_stats(weights, videos, (c, *captions[1:]))[1].total.sum()

    got = tiny.jit(jax.grad(lambda c: total(c, ring.Tile(1, 3))))(half)
    exact = tiny.jit(jax.grad(dense))(half.astype(jnp.float32))
    assert got.dtype == jnp.bfloat16
    # One rounding of the sum, and one of each of the 24 parts.
    np.testing.assert_allclose(got.astype(jnp.float32), exact, rtol=0, atol=0.005 * exact.max())
