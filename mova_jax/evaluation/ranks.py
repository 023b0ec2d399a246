"""Retrieval ranks counted block by block, with a stated rule for ties.

In: a function that scores a block of videos against a block of captions (one or several named
scores at once), and which video each caption belongs to. Out: for each named score the rank of
every query, both ways. The matrix of all scores is never held; what is kept beside the counts is
bounded by `KEPT_SCORES`.

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

KEPT_SCORES = 2**24  # scores of the first pass that are kept for the second: 64 MB of float32


class Ranks(NamedTuple):
    """The ranks of one way of searching: `values[q]` from 1 (best), among `gallery` answers."""

    values: Float[np.ndarray, "q"]
    gallery: int


class RanksBothDirections(NamedTuple):
    """Captions that search videos, and videos that search captions."""

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
    wrong pairs with them, telling right from wrong by index. One pass would not do: the right
    answer of a query may come in a later block than its rivals. And the score of a right pair
    must not be computed on the side (say, row by row): another order of summation differs in the
    last bit, which turns a tie into a win or a loss. So both passes call `score_block` on the same
    slices. The first pass visits only blocks that hold a right pair, which are few when the
    captions stand in the order of their videos, and keeps them, up to `KEPT_SCORES`.

    Args:
      score_block: `(video_slice, caption_slice) -> {name: scores [b c]}`, higher is better; the
        same names for every block, float32 (bfloat16 makes ties that are none).
      num_videos: size of the video gallery.
      video_of_caption: i32[c], the video each caption belongs to. A video may have several
        captions: each is a query of its own, and as an answer to its video the best one counts
        while its siblings are left out. A video without a caption is an answer but no query.
      block_videos: videos in a block; the last block may be smaller.
      block_captions: captions in a block.

    Returns:
      `{name: RanksBothDirections}`; `t2v.values` is f[c] in the order of the captions, `v2t.values`
      is in the
      order of the videos that have a caption.

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
    kept: dict[tuple[int, int], dict[str, np.ndarray]] = {}
    best_t2v: dict[str, np.ndarray] = {}
    best_v2t: dict[str, np.ndarray] = {}
    room = KEPT_SCORES

    for videos, captions in _blocks(num_videos, len(owner), block_videos, block_captions):
        rows, columns = _right_pairs(owner, videos, captions)
        if not len(rows):
            continue
        scores = _checked_scores(score_block, videos, captions)
        for name, block in scores.items():
            right = block[rows, columns]
            t2v = best_t2v.setdefault(name, np.zeros(len(owner), block.dtype))
            v2t = best_v2t.setdefault(name, np.full(num_videos, -np.inf, block.dtype))
            t2v[captions.start + columns] = right
            np.maximum.at(v2t, videos.start + rows, right)
        size = sum(block.size for block in scores.values())
        if size <= room:
            kept[videos.start, captions.start] = scores
            room -= size

    above = {name: (np.zeros(len(owner)), np.zeros(num_videos)) for name in best_t2v}
    for videos, captions in _blocks(num_videos, len(owner), block_videos, block_captions):
        scores = kept.pop((videos.start, captions.start), None)
        if scores is None:
            scores = _checked_scores(score_block, videos, captions)
        if scores.keys() != best_t2v.keys():
            raise ValueError(
                f"score_block gave the names {sorted(scores)} for videos {_span(videos)} and "
                f"captions {_span(captions)}, and {sorted(best_t2v)} before: give the same names "
                "for every block"
            )
        wrong = owner[captions][None, :] != np.arange(videos.start, videos.stop)[:, None]
        for name, block in scores.items():
            t2v, v2t = above[name]
            t2v[captions] += _above(block, best_t2v[name][captions][None, :], wrong).sum(0)
            v2t[videos] += _above(block, best_v2t[name][videos][:, None], wrong).sum(1)

    asked = np.bincount(owner, minlength=num_videos) > 0
    return {
        name: RanksBothDirections(Ranks(1 + t2v, num_videos), Ranks(1 + v2t[asked], len(owner)))
        for name, (t2v, v2t) in above.items()
    }


def summary(ranks: Ranks) -> dict[str, float]:
    """The usual figures of one way of searching.

    Returns:
      `r1`, `r5`, `r10`: percent of queries whose rank is at most 1, 5, 10; `mdr`, `mnr`: median
      and mean rank, from 1; `gallery`: number of answers searched.
    """
    values = ranks.values
    recall = {f"r{k}": 100.0 * float(np.mean(values <= k)) for k in (1, 5, 10)}
    return recall | {
        "mdr": float(np.median(values)),
        "mnr": float(np.mean(values)),
        "gallery": float(ranks.gallery),
    }


def chance(gallery: float, right: float = 1.0) -> dict[str, float]:
    """What guessing would give: the figures of `summary` expected of answers in random order.

    Args:
      gallery: number of answers.
      right: how many of them are right for a query, of which the best one counts and the others
        are left out; their mean number where it differs between queries, which is near enough.

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
) -> Iterator[tuple[slice, slice]]:
    for v in range(0, num_videos, block_videos):
        for c in range(0, num_captions, block_captions):
            yield (
                slice(v, min(v + block_videos, num_videos)),
                slice(c, min(c + block_captions, num_captions)),
            )


def _right_pairs(owner: np.ndarray, videos: slice, captions: slice) -> tuple[np.ndarray, ...]:
    """Row and column, inside the block, of every caption that meets its own video there."""
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
    """What each wrong pair adds to the rank: 1 when above the right one, 1/2 when level."""
    return wrong * ((block > right) + 0.5 * (block == right))


def _span(block: slice) -> str:
    return f"{block.start} to {block.stop - 1}"
