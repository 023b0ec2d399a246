"""All pairs of a batch that is split over replicas, without any replica ever holding all of them.

A replica is a device, or the group of devices that share a part of the batch. Captions stay where
they are. Videos go around a ring: a replica scores the videos that visit it with its own captions,
then hands them on, and after as many steps as there are replicas they are home again. Statistics
over the videos of each caption stay; statistics over the captions of each video travel with it.
Videos travel because they are small: their frames are a tenth of what the mask networks make of a
caption.

The backward pass goes around once more. It makes the scores of each tile of pairs again, which the
final statistics turn into gradients: of logits in a logsumexp, exp(logit - logsumexp). Gradients of
videos travel with them, in float32. Only one tile of pairs is ever alive.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# In place of -inf for what takes no part, so that differences and gradients stay finite.
NOTHING = -1e30

# float32 numbers, forwards and backwards, that may be alive at once: all pairs of a single replica,
# which then computes nothing twice (1 GB), or else a tile of pairs (128 MB). Larger tiles are no
# faster: even one video with a caption is a matrix product of as many rows as it has frames.
WHOLE_FLOATS, TILE_FLOATS = 2**28, 2**25


class Stats(NamedTuple):
    """What is kept of each row of pairs: pytrees of arrays that begin with the axis of the rows."""

    total: Any = ()
    logsumexp: Any = ()
    highest: Any = ()  # passes no gradient


def _merge(a: Stats, b: Stats) -> Stats:
    return Stats(
        jax.tree.map(jnp.add, a.total, b.total),
        jax.tree.map(jnp.logaddexp, a.logsumexp, b.logsumexp),
        jax.tree.map(jnp.maximum, a.highest, b.highest),
    )


def _cotangent(part: Stats, final: Stats, gradient: Stats) -> Stats:
    """Gradient by the statistics of one tile, from that by the final ones."""
    return Stats(
        gradient.total,
        jax.tree.map(
            lambda g, x, y: g * jnp.exp(x - y), gradient.logsumexp, part.logsumexp, final.logsumexp
        ),
        jax.tree.map(jnp.zeros_like, part.highest),
    )


class Tile(NamedTuple):
    """How many videos and captions are scored at once."""

    videos: int
    captions: int


def tile_of(group, rows: int, floats: int) -> Tile:
    """The tile in which a replica scores its videos with its captions.

    Args:
        replicas: `SingleReplica`, or what splits the batch.
        rows: videos, and captions, of a replica.
        floats: float32 numbers that one pair needs, forwards and backwards.
    """
    if group.size == 1 and rows * rows * floats <= WHOLE_FLOATS:
        return Tile(rows, rows)
    captions = min(rows, max(1, TILE_FLOATS // floats))
    return Tile(min(rows, max(1, TILE_FLOATS // (floats * captions))), captions)


def rows_at_once(rows: int, floats: int) -> int:
    """How many of a replica's rows to take at once, where one needs so many float32 numbers."""
    return rows if rows * floats <= WHOLE_FLOATS else max(1, TILE_FLOATS // floats)


def _split(tree: Any, size: int) -> Any:
    """Rows `[r ...]` as tiles `[t w ...]` of equal sizes up to this one.

    Of up to twice as many tiles as it takes, for to fill some up with zeros is to copy all rows.
    """
    rows = rows_of(tree)
    fewest = math.ceil(rows / size)
    steps = next((n for n in range(fewest, 2 * fewest) if rows % n == 0), fewest)
    width = math.ceil(rows / steps)

    def split(leaf):
        filling = [(0, steps * width - rows)] + [(0, 0)] * (leaf.ndim - 1)
        filled = jnp.pad(leaf, filling) if steps * width > rows else leaf
        return filled.reshape(steps, width, *leaf.shape[1:])

    return jax.tree.map(split, tree)


def _join(tree: Any, rows: int) -> Any:
    """The inverse of `_split`."""
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:rows], tree)


def rows_of(tree: Any) -> int:
    """The length of the leading axis."""
    return jax.tree.leaves(tree)[0].shape[0]


class FloatPartition:
    """A tree as its floats, which have gradients, and the rest, which has none."""

    def __init__(self, tree: Any):
        leaves, self._structure = jax.tree.flatten(tree)
        self._is_float = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]
        self.floats = [leaf for leaf, yes in zip(leaves, self._is_float, strict=True) if yes]
        self.other_leaves = [
            leaf for leaf, yes in zip(leaves, self._is_float, strict=True) if not yes
        ]

    def tree(self, floats: list, other_leaves: list) -> Any:
        """The tree of these leaves."""
        floats, other_leaves = iter(floats), iter(other_leaves)
        leaves = [next(floats) if yes else next(other_leaves) for yes in self._is_float]
        return jax.tree.unflatten(self._structure, leaves)


def zeros(group, leaves: list) -> list:
    """Where gradients are added up: in float32, whatever the leaves are."""
    return [group.pvary(jnp.zeros(leaf.shape, jnp.float32)) for leaf in leaves]


def add(sums: list, leaves: list) -> list:
    """Sums and what is added to them."""
    return [total + leaf.astype(total.dtype) for total, leaf in zip(sums, leaves, strict=True)]


def cast_like(gradients: list, leaves: list) -> list:
    """Gradients in the types of what they are gradients of."""
    return [g.astype(leaf.dtype) for g, leaf in zip(gradients, leaves, strict=True)]


def reduce_pairs(
    group, fn: Callable, whole: Any, videos: Any, captions: Any, tile: Tile
) -> tuple[Stats, Stats]:
    """Statistics of all pairs of the batch, by video and by caption. Inside of `group.shard_map`.

    Args:
        replicas: `SingleReplica`, or what splits the batch.
        fn: `(whole, videos, captions) -> (by_video, by_caption)`: the statistics of a tile of
            pairs, by its videos and by its captions. Tiles are filled up with rows of zeros (False
            in masks), which must count nothing. It may not close over traced arrays.
        whole: pytree, such as parameters and scales.
        videos: pytree of rows `[r ...]`, this replica's.
        captions: pytree of rows `[c ...]`, this replica's.
        tile: pairs at a time. One tile that holds all pairs of a single replica is differentiated
            as it stands, without computing it twice.

    Returns:
        `by_video[r ...]` over all captions, `by_caption[c ...]` over all videos.
    """
    rows, columns = rows_of(videos), rows_of(captions)
    if group.size == 1 and tile == (rows, columns):
        return fn(whole, videos, captions)

    def ring(videos):
        return _ring(group, fn, whole, _split(videos, tile.videos), _split(captions, tile.captions))

    by_video, by_caption = group.ordered(ring, videos)
    return _join(by_video, rows), _join(by_caption, columns)


def _ring(group, fn, whole, videos, captions):
    """`reduce_pairs` on tiles, with the backward pass that the module's docstring describes."""
    trees = FloatPartition(whole), FloatPartition(videos), FloatPartition(captions)

    def score(floats, other_leaves):
        return fn(
            *(tree.tree(*leaves) for tree, *leaves in zip(trees, floats, other_leaves, strict=True))
        )

    def empty(videos, captions):
        """Statistics of no pair, in tiles."""
        first = jax.tree.map(lambda leaf: leaf[0], (videos, captions))
        shapes = jax.eval_shape(lambda: fn(whole, *first))
        counts = rows_of(videos), rows_of(captions)
        values = Stats(0.0, NOTHING, NOTHING)
        return tuple(
            Stats(
                *(jax.tree.map(partial(full, n, v), s) for v, s in zip(values, side, strict=True))
            )
            for n, side in zip(counts, shapes, strict=True)
        )

    def full(count, value, leaf):
        return group.pvary(jnp.full((count, *leaf.shape), value, leaf.dtype))

    none = empty(videos, captions)

    def forward(floats, other_leaves):
        (whole_f, video_f, caption_f), (whole_r, video_r, caption_r) = floats, other_leaves

        def over_captions(video, by_video, caption):
            leaves, by_caption = caption
            parts = score((whole_f, video[0], leaves[0]), (whole_r, video[1], leaves[1]))
            return _merge(by_video, parts[0]), _merge(by_caption, parts[1])

        def over_videos(by_caption, video):
            leaves, by_video = video
            tiles = (caption_f, caption_r), by_caption
            by_video, by_caption = jax.lax.scan(partial(over_captions, leaves), by_video, tiles)
            return by_caption, by_video

        def visit(carry, _):
            visitors, by_caption = carry
            by_caption, by_video = jax.lax.scan(over_videos, by_caption, visitors)
            return (group.ring_shift((visitors[0], by_video)), by_caption), None

        start = ((video_f, video_r), none[0]), none[1]
        ((_, by_video), by_caption), _ = jax.lax.scan(visit, start, length=group.size)
        return by_video, by_caption

    def backward(residuals, gradients):
        floats, other_leaves, final = residuals
        (whole_f, video_f, caption_f), (whole_r, video_r, caption_r) = floats, other_leaves

        def over_captions(video, sums, caption):
            (floats_v, rest_v), final_v, gradient_v = video
            (floats_c, rest_c), final_c, gradient_c, sum_c = caption
            leaves = whole_f, floats_v, floats_c
            parts, pull = jax.vjp(lambda x: score(x, (whole_r, rest_v, rest_c)), leaves)
            cotangents = (
                _cotangent(parts[0], final_v, gradient_v),
                _cotangent(parts[1], final_c, gradient_c),
            )
            [(by_whole, by_video, by_caption)] = pull(cotangents)
            return (add(sums[0], by_whole), add(sums[1], by_video)), add(sum_c, by_caption)

        def over_videos(carry, visitor):
            sum_whole, sum_c = carry
            video, sum_v = visitor
            tiles = (caption_f, caption_r), final[1], gradients[1], sum_c
            sums, sum_c = jax.lax.scan(partial(over_captions, video), (sum_whole, sum_v), tiles)
            return (sums[0], sum_c), sums[1]

        def visit(carry, _):
            visitors, sums = carry
            sums, sum_v = jax.lax.scan(over_videos, sums, visitors)
            return (group.ring_shift((visitors[0], sum_v)), sums), None

        visitors = ((video_f, video_r), final[0], gradients[0]), zeros(group, video_f)
        start = visitors, (zeros(group, whole_f), zeros(group, caption_f))
        ((_, sum_v), (sum_whole, sum_c)), _ = jax.lax.scan(visit, start, length=group.size)
        found = sum_whole, sum_v, sum_c
        return tuple(cast_like(g, x) for g, x in zip(found, floats, strict=True)), None

    @jax.custom_vjp
    def run(floats, other_leaves):
        return forward(floats, other_leaves)

    def run_forward(floats, other_leaves):
        final = forward(floats, other_leaves)
        return final, (floats, other_leaves, final)

    run.defvjp(run_forward, backward)
    return run(tuple(t.floats for t in trees), tuple(t.other_leaves for t in trees))
