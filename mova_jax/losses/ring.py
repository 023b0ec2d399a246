"""Statistics of all pairs of a sharded batch, in memory of one tile of pairs per replica.

Captions stay on their replica. Videos go around the ring: a replica scores the visiting videos with
its own captions and hands them on; after as many steps as there are replicas they are home again.
Statistics over the videos of each caption stay, statistics over the captions of each video travel
with the video. Videos travel because they are small: their frames are a tenth of what the mask
networks compute from a caption.

The backward pass goes around once more. It recomputes the scores of each tile and multiplies the
gradients of the final statistics by exp(logit - logsumexp) for a logsumexp. Gradients of videos
travel with them, in float32.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mova_jax.losses.replica_group import ReplicaGroup

# In place of -inf for what is masked out, so that differences and gradients stay finite.
NEG_INF = -1e30

# float32 numbers, forward and backward, that may be alive at once: all pairs of a single replica,
# which then recomputes nothing (1 GB), or else a tile of pairs (128 MB). Larger tiles are no
# faster: even one video with a caption is a matrix product of as many rows as it has frames.
STORED_FLOATS, TILE_FLOATS = 2**28, 2**25


class Stats(NamedTuple):
    """Statistics of each row of pairs: pytrees of arrays whose leading axis is that of the rows."""

    total: Any = ()
    logsumexp: Any = ()
    highest: Any = ()  # passes no gradient


def _merge(a: Stats, b: Stats) -> Stats:
    return Stats(
        jax.tree.map(jnp.add, a.total, b.total),
        jax.tree.map(jnp.logaddexp, a.logsumexp, b.logsumexp),
        jax.tree.map(jnp.maximum, a.highest, b.highest),
    )


def _cotangent(tile: Stats, final: Stats, gradient: Stats) -> Stats:
    """The cotangent of a tile's statistics, from the gradient of the final ones."""
    return Stats(
        gradient.total,
        jax.tree.map(
            lambda g, x, y: g * jnp.exp(x - y), gradient.logsumexp, tile.logsumexp, final.logsumexp
        ),
        jax.tree.map(jnp.zeros_like, tile.highest),
    )


# -- sizes


class Tile(NamedTuple):
    """Numbers of videos and captions that are scored at once."""

    videos: int
    captions: int


def choose_tile(group: ReplicaGroup, rows: int, floats: int) -> Tile:
    """The tile in which a replica scores videos with its captions.

    Args:
        group: the replicas that share the batch.
        rows: videos, and captions, of a replica.
        floats: float32 numbers that one pair needs, forward and backward.
    """
    if group.size == 1 and rows * rows * floats <= STORED_FLOATS:
        return Tile(rows, rows)
    captions = min(rows, max(1, TILE_FLOATS // floats))
    return Tile(min(rows, max(1, TILE_FLOATS // (floats * captions))), captions)


def choose_block(rows: int, floats: int) -> int:
    """Number of a replica's rows to process at once by the float32 numbers that one needs."""
    return rows if rows * floats <= STORED_FLOATS else max(1, TILE_FLOATS // floats)


def _split(tree: Any, size: int) -> Any:
    """Rows `[r ...]` as tiles `[t w ...]` of equal size, at most `size`.

    Uses up to twice the minimum number of tiles to avoid padding, which would copy every row.
    """
    rows = rows_of(tree)
    fewest = math.ceil(rows / size)
    count = next((n for n in range(fewest, 2 * fewest) if rows % n == 0), fewest)
    width = math.ceil(rows / count)

    def split(leaf):
        padding = [(0, count * width - rows)] + [(0, 0)] * (leaf.ndim - 1)
        padded = jnp.pad(leaf, padding) if count * width > rows else leaf
        return padded.reshape(count, width, *leaf.shape[1:])

    return jax.tree.map(split, tree)


def _join(tree: Any, rows: int) -> Any:
    """The inverse of `_split`."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:rows], tree)


def rows_of(tree: Any) -> int:
    """The length of the leading axis."""
    return jax.tree.leaves(tree)[0].shape[0]


# -- gradients of trees that also have integers and masks


def partition(tree: Any) -> tuple[Any, Any]:
    """The tree with None in place of all leaves but floats, and with None in place of floats."""

    def keep(floats: bool):
        return jax.tree.map(
            lambda leaf: leaf if jnp.issubdtype(leaf.dtype, jnp.inexact) == floats else None, tree
        )

    return keep(True), keep(False)


def combine(floats: Any, others: Any) -> Any:
    """The inverse of `partition`."""
    return jax.tree.map(
        lambda a, b: b if a is None else a, floats, others, is_leaf=lambda leaf: leaf is None
    )


def zero_sums(group: ReplicaGroup, floats: Any) -> Any:
    """Zeros to which gradients are added: in float32, whatever the floats are."""
    return jax.tree.map(lambda leaf: group.pvary(jnp.zeros(leaf.shape, jnp.float32)), floats)


def add(sums: Any, gradients: Any) -> Any:
    """Adds gradients in the types of the sums."""
    return jax.tree.map(lambda total, leaf: total + leaf.astype(total.dtype), sums, gradients)


def cast_like(gradients: Any, floats: Any) -> Any:
    """Gradients in the types of the floats that they are gradients of."""
    return jax.tree.map(lambda gradient, leaf: gradient.astype(leaf.dtype), gradients, floats)


# -- the ring


def ring_scan(group: ReplicaGroup, visit: Callable, visitors: Any, local: Any) -> tuple[Any, Any]:
    """Brings the visitors of every replica to every replica.

    Args:
        group: the replicas that share the batch.
        visit: `(visitors, local) -> (visitors, local)`, on each replica for all visitors in turn.
        visitors: pytree that is handed to the next replica after each visit.
        local: pytree that stays.

    Returns:
        Visitors, home again, and local.
    """

    def step(carry, _):
        visitors, local = visit(*carry)
        return (group.ring_shift(visitors), local), None

    return jax.lax.scan(step, (visitors, local), length=group.size)[0]


def reduce_pairs(
    group: ReplicaGroup, fn: Callable, replicated: Any, videos: Any, captions: Any, tile: Tile
) -> tuple[Stats, Stats]:
    """Statistics of all pairs of the batch, by video and by caption, inside `group.shard_map`.

    Args:
        group: the replicas that share the batch.
        fn: `(replicated, videos, captions) -> (by_video, by_caption)`: the statistics of a tile of
            pairs. Tiles are padded with rows of zeros (False in masks), which must not count. It
            may not close over traced arrays.
        replicated: pytree, such as parameters and scales.
        videos: pytree of rows `[r ...]`, this replica's.
        captions: pytree of rows `[c ...]`, this replica's.
        tile: pairs at a time. JAX differentiates one tile of all pairs of a single replica, without
            recomputing it.

    Returns:
        `by_video[r ...]` over all captions, `by_caption[c ...]` over all videos.
    """
    rows, columns = rows_of(videos), rows_of(captions)
    if group.size == 1 and tile == (rows, columns):
        return fn(replicated, videos, captions)
    captions = _split(captions, tile.captions)

    def ring(videos):
        return _ring(group, fn, replicated, _split(videos, tile.videos), captions)

    by_video, by_caption = group.ordered(ring, videos)
    return _join(by_video, rows), _join(by_caption, columns)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _ring(group: ReplicaGroup, fn: Callable, replicated: Any, videos: Any, captions: Any):
    """`reduce_pairs` of tiles `[t w ...]`."""

    def caption_tile(video, by_video, column):
        caption, by_caption = column
        tile = fn(replicated, video, caption)
        return _merge(by_video, tile[0]), _merge(by_caption, tile[1])

    def video_tile(by_caption, row):
        video, by_video = row
        columns = captions, by_caption
        by_video, by_caption = jax.lax.scan(partial(caption_tile, video), by_video, columns)
        return by_caption, by_video

    def visit(visitors, by_caption):
        by_caption, by_video = jax.lax.scan(video_tile, by_caption, visitors)
        return (visitors[0], by_video), by_caption

    by_video, by_caption = _stats_of_no_pair(group, fn, replicated, videos, captions)
    (_, by_video), by_caption = ring_scan(group, visit, (videos, by_video), by_caption)
    return by_video, by_caption


def _stats_of_no_pair(group, fn, replicated, videos, captions) -> tuple[Stats, Stats]:
    """The statistics, by tiles of videos and of captions, before the first pair."""
    tiles = jax.tree.map(lambda leaf: leaf[0], (videos, captions))
    shapes = jax.eval_shape(lambda: fn(replicated, *tiles))

    def initial(count: int, shapes: Stats) -> Stats:
        def full(value: float, tree):
            return jax.tree.map(
                lambda leaf: group.pvary(jnp.full((count, *leaf.shape), value, leaf.dtype)), tree
            )

        return Stats(*map(full, (0.0, NEG_INF, NEG_INF), shapes))

    return initial(rows_of(videos), shapes[0]), initial(rows_of(captions), shapes[1])


def _ring_forward(group, fn, *tiles):
    stats = _ring(group, fn, *tiles)
    return stats, (tiles, stats)


def _ring_backward(group, fn, residuals, gradients):
    tiles, stats = residuals
    floats, others = partition(tiles)
    (replicated, videos, captions), (fixed, videos_rest, captions_rest) = floats, others

    def caption_tile(video, sums, column):
        (video, video_rest, *by_video), (caption, caption_rest, *by_caption, sum_c) = video, column

        def score(*floats):
            return fn(*combine(floats, (fixed, video_rest, caption_rest)))

        tile, pull = jax.vjp(score, replicated, video, caption)
        cotangents = _cotangent(tile[0], *by_video), _cotangent(tile[1], *by_caption)
        *found, found_c = pull(cotangents)
        return add(sums, tuple(found)), add(sum_c, found_c)

    def video_tile(carry, row):
        (sum_r, sum_c), (video, sum_v) = carry, row
        columns = captions, captions_rest, stats[1], gradients[1], sum_c
        sums, sum_c = jax.lax.scan(partial(caption_tile, video), (sum_r, sum_v), columns)
        return (sums[0], sum_c), sums[1]

    def visit(visitors, sums):
        sums, sum_v = jax.lax.scan(video_tile, sums, visitors)
        return (visitors[0], sum_v), sums

    sum_r, sum_v, sum_c = zero_sums(group, floats)
    visitors = (videos, videos_rest, stats[0], gradients[0]), sum_v
    (_, sum_v), (sum_r, sum_c) = ring_scan(group, visit, visitors, (sum_r, sum_c))
    return cast_like((sum_r, sum_v, sum_c), floats)


_ring.defvjp(_ring_forward, _ring_backward)
