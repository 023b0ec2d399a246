"""Re-ranking: a cheap score finds the best answers of each query, pair scores put them in order.

    found = shortlist(first_stage, num_videos, video_of_caption, blocks=(64, 64))
    ranks = rerank(found, score_answers, blend_weights)

Where masks depend on frames, the score of a pair costs thousands of times a cosine, so a large
gallery is searched in two stages. The candidates of a query are the answers that score above its
(k + 1)-th best one in the first stage: k of them, or fewer when ties reach over the k-th place,
because answers that tie are taken or left together. Candidates stay above all other answers and are
ordered among themselves by their pair scores; the others keep their ranks. Right answers are
treated like wrong ones. A gallery of at most k answers is ranked by pair scores alone.

Captions that search and videos that search have candidates of their own. The memory is that of
k + 1 answers a query.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from mova_jax.evaluation.embedding_cache import observed
from mova_jax.evaluation.query_ranks import QueryRanks, choose_weight
from mova_jax.evaluation.ranks import Ranks, RanksBothDirections, ScoreBlock, blockwise_ranks

RERANKED = 32  # k, candidates of a query

# Scores by name of one caption with some videos.
ScoreAnswers = Callable[[int, Int[np.ndarray, "v"]], Mapping[str, Float[np.ndarray, "v"]]]


class Candidates(NamedTuple):
    """The answers of each query that are ranked again, among its k + 1 best ones."""

    pairs: Int[np.ndarray, "q k+1"]  # caption * number of videos + video
    valid: Bool[np.ndarray, "q k+1"]  # whether it is a candidate
    right: Bool[np.ndarray, "q k+1"]  # whether it is a right answer


class Shortlist(NamedTuple):
    """The first stage: its ranks, and the candidates of both directions."""

    ranks: dict[str, RanksBothDirections]  # by the scores `global` and `first`
    t2v: Candidates
    v2t: Candidates
    num_videos: int
    video_of_caption: Int[np.ndarray, "c"]

    def candidates(self, caption: int) -> Int[np.ndarray, "n"]:
        """The videos that are ranked again for a caption."""
        return self.t2v.pairs[caption][self.t2v.valid[caption]] % self.num_videos

    @property
    def pairs(self) -> Int[np.ndarray, "n"]:
        """All pairs that are scored again, in the order of captions."""
        return np.unique(np.concatenate([one.pairs[one.valid] for one in (self.t2v, self.v2t)]))


class BestAnswers:
    """The best answers of each query, from blocks of scores in any order."""

    def __init__(self, queries: int, count: int):
        """Has room for `count` answers of each query."""
        self.scores = np.full((queries, count), -np.inf, np.float32)
        self.answers = np.zeros((queries, count), np.int64)

    def add(self, queries: slice, answers: slice, scores: Float[np.ndarray, "q a"]) -> None:
        """Compares new answers of some queries with those found so far."""
        ids = np.broadcast_to(np.arange(answers.start, answers.stop), scores.shape)
        scores = np.concatenate([self.scores[queries], scores], axis=1)
        ids = np.concatenate([self.answers[queries], ids], axis=1)
        count = self.scores.shape[1]
        best = np.argpartition(scores, -count, axis=1)[:, -count:]
        self.scores[queries] = np.take_along_axis(scores, best, axis=1)
        self.answers[queries] = np.take_along_axis(ids, best, axis=1)

    def set(
        self, query: int, answers: Int[np.ndarray, "a"], scores: Float[np.ndarray, "a"]
    ) -> None:
        """The answers of one query, in place of those found so far."""
        best = np.argsort(-scores, kind="stable")[: self.scores.shape[1]]
        self.scores[query] = -np.inf
        self.scores[query, : len(best)] = scores[best]
        self.answers[query, : len(best)] = answers[best]


def shortlist(
    first_stage: ScoreBlock,
    num_videos: int,
    video_of_caption: Int[np.ndarray, "c"],
    *,
    k: int,
    blocks: tuple[int, int],
) -> Shortlist:
    """Ranks all queries by the first stage and finds their candidates.

    Args:
        first_stage: `(video_slice, caption_slice) -> {'global': [b c], 'first': [b c]}`; `first`
            chooses the candidates and ranks the other answers.
        num_videos: size of the video gallery.
        video_of_caption: i32[c], the video that each caption belongs to.
        k: most candidates of a query.
        blocks: videos and captions in a block.

    Raises:
        ValueError, FloatingPointError: see `blockwise_ranks`.
    """
    owner = np.asarray(video_of_caption)
    videos, captions = BestAnswers(len(owner), k + 1), BestAnswers(num_videos, k + 1)

    def keep(rows: slice, columns: slice, scores: Mapping[str, np.ndarray]) -> None:
        first = np.asarray(scores["first"])
        videos.add(columns, rows, first.T)
        captions.add(rows, columns, first)

    ranks = blockwise_ranks(observed(first_stage, keep), num_videos, owner, *blocks)
    searching = np.unique(owner)  # a video without a caption is no query

    def candidates(pairs: np.ndarray, scores: np.ndarray) -> Candidates:
        valid = scores > scores.min(axis=1, keepdims=True)
        caption, video = np.divmod(pairs, num_videos)
        return Candidates(pairs, valid, owner[caption] == video)

    t2v = np.arange(len(owner))[:, None] * num_videos + videos.answers
    v2t = captions.answers[searching] * num_videos + searching[:, None]
    return Shortlist(
        ranks,
        candidates(t2v, videos.scores),
        candidates(v2t, captions.scores[searching]),
        num_videos,
        owner,
    )


def rerank(
    found: Shortlist, score_answers: ScoreAnswers, blend_weights: Sequence[float]
) -> QueryRanks:
    """Orders the candidates of each query by their pair scores, and by the blends.

    Args:
        found: by `shortlist`.
        score_answers: `(caption, videos) -> {'global': [v], 'modular': [v]}`.
        blend_weights: see `rank_queries`.

    Raises:
        FloatingPointError: for a score that is not finite.
    """
    pairs = found.pairs
    captions, videos = np.divmod(pairs, found.num_videos)
    starts = np.flatnonzero(np.diff(captions, prepend=-1))
    scores = {name: np.zeros(len(pairs), np.float32) for name in ("global", "modular")}
    for rows in np.split(np.arange(len(pairs)), starts)[1:]:
        scored = score_answers(int(captions[rows[0]]), videos[rows])
        for name, values in scores.items():
            values[rows] = scored[name]
    for name, values in scores.items():
        if not (finite := np.isfinite(values)).all():
            bad = int(np.argmin(finite))
            raise FloatingPointError(
                f"score '{name}' is {values[bad]} for video {videos[bad]} and caption "
                f"{captions[bad]} ({(~finite).sum()} such of {len(values)} candidates)"
            )

    def both(values: np.ndarray) -> RanksBothDirections:
        first = found.ranks["first"]
        return RanksBothDirections(
            _reranked(first.t2v, found.t2v, pairs, values),
            _reranked(first.v2t, found.v2t, pairs, values),
        )

    blends = {w: both(scores["global"] + np.float32(w) * scores["modular"]) for w in blend_weights}
    weight = choose_weight(blends)
    by_score = {"global": found.ranks["global"], "modular": both(scores["modular"])}
    k = found.t2v.pairs.shape[1] - 1
    return QueryRanks(by_score | {"blend": blends[weight]}, found.video_of_caption, weight, k)


def _reranked(first: Ranks, found: Candidates, pairs: np.ndarray, scores: np.ndarray) -> Ranks:
    """Ranks by the scores of pairs, for queries with a right answer among the candidates."""
    at = np.searchsorted(pairs, found.pairs)
    scores = np.where(found.valid, np.append(scores, -np.inf)[at], -np.inf)
    right = np.where(found.right, scores, -np.inf).max(axis=1, keepdims=True)
    wrong = found.valid & ~found.right
    above = (wrong & (scores > right)).sum(1) + 0.5 * (wrong & (scores == right)).sum(1)
    return Ranks(np.where(np.isfinite(right[:, 0]), 1 + above, first.values), first.gallery)
