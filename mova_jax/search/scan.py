"""Scores of all videos of an index with some texts: an exact scan, in blocks, on the device.

    scan = Scan.of(mova_jax.load("runs/base"))
    found = scan.texts(index, entries, text)        # .scores[n q], .reranked[n q]

The scores are those of an evaluation, by the same compiled functions (`EvalFns`). Where the masks
of a pair depend on its frames, all videos are scored without masks first, and the best `RERANKED`
ones of each text are scored again with them, as in `evaluation/rerank.py`.

Videos of about the same length share a block, padded to one of a few lengths, each a program. While
the device scores a block, a thread reads the next one. Frame vectors stay float16 on their way to
the device; sums are float32.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from mova_jax.config import Config
from mova_jax.evaluation.frame_stream import FrameEncoder
from mova_jax.evaluation.jitted import PAIR_BLOCK, EvalFns, rows_of, without_states
from mova_jax.evaluation.query_ranks import record_scores
from mova_jax.evaluation.rerank import RERANKED, BestAnswers
from mova_jax.typing import TextEmbedding, VideoEmbedding

BLOCK_FRAMES = 8192  # of all videos of a block at most, if one video has not more
SHORTEST = 32  # frames that a video is padded to at least


class Scores(NamedTuple):
    """Scores of n videos with q texts; a video that was scored again is above one that was not."""

    scores: Float[np.ndarray, "n q"]  # the score of record, or of the first stage
    reranked: Bool[np.ndarray, "n q"]  # all True for models whose first score is the last one

    def best(self, query: int) -> Int[np.ndarray, "n"]:
        """All videos in the order of a text, the best one first; ties in the order of videos."""
        keys = -self.scores[:, query], ~self.reranked[:, query]
        return np.lexsort(keys)


class _Block(NamedTuple):
    places: Int[np.ndarray, "b"]  # of its videos among all entries
    ids: tuple[str, ...]
    vectors: Float[np.ndarray, "rows f d"]
    frame_mask: Bool[np.ndarray, "rows f"]
    rows: int


@dataclasses.dataclass(eq=False)
class Scan:
    """A compiled model that scores the videos of an index.

    Attributes:
        fns: compiled functions of an evaluation.
        params: of the model.
        encoder: of the model, for the global vectors of videos.
        config: that the model is evaluated with.
        weight: of the modular score in the score of record; None for a model without one.
    """

    fns: EvalFns
    params: Any
    encoder: FrameEncoder
    config: Config
    weight: float | None
    # Global vectors of videos by id: they depend on no text, so they are computed once.
    _pooled: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, model) -> "Scan":
        """The scan of a model from `mova_jax.load`."""
        return cls(model.fns, model.params, model.encoder, model.config, model.weight)

    def texts(self, index, entries: Sequence, text: TextEmbedding) -> Scores:
        """Scores of videos with texts.

        Args:
            index: of `store.open_index`.
            entries: of its videos.
            text: q texts.
        """
        queries = len(text.pooled)
        if not self._masks_by_pair:
            return self._exact(index, entries, text, self.fns.pairs)
        if len(entries) <= RERANKED:
            return self._exact(index, entries, text, self.fns.pairs, np.float32)
        first = _stateless(text)
        scores = np.zeros((len(entries), queries), np.float32)
        for block, video in self._videos(index, entries):
            found = self.fns.first_stage(self.params, video, first, (block.rows, queries))
            scores[block.places] = found["first"][: len(block.places)]
        return self._rerank(index, entries, text, scores)

    def vector(self, index, entries: Sequence, vector: Float[np.ndarray, "d"]) -> Scores:
        """Scores of videos with a frame vector, such as the mean of another video's frames.

        Its cosines with the frames of a video are pooled as those of a sentence, without masks.
        """
        scores = np.zeros((len(entries), 1), np.float32)
        for block, video in self._videos(index, entries):
            found = self.fns.class_scores(self.params, video, vector[None])
            scores[block.places] = found["frames"][: len(block.places)]
        return Scores(scores, np.ones_like(scores, bool))

    def video(self, index, entry) -> VideoEmbedding:
        """One video, its frames float32 and padded."""
        ((_, video),) = self._videos(index, [entry], np.float32)
        return rows_of(video, slice(0, 1))

    @property
    def _masks_by_pair(self) -> bool:
        return bool(self.config.model.modular_scale and self.config.model.masks_see_frames)

    def _exact(self, index, entries, text, score: Callable, dtype=np.float16) -> Scores:
        scores = np.zeros((len(entries), len(text.pooled)), np.float32)
        captions = 1 if self._masks_by_pair else len(text.pooled)
        for block, video in self._videos(index, entries, dtype):
            for start in range(0, len(text.pooled), captions):
                rows = slice(start, start + captions)
                size = block.rows, captions
                found = score(self.params, video, rows_of(text, rows), size)
                record = record_scores(found, self.weight)
                scores[block.places, rows] = record[: len(block.places)]
        return Scores(scores, np.ones_like(scores, bool))

    def _rerank(self, index, entries, text, scores: np.ndarray) -> Scores:
        """The candidates of each text, scored again; see `rerank.shortlist` for who they are."""
        videos, queries = scores.shape
        best = BestAnswers(queries, RERANKED + 1)
        best.add(slice(0, queries), slice(0, videos), scores.T)
        reranked = np.zeros(scores.shape, bool)
        for query in range(queries):
            valid = best.scores[query] > best.scores[query].min()
            places = best.answers[query][valid]
            mine = rows_of(text, slice(query, query + 1))
            chosen = [entries[place] for place in places]
            again = self._exact(index, chosen, mine, self.fns.pairs, np.float32)
            scores[places, query], reranked[places, query] = again.scores[:, 0], True
        return Scores(scores, reranked)

    def _videos(
        self, index, entries: Sequence, dtype=np.float16
    ) -> Iterator[tuple[_Block, VideoEmbedding]]:
        """Blocks of videos with their global vectors."""
        most, shards = self.fns.pair_block(1)[0], self.fns.pair_block(1, masks=False)[0]
        for block in _ahead(_blocks(index, entries, most, shards // PAIR_BLOCK[0], dtype)):
            if not all(id in self._pooled for id in block.ids):
                video = self.encoder.pool(block.vectors, block.frame_mask)
                self._pooled |= zip(block.ids, np.asarray(video.pooled), strict=False)
            pooled = np.stack([self._pooled[id] for id in block.ids])
            pooled = np.concatenate([pooled, pooled[-1:].repeat(block.rows - len(pooled), 0)])
            yield block, VideoEmbedding(block.vectors, block.frame_mask, pooled)


def _stateless(text: TextEmbedding) -> TextEmbedding:
    """The same without token states, which the first stage does not read."""
    parts = None if text.parts is None else without_states(text.parts)
    return dataclasses.replace(without_states(text), parts=parts)


def padded_length(frames: int) -> int:
    """The length that a video is padded to: a power of two, for each length is a program."""
    return max(SHORTEST, 1 << (frames - 1).bit_length())


def _blocks(index, entries: Sequence, most: int, shards: int, dtype) -> Iterator[_Block]:
    """Blocks of videos of one padded length; the last of a length has free rows.

    Args:
        index: of the videos.
        entries: the videos.
        most: rows of a block at most.
        shards: number that divides the rows, which are split over the devices.
        dtype: of the vectors.
    """
    by_length: dict[int, list[int]] = {}
    for place, entry in enumerate(entries):
        by_length.setdefault(padded_length(entry.frames), []).append(place)
    for length, places in sorted(by_length.items()):
        rows = max(1, min(most, BLOCK_FRAMES // length) // shards) * shards
        for start in range(0, len(places), rows):
            mine = places[start : start + rows]
            yield _read(index, entries, np.array(mine), length, rows, dtype)


def _read(index, entries, places: np.ndarray, length: int, rows: int, dtype) -> _Block:
    ids = tuple(entries[place].id for place in places)
    found = [index.vectors(id) for id in ids]
    vectors = np.zeros((rows, length, found[0].shape[1]), dtype)
    frame_mask = np.zeros((rows, length), bool)
    for row, frames in enumerate(found):
        vectors[row, : len(frames)] = frames
        frame_mask[row, : len(frames)] = True
    return _Block(places, ids, vectors, frame_mask, rows)


def _ahead(items: Iterable) -> Iterator:
    """The same items, each made by a thread while the one before it is used."""
    items = iter(items)
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item
