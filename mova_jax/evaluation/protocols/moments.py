"""Moments of a video that answer to a sentence, proposed from its score on each frame.

How moments are proposed. The score of the sentence on the frames of a video is cut at
`CUTS` = 0.3, 0.5 and 0.7 of the way from its lowest to its highest value. Each run of consecutive
frames that reach a cut is a proposal; it lasts from where its first frame begins to stand for the
video to where its last one ends (`frame_edges`). A constant score proposes the whole video.

How they are scored. The score of a proposal is the mean score of its frames. The best one is
kept, proposals that overlap it with an IoU above 0.5 are dropped, and so on (non-maximum
suppression), until 5 are kept.

Cuts and score were chosen on the validation split of Storyboard (754 sentences, 32 frames), where
the first of these moments has an IoU of 0.5 for 91.4 % of the sentences, the run around the best
frame that grounding takes (`predicted_run`) for 89.7 %.

    moments = propose(scores, frame_mask, edges)      # of n sentences, each on frames of a video
    iou_with(moments, windows)                        # [n m] with the best of each one's windows
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from mova_jax.evaluation.grounding import frame_edges

CUTS = (0.3, 0.5, 0.7)
KEPT = 5  # moments of a sentence and a video
OVERLAP = 0.5  # highest IoU of two moments that are both kept


class Moments(NamedTuple):
    """The moments of n sentences, the best one first; a score of -inf where there is none."""

    start: Float[np.ndarray, "n m"]  # seconds
    end: Float[np.ndarray, "n m"]  # seconds
    score: Float[np.ndarray, "n m"]


def propose(
    scores: Float[np.ndarray, "n f"],
    frame_mask: Bool[np.ndarray, "n f"],
    edges: Float[np.ndarray, "n f+1"],
) -> Moments:
    """The moments of n curves; see the docstring of the module.

    Args:
        scores: of each sentence on the frames of its video.
        frame_mask: valid frames, which come first; at least one in a row.
        edges: seconds, see `padded_edges`.

    Raises:
        FloatingPointError: for a score of a valid frame that is not finite.
    """
    scores = np.where(frame_mask, np.asarray(scores, np.float64), 0.0)
    if not (finite := np.isfinite(scores)).all():
        raise FloatingPointError(f"{(~finite).sum()} scores of frames are not finite")
    low = np.where(frame_mask, scores, np.inf).min(axis=1, keepdims=True)
    high = np.where(frame_mask, scores, -np.inf).max(axis=1, keepdims=True)
    cuts = low + np.array(CUTS) * (high - low)
    reached = (scores[:, None] >= cuts[..., None]) & frame_mask[:, None]
    # A border of False on both sides: where it turns True a run starts, where False it has ended.
    turns = np.diff(np.pad(reached, ((0, 0), (0, 0), (1, 1))).astype(np.int8), axis=-1)
    row, _, first = np.nonzero(turns == 1)
    stop = np.nonzero(turns == -1)[2]  # of the same runs: both are in the order of rows and cuts
    sums = np.pad(np.cumsum(scores, axis=1), ((0, 0), (1, 0)))
    mean = (sums[row, stop] - sums[row, first]) / (stop - first)
    start, end = edges[row, first], edges[row, stop]
    order = np.lexsort((end, start, -mean, row))
    return _suppressed(*_by_row(len(scores), *(x[order] for x in (row, start, end, mean))))


def padded_edges(
    timestamps: Float[np.ndarray, "b f"], frame_mask: Bool[np.ndarray, "b f"]
) -> Float[np.ndarray, "b f+1"]:
    """The borders of frames (`frame_edges`) of several videos; the last one is repeated."""
    edges = np.zeros((len(timestamps), timestamps.shape[1] + 1))
    for row, times, valid in zip(edges, timestamps, frame_mask, strict=True):
        found = frame_edges(times[valid])
        row[: len(found)], row[len(found) :] = found, found[-1]
    return edges


def iou(
    start: np.ndarray, end: np.ndarray, other_start: np.ndarray, other_end: np.ndarray
) -> np.ndarray:
    """Intersection over union of spans of time, 0 to 1; arrays broadcast."""
    shared = np.maximum(0.0, np.minimum(end, other_end) - np.maximum(start, other_start))
    union = (end - start) + (other_end - other_start) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def iou_with(
    moments: Moments, windows: Sequence[Float[np.ndarray, "w 2"]]
) -> Float[np.ndarray, "n m"]:
    """The IoU of each moment with the window of its sentence that it fits best; 0 for none."""
    found = np.zeros(moments.score.shape)
    rows = zip(found, moments.start, moments.end, moments.score, windows, strict=True)
    for row, start, end, score, spans in rows:
        best = iou(start[:, None], end[:, None], spans[:, 0], spans[:, 1]).max(axis=1)
        row[:] = np.where(np.isfinite(score), best, 0.0)
    return found


def _by_row(rows: int, row: np.ndarray, *values: np.ndarray) -> list[np.ndarray]:
    """Values in the order of their rows as arrays `[rows most]`, -inf where a row has fewer."""
    counts = np.bincount(row, minlength=rows)
    column = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    arrays = [np.full((rows, counts.max(initial=1)), -np.inf) for _ in values]
    for array, found in zip(arrays, values, strict=True):
        array[row, column] = found
    return arrays


def _suppressed(start: np.ndarray, end: np.ndarray, score: np.ndarray) -> Moments:
    """Non-maximum suppression of all rows at once; proposals `[n p]`, -inf where there is none."""
    start, end = (np.where(np.isfinite(score), x, 0.0) for x in (start, end))
    kept = np.full((3, len(score), KEPT), -np.inf)
    kept[:2] = 0.0
    for place in range(KEPT):
        best = score.argmax(axis=1)[:, None]  # of equal ones the first, as they were sorted
        chosen = [np.take_along_axis(x, best, axis=1) for x in (start, end, score)]
        kept[:, :, place] = np.array(chosen)[..., 0]
        overlaps = iou(start, end, chosen[0], chosen[1]) > OVERLAP
        np.put_along_axis(overlaps, best, True, axis=1)
        score = np.where(overlaps, -np.inf, score)
    return Moments(*kept)
