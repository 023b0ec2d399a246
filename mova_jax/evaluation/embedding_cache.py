"""Host-side caches for blockwise retrieval.

`SplitEmbeddings` has the videos of a split, each with its first caption. `PackedCaptions` has all
captions where a video has several; `CachedScores` has the scores that are read twice.

The towers give `[c l w]` states, which for the 59,800 captions of MSR-VTT would be 5.9 GB in
float32 at 48 tokens of width 512. Without padding they are 1.5 GB (about a dozen tokens each), so
padding is removed here and restored, as zeros, for the block that is scored. Encoding each block
of captions again for every block of videos would need no memory, but 12 % more FLOPs (B/16, blocks
of 64 and 64, 64 frames, 48 tokens).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from mova_jax.evaluation.ranks import ScoreBlock
from mova_jax.typing import TextEmbedding, VideoEmbedding


class SplitEmbeddings(NamedTuple):
    """The embeddings of a split, on the host; row i of each belongs to video i."""

    video: VideoEmbedding
    text: TextEmbedding
    timestamps: Float[np.ndarray, "b f"]  # seconds


class PackedCaptions:
    """Embeddings of captions without their padding, written and read by slices."""

    def __init__(self, tokens: Int[np.ndarray, "c"], length: int, with_tokens: bool = True):
        """Allocates nothing yet.

        Args:
            tokens: the number of tokens of each caption.
            length: l of the blocks that are read. It is the same for all, so that a text has the
                same score in every block and equal captions of two videos tie.
            with_tokens: False for models whose scores need the pooled vectors alone; blocks then
                have l = 0.
        """
        self._tokens = np.asarray(tokens) if with_tokens else np.zeros_like(tokens)
        self._length = length if with_tokens else 0
        self._start = np.concatenate([[0], np.cumsum(self._tokens)])
        self._states: np.ndarray | None = None  # f[all tokens w]
        self._pooled: np.ndarray | None = None  # f[c d]

    def put(self, captions: slice, text: TextEmbedding) -> None:
        """Stores the embeddings of some captions, `[c l w]` with l at least the longest of them."""
        if self._states is None:
            self._states = np.empty((self._start[-1], text.tokens.shape[-1]), text.tokens.dtype)
            self._pooled = np.empty((len(self._tokens), text.pooled.shape[-1]), text.pooled.dtype)
        mask = self._mask(captions, text.tokens.shape[1])
        self._states[self._start[captions.start] : self._start[captions.stop]] = text.tokens[mask]
        self._pooled[captions] = text.pooled

    def rows(self, captions: slice) -> TextEmbedding:
        """Some captions, padded with zeros to the common length."""
        mask = self._mask(captions, self._length)
        tokens = np.zeros((*mask.shape, self._states.shape[-1]), self._states.dtype)
        tokens[mask] = self._states[self._start[captions.start] : self._start[captions.stop]]
        return TextEmbedding(tokens=tokens, token_mask=mask, pooled=self._pooled[captions])

    def _mask(self, captions: slice, length: int) -> np.ndarray:
        return np.arange(length) < self._tokens[captions, None]


class CachedScores:
    """A `score_block` that caches the blocks of the first videos with the first captions."""

    def __init__(self, score_block: ScoreBlock, rows: int, count: int):
        """Wraps a `score_block`.

        Args:
            score_block: of blocks that start at multiples of `rows`.
            rows: videos and captions of a block.
            count: videos and captions that are cached, from the first.
        """
        self._score_block, self._rows, self._count = score_block, rows, count
        self._cached: dict[tuple[int, int], dict[str, np.ndarray]] = {}

    def __call__(self, videos: slice, captions: slice) -> dict[str, np.ndarray]:
        """Scores `[b c]` by name."""
        key = videos.start, captions.start
        if key in self._cached:
            return self._cached[key]
        scores = self._score_block(videos, captions)
        if max(key) < self._count:
            self._cached[key] = scores
        return scores

    def square(self, name: str) -> Float[np.ndarray, "b c"]:
        """Scores of the first `count` videos with the first `count` captions."""
        # Whole blocks, as a sweep over the gallery asks for: only those are in the cache.
        starts = range(0, self._count, self._rows)
        blocks = [slice(start, start + self._rows) for start in starts]
        scores = np.block([[self(v, c)[name] for c in blocks] for v in blocks])
        return scores[: self._count, : self._count]


def with_progress(score_block: ScoreBlock, update: Callable[[int], object]) -> ScoreBlock:
    """A `score_block` that reports the number of pairs in each new block to `update`."""
    seen: set[tuple[int, int]] = set()

    def scored(videos: slice, captions: slice):
        scores = score_block(videos, captions)
        if (key := (videos.start, captions.start)) not in seen:
            seen.add(key)
            update((videos.stop - videos.start) * (captions.stop - captions.start))
        return scores

    return scored
