"""The input of an evaluation: a model, a split, and results that several evaluations share.

A shared result is a property: it is computed when the first evaluation reads it, once, and not at
all when none does. All of them are NumPy arrays on the host; row i belongs to video i.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from mova_jax.config import Config
from mova_jax.data.classes import Classes
from mova_jax.data.pipeline.batching import PipelineSettings, settings_of
from mova_jax.data.pipeline.dataset import eval_batches
from mova_jax.data.pipeline.queries import (
    CAPTION,
    Captions,
    MomentQuery,
    Sentence,
    eval_captions,
    eval_sentences,
    moment_queries,
    query_protocol,
)
from mova_jax.data.sources import splits_of
from mova_jax.data.tokenizer import Tokenizer, bucket_length, pad_parts, pad_tokens
from mova_jax.evaluation.embedding_cache import (
    PackedCaptions,
    SplitEmbeddings,
    observed,
    with_progress,
)
from mova_jax.evaluation.jitted import EvalFns, rows_of
from mova_jax.evaluation.query_ranks import (
    WEIGHTS,
    KeptRanks,
    QueryRanks,
    rank_queries,
    record_scores,
)
from mova_jax.evaluation.ranks import ScoreBlock
from mova_jax.evaluation.rerank import RERANKED, BestAnswers, rerank, shortlist
from mova_jax.typing import ConceptMasks, TextEmbedding
from mova_jax.utils.progress_bar import bar_of

SEARCHED = 100  # videos in which a sentence looks for its moment
_LONG = 10.0  # seconds after which a bar is shown


class SentenceCosines(NamedTuple):
    """A sentence as a caption of its own, on the frames of its video."""

    sentence: Sentence
    frame: Float[np.ndarray, "f"]  # cosine of frame and sentence
    modular: Float[np.ndarray, "f"]  # the same under the masks of the pair


class Queries(NamedTuple):
    """The texts that search, and how the embeddings of some of them are read."""

    rows: Callable[[Any], TextEmbedding]  # by a slice or indices
    stateless: Callable[[Any], TextEmbedding]  # the same without token states
    video: Int[np.ndarray, "c"]  # that each one belongs to


class SentenceSearch(NamedTuple):
    """The timed sentences of a split as queries for all its videos."""

    queries: list[MomentQuery]
    texts: Queries
    ranks: QueryRanks
    best: BestAnswers  # the `SEARCHED` best videos of each by the score of record


@dataclasses.dataclass(frozen=True, eq=False)
class EvalContext:
    """A model with its parameters and the first videos of a split."""

    config: Config
    fns: EvalFns
    folder: str | os.PathLike  # of the shards
    tokenizer: Tokenizer
    params: Any
    split: str
    limit: int = 0  # videos, from the first; 0 for all
    blend_weight: float | None = None  # of the modular score; None chooses it on this split
    classes: Classes | None = None  # of zero-shot classification
    final: bool = False  # whether the split is tested: with intervals of R@1
    # Evaluations put the ranks of further queries here, to be kept beside `query_ranks`.
    other_ranks: dict[str, KeptRanks] = dataclasses.field(default_factory=dict)

    @cached_property
    def settings(self) -> PipelineSettings:
        """How records become batches."""
        return settings_of(self.config, self.config.eval.frames)

    @property
    def num_videos(self) -> int:
        """The number of videos evaluated, b."""
        return len(self.embeddings.timestamps)

    @cached_property
    def embeddings(self) -> SplitEmbeddings:
        """Every video and its first caption; captions as long as the longest needs."""
        batches = eval_batches(
            self.folder, self.split, self.tokenizer, self.settings, self.fns.rows, self.limit
        )
        count = splits_of(self.folder)[self.split]
        count, done, embeddings = min(self.limit or count, count), 0, None
        with self.progress("videos", count, "video") as bar:
            for arrays in batches:
                video, text = self.fns.encode(self.params, arrays)
                size = len(text.pooled)
                found = SplitEmbeddings(video, text, arrays["timestamps"][:size])
                if embeddings is None:  # filled in place: to concatenate would take them twice
                    embeddings = jax.tree.map(partial(_room, count), found)
                jax.tree.map(partial(_put, slice(done, done + size)), embeddings, found)
                done += size
                bar.update(size)
        return embeddings._replace(text=self._shortened(embeddings.text))

    @property
    def matching_scores(self) -> ScoreBlock:
        """Scores of blocks of videos with blocks of their first captions."""
        captions = partial(rows_of, self.embeddings.text)
        return self._score_block(self.fns.pairs, captions, self.fns.pair_block(self.num_videos))

    @cached_property
    def matching_masks(self) -> ConceptMasks | None:
        """Masks `[b f d]` of each video with its first caption, for small splits only.

        None for a model without masks.
        """
        if not self.config.model.has_masks:
            return None
        return self.fns.matching_masks(self.params, self.embeddings.video, self.embeddings.text)

    @cached_property
    def timed_sentences(self) -> list[SentenceCosines]:
        """The sentences that have a time, on the frames of their videos."""
        return self.sentence_cosines(timed_only=True)

    def sentence_cosines(self, timed_only: bool) -> list[SentenceCosines]:
        """Each sentence of the split, or each timed one, on the frames of its video."""
        sentences = eval_sentences(
            self.folder, self.split, self.tokenizer, self.num_videos, timed_only
        )
        found = []
        for start in range(0, len(sentences), self.fns.rows):
            block = sentences[start : start + self.fns.rows]
            ids = [sentence.ids for sentence in block]
            tokens = pad_tokens(ids, self.settings.buckets, self.tokenizer.pad_id)
            text = self.fns.encode_text(self.params, *tokens)
            video = rows_of(self.embeddings.video, [sentence.video for sentence in block])
            cosines = self.fns.matching_cosines(self.params, video, text)
            frame, modular = cosines["frame"], cosines["modular"]
            found += [SentenceCosines(s, frame[i], modular[i]) for i, s in enumerate(block)]
        return found

    @cached_property
    def queries(self) -> Queries:
        """The captions that search: the first of each video, or all (`config.eval.queries`)."""
        protocol = query_protocol(self.folder, self.config.eval.queries)
        if protocol != CAPTION:
            settings = self.num_videos, protocol, self.config.data.parts
            captions = eval_captions(self.folder, self.split, self.tokenizer, *settings)
            if len(captions.ids) > self.num_videos:
                return self._packed(captions)
        rows = partial(rows_of, self.embeddings.text)
        return Queries(rows, rows, np.arange(self.num_videos))

    @cached_property
    def query_ranks(self) -> QueryRanks:
        """The ranks of `queries` by every score.

        In a gallery of more than `RERANKED`, masks that depend on frames are computed for the best
        answers of each query only.
        """
        weights = WEIGHTS if self.blend_weight is None else (self.blend_weight,)
        return self._ranked(self.queries, weights)

    @cached_property
    def sentence_search(self) -> SentenceSearch | None:
        """Every timed sentence, as a caption of one part, searches all videos; None without any."""
        queries = moment_queries([cosines.sentence for cosines in self.timed_sentences])
        if not queries:
            return None
        parts = [
            self.tokenizer.encode_parts([q.text], 1) for q in queries if self.config.data.parts
        ]
        video = np.array([query.video for query in queries])
        texts = self._packed(Captions(video, tuple(q.ids for q in queries), tuple(parts)))
        best = BestAnswers(len(queries), min(SEARCHED, self.num_videos))
        # The weight of the captions: this split may be the one on which it is chosen.
        weights = (self.query_ranks.blend_weight or 0.0,)
        return SentenceSearch(queries, texts, self._ranked(texts, weights, best), best)

    @property
    def masks_by_pair(self) -> bool:
        """Whether a gallery of this size is re-ranked, for pairs have masks of their own."""
        model = self.config.model
        return bool(model.modular_scale and model.masks_see_frames and self.num_videos > RERANKED)

    def _ranked(
        self, queries: Queries, weights: Sequence[float], best: BestAnswers | None = None
    ) -> QueryRanks:
        """The ranks of queries; fills `best` with the answers."""
        owner, videos = queries.video, self.num_videos
        if self.masks_by_pair:
            return self._reranked(queries, weights, best)
        block = self.fns.pair_block(len(owner))
        scores = self._score_block(self.fns.pairs, queries.rows, block)
        if best is not None:

            def keep(rows: slice, columns: slice, scores: Mapping[str, np.ndarray]) -> None:
                best.add(columns, rows, record_scores(scores, weights[0]).T)

            scores = observed(scores, keep)
        with self.progress("scores", videos * len(owner), "pair") as bar:
            scores = with_progress(scores, bar.update)
            return rank_queries(scores, videos, owner, blend_weights=weights, blocks=block)

    def _reranked(
        self, queries: Queries, weights: Sequence[float], best: BestAnswers | None
    ) -> QueryRanks:
        """The ranks of queries in a large gallery."""
        owner = queries.video
        block = self.fns.pair_block(len(owner), masks=False)
        first = self._score_block(self.fns.first_stage, queries.stateless, block)
        with self.progress("first stage", self.num_videos * len(owner), "pair") as bar:
            first = with_progress(first, bar.update)
            found = shortlist(first, self.num_videos, owner, k=RERANKED, blocks=block)
        size = self.fns.pair_block(len(owner))[0]
        with self.progress("re-ranked", len(found.pairs), "pair") as bar:

            def score_answers(caption: int, videos: np.ndarray) -> dict[str, np.ndarray]:
                text, blocks = queries.rows(slice(caption, caption + 1)), []
                for start in range(0, len(videos), size):
                    video = rows_of(self.embeddings.video, videos[start : start + size])
                    blocks.append(self.fns.pairs(self.params, video, text, (size, 1)))
                bar.update(len(videos))
                scores = {n: np.concatenate([x[n][:, 0] for x in blocks]) for n in blocks[0]}
                if best is not None:  # without the videos that only look for this caption
                    mine = np.isin(videos, found.candidates(caption))
                    best.set(caption, videos[mine], record_scores(scores, weights[0])[mine])
                return scores

            return rerank(found, score_answers, weights)

    def _score_block(
        self, score: Callable, captions: Callable, block: tuple[int, int]
    ) -> ScoreBlock:
        """Scores of blocks of the videos with blocks of captions, `{name: [b c]}`."""

        def scores(videos: slice, rows: slice) -> dict[str, np.ndarray]:
            video = rows_of(self.embeddings.video, videos)
            return score(self.params, video, captions(rows), block)

        return scores

    def dense_scores(self, queries: Queries | None = None) -> dict[str, Float[np.ndarray, "b c"]]:
        """All scores of the videos by name, for small splits only.

        Args:
            queries: the captions; None for the first one of each video.
        """
        score, count = self.matching_scores, self.num_videos
        block = self.fns.pair_block(count)
        if queries is not None:
            count = len(queries.video)
            block = self.fns.pair_block(count)
            score = self._score_block(self.fns.pairs, queries.rows, block)
        videos, captions = (
            [slice(start, min(start + size, end)) for start in range(0, end, size)]
            for size, end in zip(block, (self.num_videos, count), strict=True)
        )
        rows = [[score(v, c) for c in captions] for v in videos]
        return {name: np.block([[b[name] for b in row] for row in rows]) for name in rows[0][0]}

    def progress(self, name: str, total: int, unit: str):
        """A progress bar of the main process, shown when the work takes long."""
        off = jax.process_index() > 0
        return bar_of(f"{self.split}, {name}", total, unit=unit, delay=_LONG, disable=off)

    def _packed(self, captions: Captions) -> Queries:
        """The embeddings of all captions, without their padding."""
        count, rows = len(captions.ids), self.fns.rows
        padding, pad_id = self.settings.padding, self.tokenizer.pad_id
        tokens, mask = pad_tokens(captions.ids, padding.tokens, pad_id)
        texts, scored = [tokens, mask], mask
        if captions.parts:
            tokens, scored = pad_parts(captions.parts, padding.parts, padding.part_tokens, pad_id)
            texts += [tokens, scored]
        packed = PackedCaptions(scored.sum(-1), scored.shape[-1])
        with self.progress("captions", count, "caption") as bar:
            for start in range(0, count, rows):
                block = slice(start, min(start + rows, count))
                packed.put(block, self.fns.encode_text(self.params, *(x[block] for x in texts)))
                bar.update(block.stop - start)
        return Queries(packed.rows, partial(packed.rows, states=False), captions.video)

    def _shortened(self, text: TextEmbedding) -> TextEmbedding:
        """The captions at the length of the longest: the cost of a pair grows with its tokens."""
        if not text.tokens.shape[1]:
            return text
        longest = int(text.token_mask.sum(-1).max(initial=1))
        length = bucket_length(longest, self.settings.buckets)
        return dataclasses.replace(
            text, tokens=text.tokens[:, :length], token_mask=text.token_mask[:, :length]
        )


def _room(rows: int, like: np.ndarray) -> np.ndarray:
    """An array for more rows like these; zeros, whose memory is taken when they are written."""
    return np.zeros((rows, *like.shape[1:]), like.dtype)


def _put(rows: slice, array: np.ndarray, values: np.ndarray) -> None:
    array[rows] = values


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """One entry of `evaluator.EVALUATIONS`."""

    # The metrics of a split by name; none where the split has nothing to measure.
    fn: Callable[[EvalContext], dict[str, float]]
    title: str  # of its section in the report
    text: str = ""  # below the title: how to read the metrics
    # Names of metrics and their labels in the report's table and curves, in this order. A label
    # that ends in % has the metric times 100. Metrics without a label are only in metrics.jsonl.
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)
    applies: Callable[[Config], bool] = lambda config: True  # to the models of this config
    # Left out of the validations in training, which are many and have to be short.
    final_only: bool = False
