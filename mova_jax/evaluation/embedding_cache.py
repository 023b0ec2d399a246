"""Host-side caches for blockwise retrieval.

`SplitEmbeddings` has the videos of a split, each with its first caption. `PackedCaptions` has all
captions where a video has several.

The towers give `[c l w]` states, which for the 59,800 captions of MSR-VTT would be 5.9 GB in
float32 at 48 tokens of width 512. Without padding they are 1.5 GB (about a dozen tokens each), so
padding is removed here and restored, as zeros, for the block that is scored. Encoding each block
of captions again for every block of videos would need no memory, but 12 % more FLOPs (B/16, blocks
of 64 and 64, 64 frames, 48 tokens).
"""

from collections.abc import Callable, Mapping
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
    """Embeddings of captions without the padding of token states, written and read by slices."""

    def __init__(self, tokens: Int[np.ndarray, "c *p"], length: int):
        """Allocates nothing yet.

        Args:
            tokens: the number of tokens of each caption, or of each of its parts.
            length: l of the blocks that are read. It is the same for all, so that a text has the
                same score in every block and equal captions of two videos tie.
        """
        self._tokens, self._length = np.asarray(tokens), length
        totals = self._tokens.reshape(len(self._tokens), -1).sum(-1)
        self._start = np.concatenate([[0], np.cumsum(totals)])
        self._states: np.ndarray | None = None  # f[all tokens w]
        self._arrays: dict[str, np.ndarray] = {}  # rows c, by name

    def put(self, captions: slice, text: TextEmbedding) -> None:
        """Stores the embeddings of some captions, with the token states of what scores read.

        Args:
            captions: which they are.
            text: its states `[c *p l w]` with l at least the longest of them, or none with l = 0.
        """
        scored = text.scored
        arrays = {"whole": text.pooled, "pooled": scored.pooled, "video_mask": scored.video_mask}
        for name, rows in arrays.items():
            if rows is not None:
                self._array(name, rows)[captions] = rows
        if scored.tokens.shape[-2]:
            if self._states is None:
                shape = self._start[-1], scored.tokens.shape[-1]
                self._states = np.empty(shape, scored.tokens.dtype)
            mask = self._mask(captions, scored.tokens.shape[-2])
            block = slice(self._start[captions.start], self._start[captions.stop])
            self._states[block] = scored.tokens[mask]

    def rows(self, captions: slice | Int[np.ndarray, "n"], states: bool = True) -> TextEmbedding:
        """Some captions, their states padded with zeros to the common length, or left out."""
        found = {name: array[captions] for name, array in self._arrays.items()}
        mask, whole = self._mask(captions, self._length), found.pop("whole")
        if self._states is None or not states:
            mask = mask.any(-1, keepdims=True)
            tokens = np.zeros((*mask.shape[:-1], 0, 1), np.float32)
        else:
            tokens = np.zeros((*mask.shape, self._states.shape[-1]), self._states.dtype)
            tokens[mask] = self._states_of(captions)
        scored = TextEmbedding(tokens, mask, **found)
        if self._tokens.ndim == 1:
            return scored
        return TextEmbedding(tokens[:, 0], mask[:, 0], whole, parts=scored)

    def _states_of(self, captions: slice | np.ndarray) -> np.ndarray:
        if isinstance(captions, slice):
            return self._states[self._start[captions.start] : self._start[captions.stop]]
        return np.concatenate([self._states_of(slice(c, c + 1)) for c in captions])

    def _array(self, name: str, rows: np.ndarray) -> np.ndarray:
        if name not in self._arrays:
            self._arrays[name] = np.empty((len(self._tokens), *rows.shape[1:]), rows.dtype)
        return self._arrays[name]

    def _mask(self, captions: slice | np.ndarray, length: int) -> np.ndarray:
        return np.arange(length) < self._tokens[captions, ..., None]


def observed(
    score_block: ScoreBlock, see: Callable[[slice, slice, Mapping[str, np.ndarray]], object]
) -> ScoreBlock:
    """A `score_block` that shows the scores of each new block to `see`, with its slices."""
    seen: set[tuple[int, int]] = set()

    def scored(videos: slice, captions: slice):
        scores = score_block(videos, captions)
        if (key := (videos.start, captions.start)) not in seen:
            seen.add(key)
            see(videos, captions, scores)
        return scores

    return scored


def with_progress(score_block: ScoreBlock, update: Callable[[int], object]) -> ScoreBlock:
    """A `score_block` that reports the number of pairs in each new block to `update`."""

    def count(videos: slice, captions: slice, _) -> None:
        update((videos.stop - videos.start) * (captions.stop - captions.start))

    return observed(score_block, count)
