"""Retrieval ranks counted block by block, with a stated rule for ties.

In: a function that scores a block of videos against a block of captions (one or several named
scores at once), and the video that each caption belongs to. Out: for each named score the rank of
every query, in both directions. The matrix of all scores is never held; the scores that are kept
between the two passes are bounded by `KEPT_SCORES`.

    rank = 1 + number of wrong answers that score strictly higher + half of those that tie

so a query that ties with one wrong answer has rank 1.5 and is no hit at 1: a model that gives
every pair the same score ends in the middle of the gallery, not at its top.

    ranks = blockwise_ranks(score_block, num_videos, video_of_caption, 128, 128)
    summary(ranks['global'].t2v)   # {'r1': ..., 'r5': ..., 'r10': ..., 'mdr': ..., 'mnr': ...}
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

ScoreBlock = Callable[[slice, slice], Mapping[str, Shaped[np.ndarray, "b c"]]]

Block = tuple[slice, slice]  # of videos, of captions
KeptScores = dict[tuple[int, int], Mapping[str, np.ndarray]]  # of blocks, by their first rows
PerQuery = tuple[np.ndarray, np.ndarray]  # a number of each caption, a number of each video

KEPT_SCORES = 2**24  # scores of the first pass that are kept for the second: 64 MB of float32


class Ranks(NamedTuple):
    """The ranks of one direction of search: `values[q]` from 1 (best), among `gallery` answers."""

    values: Float[np.ndarray, "q"]
    gallery: int


class RanksBothDirections(NamedTuple):
    """Captions that search videos (t2v), and videos that search captions (v2t)."""

    t2v: Ranks
    v2t: Ranks


def blockwise_ranks(
    score_block: ScoreBlock,
    num_videos: int,
    video_of_caption: Int[np.ndarray, "c"],
    block_videos: int,
    block_captions: int,
) -> dict[str, RanksBothDirections]:
    """Ranks every caption among all videos, and every video among all captions.

    Two passes over blocks. The first reads the scores of the right pairs, the second compares all
    wrong pairs with them. One pass is not enough: the right answer of a query may come in a later
    block than its rivals. And the score of a right pair must not be computed separately (say, row
    by row): another order of summation differs in the last bit, which turns a tie into a win or a
    loss. So both passes call `score_block` on the same slices. The first pass visits only blocks
    with a right pair, which are few when the captions are in the order of their videos, and keeps
    their scores, up to `KEPT_SCORES`.

    Args:
        score_block: `(video_slice, caption_slice) -> {name: scores [b c]}`, higher is better; the
            same names for every block, float32 (bfloat16 makes ties that are none).
        num_videos: size of the video gallery.
        video_of_caption: i32[c], the video that each caption belongs to. A video may have several
            captions: each is a query of its own; as answers to their video, the best one counts and
            the others are left out. A video without a caption is an answer but no query.
        block_videos: videos in a block; the last block may be smaller.
        block_captions: captions in a block.

    Returns:
        `{name: RanksBothDirections}`; `t2v.values` is f[c] in the order of the captions,
        `v2t.values` is in the order of the videos that have a caption.

    Raises:
        ValueError: for an empty gallery, an index out of range, or a block of another shape.
        FloatingPointError: for a score that is not finite, with its name and pair.
    """
    owner = _checked_owners(num_videos, video_of_caption)
    if min(block_videos, block_captions) < 1:
        raise ValueError(
            f"block sizes are {block_videos} videos and {block_captions} captions, "
            "expected at least 1 each"
        )
    blocks = list(_blocks(num_videos, len(owner), block_videos, block_captions))
    right, kept = _right_scores(score_block, owner, num_videos, blocks)
    above = _wrong_above(score_block, owner, right, blocks, kept)
    has_caption = np.bincount(owner, minlength=num_videos) > 0
    return {
        name: RanksBothDirections(
            Ranks(1 + t2v, num_videos), Ranks(1 + v2t[has_caption], len(owner))
        )
        for name, (t2v, v2t) in above.items()
    }


def _right_scores(
    score_block: ScoreBlock, owner: np.ndarray, num_videos: int, blocks: list[Block]
) -> tuple[dict[str, PerQuery], KeptScores]:
    """The first pass: by name, each caption's score with its video and each video's best one.

    Returns:
        The scores of the right pairs, and all scores of the first blocks that were visited.
    """
    right: dict[str, PerQuery] = {}
    kept, room = {}, KEPT_SCORES
    for videos, captions in blocks:
        rows, columns = _right_pairs(owner, videos, captions)
        if not len(rows):
            continue
        scores = _checked_scores(score_block, videos, captions)
        for name, block in scores.items():
            if name not in right:
                lowest = np.full(num_videos, -np.inf, block.dtype)
                right[name] = np.zeros(len(owner), block.dtype), lowest
            t2v, v2t = right[name]
            t2v[captions.start + columns] = block[rows, columns]
            np.maximum.at(v2t, videos.start + rows, block[rows, columns])
        size = sum(block.size for block in scores.values())
        if size <= room:
            kept[videos.start, captions.start] = scores
            room -= size
    return right, kept


def _wrong_above(
    score_block: ScoreBlock,
    owner: np.ndarray,
    right: dict[str, PerQuery],
    blocks: list[Block],
    kept: KeptScores,
) -> dict[str, PerQuery]:
    """The second pass: by name, how many wrong answers rank above each query's right one."""
    above = {name: (np.zeros(len(t2v)), np.zeros(len(v2t))) for name, (t2v, v2t) in right.items()}
    for videos, captions in blocks:
        scores = kept.pop((videos.start, captions.start), None)
        if scores is None:
            scores = _checked_scores(score_block, videos, captions)
        if scores.keys() != right.keys():
            raise ValueError(
                f"score_block gave the names {sorted(scores)} for videos {_span(videos)} and "
                f"captions {_span(captions)}, and {sorted(right)} before: give the same names "
                "for every block"
            )
        wrong = owner[captions][None, :] != np.arange(videos.start, videos.stop)[:, None]
        for name, block in scores.items():
            t2v, v2t = right[name]
            above[name][0][captions] += _above(block, t2v[captions][None, :], wrong).sum(0)
            above[name][1][videos] += _above(block, v2t[videos][:, None], wrong).sum(1)
    return above


def summary(ranks: Ranks) -> dict[str, float]:
    """The usual metrics of one direction of search.

    Returns:
        `r1`, `r5`, `r10`: percent of queries whose rank is at most 1, 5, 10; `mdr`, `mnr`: median
        and mean rank, from 1.
    """
    values = ranks.values
    recall = {f"r{k}": 100.0 * float(np.mean(values <= k)) for k in (1, 5, 10)}
    return recall | {"mdr": float(np.median(values)), "mnr": float(np.mean(values))}


def chance(gallery: float, right: float = 1.0) -> dict[str, float]:
    """The expected metrics of `summary` for answers in random order.

    Args:
        gallery: number of answers.
        right: how many of them are right for a query, of which the best one counts and the others
            are left out; the mean where that differs between queries, which is close enough.

    Returns:
        `r1`, `r5`, `r10` in percent, `mdr`, `mnr`.
    """
    wrong = gallery - right
    # The rank is over k when the first k of the order are all wrong.
    k = np.arange(max(10, math.ceil(wrong) + 1))
    all_wrong = np.cumprod(np.clip((wrong - k) / np.maximum(gallery - k, 1), 0, 1))
    rest = all_wrong - 0.5
    median = (np.argmax(rest <= 1e-9) + np.argmax(rest < -1e-9)) / 2 + 1
    recall = {f"r{k}": 100.0 * (1 - float(all_wrong[k - 1])) for k in (1, 5, 10)}
    return recall | {"mdr": float(median), "mnr": 1 + wrong / (right + 1)}


def _checked_owners(num_videos: int, video_of_caption: np.ndarray) -> np.ndarray:
    owner = np.asarray(video_of_caption)
    if owner.ndim != 1 or not len(owner) or not np.issubdtype(owner.dtype, np.integer):
        raise ValueError(
            f"video_of_caption is {owner.dtype}{list(owner.shape)}, expected a non-empty list of "
            "integers, one a caption"
        )
    if owner.min() < 0 or owner.max() >= num_videos:
        raise ValueError(
            f"video_of_caption reaches from {owner.min()} to {owner.max()}, expected 0 to "
            f"{num_videos - 1}: leave out the rows that only fill up a batch"
        )
    return owner


def _blocks(
    num_videos: int, num_captions: int, block_videos: int, block_captions: int
) -> Iterator[Block]:
    for v in range(0, num_videos, block_videos):
        for c in range(0, num_captions, block_captions):
            yield (
                slice(v, min(v + block_videos, num_videos)),
                slice(c, min(c + block_captions, num_captions)),
            )


def _right_pairs(owner: np.ndarray, videos: slice, captions: slice) -> tuple[np.ndarray, ...]:
    """Row and column, inside the block, of each pair of a caption and its own video."""
    rows = owner[captions] - videos.start
    (columns,) = np.nonzero((rows >= 0) & (rows < videos.stop - videos.start))
    return rows[columns], columns


def _checked_scores(
    score_block: ScoreBlock, videos: slice, captions: slice
) -> dict[str, np.ndarray]:
    expected = (videos.stop - videos.start, captions.stop - captions.start)
    scores = {name: np.asarray(block) for name, block in score_block(videos, captions).items()}
    for name, block in scores.items():
        if block.shape != expected:
            raise ValueError(
                f"score '{name}' has shape {block.shape} for videos {_span(videos)} and captions "
                f"{_span(captions)}, expected {expected}"
            )
        finite = np.isfinite(block)
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            raise FloatingPointError(
                f"score '{name}' is {block[row, column]} for video {videos.start + row} and "
                f"caption {captions.start + column} ({(~finite).sum()} such in this block of "
                f"{block.size}): look for a loss that is not finite, or a frame or text of "
                "length zero"
            )
    return scores


def _above(block: np.ndarray, right: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """The rank that each wrong pair adds: 1 when above the right one, 1/2 when it ties."""
    return wrong * ((block > right) + 0.5 * (block == right))


def _span(block: slice) -> str:
    return f"{block.start} to {block.stop - 1}"
