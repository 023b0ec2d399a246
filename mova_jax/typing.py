"""Axis letters and the data structures that pass between folders.

The same letters are used in annotations, einsum strings and comments.

    b videos        f frames         d joint embedding width    h attention heads
    c captions      p parts          w tower width              k candidate captions of a video
    l text tokens   t part tokens    m MLP width                H W image size

In the vision tower p are patches.

`b` and `c` differ even where a batch has as many captions as videos, because losses form all pairs.
Validity masks are bool, True = valid, and end in `_mask`. Concept masks (`ConceptMasks`) are not
validity masks: they select dimensions of the joint embedding.
"""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8


def _pytree(cls):
    """Makes `cls` a frozen dataclass whose fields are pytree children."""
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(cls))


@_pytree
class HostFrames:
    """Frames of a batch offloaded to host memory, to be brought to the devices by microbatches.

    Row i of the batch is row i // s of microbatch i % s: when a batch is sharded in order over
    devices, each device has its share of each microbatch. The last two axes are a tile of 8 x 128,
    the layout of a TPU's memory: in another layout XLA would copy all microbatches at once to
    reorder them.
    """

    pixels: UInt8[Array, "s r f n tile lanes"]  # s microbatches of r rows; n tile lanes = H W 3

    @classmethod
    def shape(cls, frames: tuple[int, ...], microbatches: int) -> tuple[int, ...]:
        """Shape of `pixels` for frames `[b f H W 3]`, H = W, in a number of microbatches."""
        b, f, *image = frames
        numbers = math.prod(image)
        lanes = math.gcd(numbers, 128)
        tile = math.gcd(numbers // lanes, 8)
        return microbatches, b // microbatches, f, numbers // lanes // tile, tile, lanes

    @property
    def microbatches(self) -> int:
        """Number of microbatches, s."""
        return self.pixels.shape[0]

    def microbatch(self, number: Int[Array, ""] | int) -> UInt8[Array, "r f H W 3"]:
        """Frames of one microbatch, copied to the devices."""
        frames = jax.lax.dynamic_index_in_dim(self.pixels, number, keepdims=False)
        frames = jax.device_put(frames, jax.memory.Space.Device)
        side = math.isqrt(math.prod(frames.shape[2:]) // 3)
        return frames.reshape(*frames.shape[:2], side, side, 3)


@_pytree
class Batch:
    """The output of the input pipeline: each row is a video and its caption."""

    frames: UInt8[Array, "b f H W 3"] | HostFrames  # RGB, normalised on the device
    frame_mask: Bool[Array, "b f"]
    timestamps: Float[Array, "b f"]  # seconds from the start of the video
    tokens: Int[Array, "b l"]
    token_mask: Bool[Array, "b l"]
    video_id: Int[Array, "b"]  # index of the video in its split, -1 for a padded row
    # The sentences of each caption as texts of their own (`config.data.parts`); without, None.
    part_tokens: Int[Array, "b p t"] | None = None
    part_token_mask: Bool[Array, "b p t"] | None = None  # all False for a padded part

    @property
    def example_mask(self) -> Bool[Array, "b"]:
        """False for rows that pad the last batch of an evaluation."""
        return self.frame_mask.any(-1) & self.token_mask.any(-1)


@_pytree
class VideoEmbedding:
    """A video as frame embeddings, and as one vector."""

    frames: Float[Array, "b f d"]  # zv, not normalised
    frame_mask: Bool[Array, "b f"]
    pooled: Float[Array, "b d"]  # global vector, L2-normalised


@_pytree
class TextEmbedding:
    """A caption as token states, and as one vector; and its parts, each encoded as a text."""

    tokens: Float[Array, "*c l w"]  # y, after the final layer norm; in the dtype of the tower
    token_mask: Bool[Array, "*c l"]
    pooled: Float[Array, "*c d"]  # zt, the end-of-text token projected, not normalised
    # m^V where no frame changes it, for scores of texts whose token states are not kept.
    video_mask: Float[Array, "*c d"] | None = None
    parts: "TextEmbedding | None" = None  # of the parts, with axes [c p] in place of [c]

    @property
    def scored(self) -> "TextEmbedding":
        """What the score of a pair reads: the parts, rows [c p], or the whole captions."""
        return self if self.parts is None else self.parts


@_pytree
class ConceptMasks:
    """The masks of pairs, and the parts of captions that they select (docs/method.md, 2 and 3).

    Masks are in 0..1; hard ones are exactly 0 or 1, with a straight-through gradient.
    """

    text: Float[Array, "... f d"]  # m^T: the dimensions of zt that a frame is about
    video: Float[Array, "... f d"]  # m^V: the dimensions of zv that match this part
    part: Float[Array, "... f d"]  # s = zt * m^T, the frame's part of the caption
    text_mask_density: Float[Array, "... f"]  # open share of the text mask, for sparsity


class Term(NamedTuple):
    """A sum and its count, so that parts of a batch, and padded batches, average correctly."""

    sum: Float[Array, ""]
    count: Float[Array, ""]

    @property
    def mean(self) -> Float[Array, ""]:
        """The average; 0 when nothing was counted."""
        return self.sum / jnp.maximum(self.count, 1e-6)
