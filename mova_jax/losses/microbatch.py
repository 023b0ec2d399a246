"""A batch a part at a time: the towers by microbatches, other functions by blocks of rows.

The backward pass computes each part again, so that memory grows with a part. Loss and gradients are
those of the whole batch.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mova_jax.typing import Batch, HostFrames, TextEmbedding, VideoEmbedding


def embeddings(model, batch: Batch) -> tuple[VideoEmbedding, TextEmbedding]:
    """The towers' output for a batch, by microbatches when its frames are `HostFrames`.

    Args:
        model: a `mova_jax.models.mova.Mova`.
        batch: `b` videos and their captions.

    Returns:
        Embeddings of all `b` rows, in the order of the batch.
    """

    def encode(frames, rows: Batch):
        video = model.encode_video(frames, rows.frame_mask)
        parts = rows.part_tokens, rows.part_token_mask
        return video, model.encode_text(rows.tokens, rows.token_mask, *parts)

    frames = batch.frames
    if not isinstance(frames, HostFrames):
        return encode(frames, batch)
    return map_microbatches(
        lambda number, rows: encode(frames.microbatch(number), rows),
        dataclasses.replace(batch, frames=None),
        frames.microbatches,
    )


def map_blocks(fn: Callable, rows: Any, block: int) -> Any:
    """`fn(rows)` with at most `block` rows alive at a time.

    Args:
        fn: takes and returns pytrees of rows `[r ...]`; treats each row by itself.
        rows: pytree of rows.
        block: 0, or at least the number of rows, calls `fn` once and stores its residuals.
    """
    size = jax.tree.leaves(rows)[0].shape[0]
    count = -(-size // block) if block else 1
    return map_microbatches(lambda _, part: fn(part), rows, count)


def map_microbatches(fn: Callable, rows: Any, count: int) -> Any:
    """`fn(number, rows)` on one microbatch at a time.

    Row i goes into microbatch i % count: when rows are sharded in order over devices, each device
    has its share of each microbatch. Consecutive rows would all be on one device.

    Args:
        fn: takes the number of a microbatch and a pytree of its rows; returns a pytree of rows;
            treats each row by itself.
        rows: pytree of rows `[r ...]`.
        count: number of microbatches; 1 calls `fn` once and stores its residuals.
    """
    if count == 1:
        return fn(0, rows)
    size = jax.tree.leaves(rows)[0].shape[0]
    width = -(-size // count)

    def split(leaf):
        # Padded with copies of the last row: a row of zeros might not be legal input.
        padding = [(0, width * count - size)] + [(0, 0)] * (leaf.ndim - 1)
        padded = jnp.pad(leaf, padding, mode="edge") if width * count > size else leaf
        return padded.reshape(width, count, *leaf.shape[1:]).swapaxes(0, 1)

    def join(leaf):
        return leaf.swapaxes(0, 1).reshape(width * count, *leaf.shape[2:])[:size]

    mapped = jax.checkpoint(fn, prevent_cse=False)
    parts = jnp.arange(count), jax.tree.map(split, rows)
    return jax.tree.map(join, jax.lax.map(lambda part: mapped(*part), parts))
