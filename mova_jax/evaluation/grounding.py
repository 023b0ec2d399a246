"""Does the score of a sentence over time point at the seconds that the sentence describes?

Each timed sentence is scored on every sampled frame of its video. Metrics, each with its baseline:

    hit     how often the best frame is within the true span
            (chance: a random frame)
    auc     how often a frame inside scores above one outside
            (no model: 0.5)
    miou    overlap in time of the predicted segment with the span
            (miou_whole: the whole video as the answer;
             miou_ceiling: the sampled frames within the span)

Of a sentence with several spans, a frame within any of them is right, and an overlap is that with
the span that fits best. A frame is within a span when `start <= timestamp < end`
(`frames_within`). As a segment of time, a sampled frame covers all moments that are nearer to it
than to any other sampled frame (`frame_edges`).
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from mova_jax.evaluation.context import EvalContext, Evaluation


class SentenceScores(NamedTuple):
    """One sentence on the frames of its video, and its spans in seconds."""

    scores: Float[np.ndarray, "f"]
    frame_mask: Bool[np.ndarray, "f"]
    timestamps: Float[np.ndarray, "f"]
    spans: Float[np.ndarray, "s 2"]


class Grounding(NamedTuple):
    """The metrics of one sentence, all in 0 to 1; `auc` is nan when no frame is outside."""

    hit: float
    chance: float
    auc: float
    iou: float
    iou_whole: float
    iou_ceiling: float


def grounding(context: EvalContext) -> dict[str, float]:
    """`grounding/frame/...` by plain cosines and, with masks, `grounding/modular/...`."""
    video, timestamps = context.embeddings.video, context.embeddings.timestamps
    kinds = ("frame", "modular") if context.config.model.has_masks else ("frame",)
    metrics = {}
    for kind in kinds if context.timed_sentences else ():
        found = grounding_metrics(
            SentenceScores(
                getattr(cosines, kind),
                video.frame_mask[cosines.sentence.video],
                timestamps[cosines.sentence.video],
                cosines.sentence.windows,
            )
            for cosines in context.timed_sentences
        )
        metrics |= {f"grounding/{kind}/{name}": value for name, value in found.items()}
    return metrics


EVALUATION = Evaluation(grounding, "Grounding")


def grounding_metrics(sentences: Iterable[SentenceScores]) -> dict[str, float]:
    """Averages over sentences.

    Args:
        sentences: timed or not.

    Returns:
        `sentences`, the number that counted; `left_out`, the number without a sampled frame in
        their spans; and, when any counted, the metrics of the module's docstring.
    """
    results = [ground_sentence(*sentence) for sentence in sentences]
    counted = [result for result in results if result is not None]
    metrics = {
        "sentences": float(len(counted)),
        "left_out": float(len(results) - len(counted)),
    }
    if not counted:
        return metrics
    names = ("hit", "chance", "auc", "miou", "miou_whole", "miou_ceiling")
    for name, values in zip(names, np.array(counted).T, strict=True):
        defined = values[~np.isnan(values)]
        if len(defined):
            metrics[name] = float(defined.mean())
    return metrics


def ground_sentence(
    scores: Float[np.ndarray, "f"],
    frame_mask: Bool[np.ndarray, "f"],
    timestamps: Float[np.ndarray, "f"],
    spans: Float[np.ndarray, "s 2"],
) -> Grounding | None:
    """Compares one sentence's scores with its spans; a frame within any of them is within.

    `hit`: the best frame is within; frames that tie for best share the hit evenly.
    `chance`: share of the frames that are within, which is the expected hit of a random frame.
    `auc`: probability that a frame within scores above one outside; ties count half.
    `iou`: overlap (intersection over union, in time) of the predicted segment with the span that
    it fits best. The segment is the contiguous run of frames around the best one that score at
    least halfway between the sentence's lowest and highest score; averaged over frames that tie for
    best. A constant score predicts the whole video.

    Returns:
        The metrics, or None when the spans have no sampled frame.

    Raises:
        FloatingPointError: for a score of a valid frame that is not finite.
        ValueError: for timestamps that decrease.
    """
    valid = np.asarray(frame_mask, bool)
    scores = np.asarray(scores, np.float64)[valid]
    times = np.asarray(timestamps, np.float64)[valid]
    if not np.isfinite(scores).all():
        raise FloatingPointError(
            f"{(~np.isfinite(scores)).sum()} of {len(scores)} frame scores of the sentence at "
            f"{np.asarray(spans).tolist()} s are not finite"
        )
    spans = np.reshape(spans, (-1, 2))
    each = frames_within(spans, times)
    inside = each.any(axis=0)
    if not inside.any():
        return None
    edges = frame_edges(times)
    best = scores == scores.max()
    segments = [predicted_run(scores, peak) for peak in np.flatnonzero(best)]
    shown = [np.flatnonzero(one) for one in each if one.any()]  # the frames within each span
    return Grounding(
        hit=float(inside[best].mean()),
        chance=float(inside.mean()),
        auc=_auc(scores[inside], scores[~inside]),
        iou=float(np.mean([_iou(edges[a], edges[b + 1], spans) for a, b in segments])),
        iou_whole=_iou(edges[0], edges[-1], spans),
        iou_ceiling=max(_iou(edges[one[0]], edges[one[-1] + 1], spans) for one in shown),
    )


def frames_within(
    spans: Float[np.ndarray, "s 2"], timestamps: Float[np.ndarray, "f"]
) -> Bool[np.ndarray, "s f"]:
    """Whether each frame is within each span: `start <= timestamp < end`."""
    return (spans[:, :1] <= timestamps) & (timestamps < spans[:, 1:])


def frame_edges(times: Float[np.ndarray, "f"]) -> Float[np.ndarray, "f+1"]:
    """Borders in seconds of the time that each sampled frame covers.

    Midway between neighbours; the first and the last frame reach as far outwards as inwards, but
    not below 0. A single frame covers half a second either way.

    Raises:
        ValueError: for timestamps that decrease.
    """
    times = np.asarray(times, np.float64)
    gaps = np.diff(times)
    if (gaps < 0).any():
        i = int(np.flatnonzero(gaps < 0)[0])
        raise ValueError(
            f"timestamps must not decrease: frame {i} is at {times[i]} s, frame {i + 1} at "
            f"{times[i + 1]} s"
        )
    first, last = (gaps[0], gaps[-1]) if len(gaps) else (1.0, 1.0)
    middle = times[:-1] + gaps / 2
    return np.concatenate([[max(0.0, times[0] - first / 2)], middle, [times[-1] + last / 2]])


def predicted_run(scores: Float[np.ndarray, "f"], peak: int) -> tuple[int, int]:
    """First and last frame of the contiguous run around frame `peak` above the midpoint.

    The midpoint is halfway between the lowest and the highest score; a frame that equals it
    belongs to the run.
    """
    low = np.flatnonzero(scores < (scores.min() + scores.max()) / 2)
    before, after = low[low < peak], low[low > peak]
    return (
        int(before[-1]) + 1 if len(before) else 0,
        int(after[0]) - 1 if len(after) else len(scores) - 1,
    )


def _iou(start: float, end: float, spans: np.ndarray) -> float:
    """With the span that fits best."""
    shared = np.maximum(0.0, np.minimum(end, spans[:, 1]) - np.maximum(start, spans[:, 0]))
    return float((shared / ((end - start) + np.diff(spans)[:, 0] - shared)).max())


def _auc(inside: np.ndarray, outside: np.ndarray) -> float:
    if not len(outside):
        return float("nan")
    above = inside[:, None] > outside[None, :]
    level = inside[:, None] == outside[None, :]
    return float((above + 0.5 * level).mean())
