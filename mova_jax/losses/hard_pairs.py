"""Scores of chosen pairs: each video with some captions, wherever in the batch they lie.

As in `ring.py` captions stay and videos go around, here with their list of captions and the scores
found so far. A replica scores the pairs of its visitors that name one of its captions, some at a
time. How many these are depends on the data, all replicas together score each pair once; the
backward pass does it again.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mova_jax.losses.ring import FloatPartition, add, cast_like, rows_at_once, rows_of, zeros


def chunk_of(group, pairs: int, floats: int) -> int:
    """Pairs to score at once: what one visit brings on average, as far as there is room.

    Args:
        group: `losses.replica_group.ReplicaGroup`.
        pairs: of a replica's videos with the captions they chose.
        floats: float32 numbers that one pair needs, forwards and backwards.
    """
    return min(math.ceil(pairs / group.size), rows_at_once(pairs, floats))


def score_chosen(
    group,
    fn: Callable,
    whole: Any,
    videos: Any,
    captions: Any,
    chosen: Int[Array, "r k"],
    chunk: int,
) -> Float[Array, "r k"]:
    """Scores of this replica's videos with captions of the whole batch. Inside `group.shard_map`.

    Args:
        group: `losses.replica_group.ReplicaGroup`.
        fn: `(whole, videos[m ...], captions[m ...]) -> score[m]`, row by row, float32. It may not
            close over traced arrays.
        whole: pytree, such as parameters.
        videos: pytree of rows `[r ...]`, this replica's.
        captions: pytree of rows `[c ...]`, this replica's; every replica has as many.
        chosen: `[r k]` numbers of captions in the whole batch.
        chunk: pairs at a time. One chunk that holds all pairs of the only replica is differentiated
            as it stands, without computing it twice.
    """
    k, pairs, here = chosen.shape[1], chosen.size, rows_of(captions)
    if group.size == 1 and chunk >= pairs:
        videos = jax.tree.map(lambda leaf: jnp.repeat(leaf, k, axis=0), videos)
        captions = jax.tree.map(lambda leaf: leaf[chosen.reshape(-1)], captions)
        return fn(whole, videos, captions).reshape(chosen.shape)
    # The pairs in the order of the replicas that have their captions, and where each begins.
    flat = chosen.reshape(-1)
    numbers = group.pvary(jnp.arange(pairs, dtype=jnp.int32))
    _, order = jax.lax.sort((flat, numbers), num_keys=1)
    firsts = jnp.arange(group.size + 1, dtype=flat.dtype) * here
    begins = (flat[:, None] < firsts).sum(0, dtype=jnp.int32)
    lists = flat, order, begins

    def ring(videos):
        return _ring(group, fn, whole, videos, captions, lists, k, chunk)

    return group.ordered(ring, videos).reshape(chosen.shape)


def _ring(group, fn, whole, videos, captions, lists, k: int, chunk: int):
    """`score_chosen` of pairs in a row `[r * k]`."""
    trees = FloatPartition(whole), FloatPartition(videos), FloatPartition(captions)
    here = rows_of(captions)

    def chunks(visitors, body, carry):
        """Runs `body(carry, pairs, rows, columns)` over the visitors' pairs that lie here."""
        flat, order, begins = visitors
        number = group.rank()

        def step(state):
            place, carry = state
            places = place + jnp.arange(chunk)
            pairs = order[jnp.minimum(places, order.size - 1)]
            columns = jnp.clip(flat[pairs] - number * here, 0, here - 1)
            # What lies behind the end is computed, then dropped.
            pairs = jnp.where(places < begins[number + 1], pairs, order.size)
            return place + chunk, body(
                carry, pairs, jnp.minimum(pairs // k, flat.size // k - 1), columns
            )

        def more(state):
            return state[0] < begins[number + 1]

        return jax.lax.while_loop(more, step, (begins[number], carry))[1]

    def scored(other_leaves, rows, columns):
        def score(whole_f, video_f, caption_f):
            video_r, caption_r = _take(other_leaves[1], rows), _take(other_leaves[2], columns)
            leaves = (whole_f, other_leaves[0]), (video_f, video_r), (caption_f, caption_r)
            return fn(*(tree.tree(*pair) for tree, pair in zip(trees, leaves, strict=True)))

        return score

    def forward(floats, other_leaves, lists):
        whole_f, video_f, caption_f = floats

        def visit(carry, _):
            video_f, video_r, lists, scores = carry

            def body(scores, pairs, rows, columns):
                score = scored((other_leaves[0], video_r, other_leaves[2]), rows, columns)
                found = score(whole_f, _take(video_f, rows), _take(caption_f, columns))
                return scores.at[pairs].set(found, mode="drop")

            scores = chunks(lists, body, scores)
            return group.ring_shift((video_f, video_r, lists, scores)), None

        [scores] = zeros(group, [lists[0]])
        carry, _ = jax.lax.scan(visit, (video_f, other_leaves[1], lists, scores), length=group.size)
        return carry[-1]

    def backward(residuals, gradient):
        (whole_f, video_f, caption_f), other_leaves, lists = residuals

        def visit(carry, _):
            (video_f, video_r, lists, gradient), sum_v, sum_w, sum_c = carry

            def body(sums, pairs, rows, columns):
                sum_w, sum_v, sum_c = sums
                score = scored((other_leaves[0], video_r, other_leaves[2]), rows, columns)
                leaves = whole_f, _take(video_f, rows), _take(caption_f, columns)
                cotangent = gradient.at[pairs].get(mode="fill", fill_value=0.0)
                by_whole, by_video, by_caption = jax.vjp(score, *leaves)[1](cotangent)
                return (
                    add(sum_w, by_whole),
                    _put(sum_v, rows, by_video),
                    _put(sum_c, columns, by_caption),
                )

            sum_w, sum_v, sum_c = chunks(lists, body, (sum_w, sum_v, sum_c))
            visitors, sum_v = group.ring_shift(((video_f, video_r, lists, gradient), sum_v))
            return (visitors, sum_v, sum_w, sum_c), None

        sum_w, sum_v, sum_c = (zeros(group, x) for x in (whole_f, video_f, caption_f))
        start = (video_f, other_leaves[1], lists, gradient), sum_v, sum_w, sum_c
        (_, sum_v, sum_w, sum_c), _ = jax.lax.scan(visit, start, length=group.size)
        gradients = zip((sum_w, sum_v, sum_c), residuals[0], strict=True)
        return tuple(cast_like(g, x) for g, x in gradients), None, None

    @jax.custom_vjp
    def run(floats, other_leaves, lists):
        return forward(floats, other_leaves, lists)

    def run_forward(floats, other_leaves, lists):
        return forward(floats, other_leaves, lists), (floats, other_leaves, lists)

    run.defvjp(run_forward, backward)
    return run(tuple(t.floats for t in trees), tuple(t.other_leaves for t in trees), lists)


def _take(leaves: list, rows: Int[Array, "m"]) -> list:
    return [leaf[rows] for leaf in leaves]


def _put(sums: list, rows: Int[Array, "m"], leaves: list) -> list:
    return [
        total.at[rows].add(leaf.astype(total.dtype))
        for total, leaf in zip(sums, leaves, strict=True)
    ]
