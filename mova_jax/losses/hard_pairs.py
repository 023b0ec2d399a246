"""Scores of chosen pairs: each video with a few captions, on any replica.

As in `ring.py` captions stay and videos go around, here with the indices of their captions and the
scores found so far. A replica scores those pairs of its visitors whose captions it has, a chunk at
a time. Their number depends on the data; together the replicas score each pair once. The backward
pass recomputes the scores.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mova_jax.losses.replica_group import ReplicaGroup
from mova_jax.losses.ring import (
    add,
    cast_like,
    choose_block,
    combine,
    partition,
    ring_scan,
    rows_of,
    zero_sums,
)


def choose_chunk(group: ReplicaGroup, pairs: int, floats: int) -> int:
    """Pairs to score at once: the average of a visit, unless they need too much memory.

    Args:
        group: the replicas that share the batch.
        pairs: of a replica's videos with their chosen captions.
        floats: float32 numbers that one pair needs, forward and backward.
    """
    return min(math.ceil(pairs / group.size), choose_block(pairs, floats))


def score_chosen(
    group: ReplicaGroup,
    fn: Callable,
    replicated: Any,
    videos: Any,
    captions: Any,
    chosen: Int[Array, "r k"],
    chunk: int,
) -> Float[Array, "r k"]:
    """Scores of this replica's videos with captions of the whole batch, inside `group.shard_map`.

    Args:
        group: the replicas that share the batch.
        fn: `(replicated, videos[m ...], captions[m ...]) -> score[m]`, row by row, float32. It may
            not close over traced arrays.
        replicated: pytree, such as parameters.
        videos: pytree of rows `[r ...]`, this replica's.
        captions: pytree of rows `[c ...]`, this replica's; all replicas have equally many.
        chosen: `[r k]` indices of captions within the whole batch.
        chunk: pairs at a time. JAX differentiates one chunk of all pairs of a single replica,
            without recomputing it.
    """
    if group.size == 1 and chunk >= chosen.size:
        videos = jax.tree.map(lambda leaf: jnp.repeat(leaf, chosen.shape[1], axis=0), videos)
        captions = _take(captions, chosen.reshape(-1))
        return fn(replicated, videos, captions).reshape(chosen.shape)
    pairs = _sort_pairs(group, chosen, rows_of(captions))

    def ring(videos):
        return _ring(group, fn, chunk, replicated, videos, captions, pairs)

    return group.ordered(ring, videos).reshape(chosen.shape)


class _Pairs(NamedTuple):
    """The p = r * k pairs of a replica's videos, and which of `n` replicas has their captions."""

    caption: Int[Array, "p"]  # index within the whole batch
    order: Int[Array, "p"]  # pairs sorted by caption, and therefore by replica
    starts: Int[Array, "n+1"]  # where in `order` the pairs of each replica start


def _sort_pairs(group: ReplicaGroup, chosen: Int[Array, "r k"], captions: int) -> _Pairs:
    """Sorts pairs by replica; each has this number of captions."""
    flat = chosen.reshape(-1)
    numbers = group.pvary(jnp.arange(flat.size, dtype=jnp.int32))
    _, order = jax.lax.sort((flat, numbers), num_keys=1)
    firsts = jnp.arange(group.size + 1, dtype=flat.dtype) * captions
    return _Pairs(flat, order, (flat[:, None] < firsts).sum(0, dtype=jnp.int32))


def _scan_chunks(group, chunk: int, pairs: _Pairs, rows: int, columns: int, body, carry):
    """Runs `carry = body(carry, pair, row, column)` over the visitors' pairs on this replica.

    Args:
        group: the replicas that share the batch.
        chunk: length of the index arrays that `body` gets: of pairs, of visiting videos, and of
            this replica's captions. Padding of the last chunk has a pair index out of range.
        pairs: the visitors'.
        rows: number of visiting videos.
        columns: number of this replica's captions.
        body: see above.
        carry: for the first chunk.
    """
    total, rank = pairs.order.size, group.rank()
    end = pairs.starts[rank + 1]

    def step(state):
        start, carry = state
        places = start + jnp.arange(chunk)
        pair = pairs.order[jnp.minimum(places, total - 1)]
        column = jnp.clip(pairs.caption[pair] - rank * columns, 0, columns - 1)
        pair = jnp.where(places < end, pair, total)
        row = jnp.minimum(pair // (total // rows), rows - 1)
        return start + chunk, body(carry, pair, row, column)

    return jax.lax.while_loop(lambda state: state[0] < end, step, (pairs.starts[rank], carry))[1]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _ring(group, fn, chunk, replicated, videos, captions, pairs: _Pairs) -> Float[Array, "p"]:
    """`score_chosen` of sorted pairs."""
    sizes = rows_of(videos), rows_of(captions)

    def visit(visitors, local):
        videos, pairs, scores = visitors

        def body(scores, pair, row, column):
            found = fn(replicated, _take(videos, row), _take(captions, column))
            return scores.at[pair].set(found, mode="drop")

        return (videos, pairs, _scan_chunks(group, chunk, pairs, *sizes, body, scores)), local

    visitors = videos, pairs, zero_sums(group, pairs.caption)
    return ring_scan(group, visit, visitors, ())[0][2]


def _ring_forward(group, fn, chunk, *arguments):
    return _ring(group, fn, chunk, *arguments), arguments


def _ring_backward(group, fn, chunk, residuals, gradient):
    *arguments, pairs = residuals
    floats, (fixed, videos_rest, captions_rest) = partition(tuple(arguments))
    replicated, videos, captions = floats
    sizes = rows_of(arguments[1]), rows_of(arguments[2])

    def visit(visitors, sums):
        (videos, videos_rest, pairs, gradient), sum_v = visitors

        def body(sums, pair, row, column):
            rest = fixed, _take(videos_rest, row), _take(captions_rest, column)

            def score(*floats):
                return fn(*combine(floats, rest))

            arguments = replicated, _take(videos, row), _take(captions, column)
            cotangent = gradient.at[pair].get(mode="fill", fill_value=0.0)
            found_r, found_v, found_c = jax.vjp(score, *arguments)[1](cotangent)
            sum_r, sum_v, sum_c = sums
            return (
                add(sum_r, found_r),
                _add_at(sum_v, row, found_v),
                _add_at(sum_c, column, found_c),
            )

        sums = sums[0], sum_v, sums[1]
        sum_r, sum_v, sum_c = _scan_chunks(group, chunk, pairs, *sizes, body, sums)
        return (visitors[0], sum_v), (sum_r, sum_c)

    sum_r, sum_v, sum_c = zero_sums(group, floats)
    visitors = (videos, videos_rest, pairs, gradient), sum_v
    (_, sum_v), (sum_r, sum_c) = ring_scan(group, visit, visitors, (sum_r, sum_c))
    return *cast_like((sum_r, sum_v, sum_c), floats), None


_ring.defvjp(_ring_forward, _ring_backward)


def _take(tree: Any, rows: Int[Array, "m"]) -> Any:
    return jax.tree.map(lambda leaf: leaf[rows], tree)


def _add_at(sums: Any, rows: Int[Array, "m"], gradients: Any) -> Any:
    return jax.tree.map(lambda t, g: t.at[rows].add(g.astype(t.dtype)), sums, gradients)
