"""Does a frame know its sentence? The other way round than grounding: frames search sentences.

The queries are the sampled frames within a window of exactly one timed sentence of their video; the
answers are the timed sentences of that video, of which there are at least two.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from mova_jax.evaluation.context import EvalContext, Evaluation
from mova_jax.evaluation.grounding import frames_within


class VideoSentences(NamedTuple):
    """The timed sentences of a video on its valid frames."""

    scores: Float[np.ndarray, "s f"]
    timestamps: Float[np.ndarray, "f"]  # seconds
    windows: list[Float[np.ndarray, "w 2"]]  # of each sentence, seconds


def sentence_of_frame(context: EvalContext) -> dict[str, float]:
    """How often the sentence that holds at a frame is the one that the frame scores highest.

    Returns:
        `sentence_of_frame/frame/accuracy` by plain cosines and, with masks,
        `sentence_of_frame/modular/accuracy`; `sentence_of_frame/chance`, the mean over frames of
        1 / number of sentences; `sentence_of_frame/frames`, how many were counted. Empty without
        such frames.
    """
    metrics = {}
    for kind in ("frame", "modular") if context.config.model.has_masks else ("frame",):
        found = frame_accuracy(_videos(context, kind))
        if found is None:
            return {}
        accuracy, chance, frames = found
        metrics[f"sentence_of_frame/{kind}/accuracy"] = accuracy
    return metrics | {"sentence_of_frame/chance": chance, "sentence_of_frame/frames": float(frames)}


def frame_accuracy(videos: Iterable[VideoSentences]) -> tuple[float, float, int] | None:
    """Accuracy, its chance, and the number of frames counted; None without any.

    Sentences that tie for the highest score of a frame share its count evenly.
    """
    hits, chances = [], []
    for scores, timestamps, windows in videos:
        inside = np.array([frames_within(spans, timestamps).any(0) for spans in windows])
        counted = inside.sum(0) == 1
        if len(windows) < 2 or not counted.any():
            continue
        best = scores == scores.max(0)
        hits.append(((best & inside).sum(0) / best.sum(0))[counted])
        chances.append(np.full(int(counted.sum()), 1 / len(windows)))
    if not hits:
        return None
    hit, chance = np.concatenate(hits), np.concatenate(chances)
    return float(hit.mean()), float(chance.mean()), len(hit)


def _videos(context: EvalContext, kind: str) -> Iterator[VideoSentences]:
    """The videos that have timed sentences, with scores of a kind."""
    of_video: dict[int, list] = {}
    for cosines in context.timed_sentences:
        of_video.setdefault(cosines.sentence.video, []).append(cosines)
    for video, found in of_video.items():
        valid = context.embeddings.video.frame_mask[video]
        yield VideoSentences(
            np.stack([getattr(cosines, kind) for cosines in found])[:, valid],
            context.embeddings.timestamps[video][valid],
            [cosines.sentence.windows for cosines in found],
        )


EVALUATION = Evaluation(
    sentence_of_frame,
    "Sentences of frames",
    "Each sampled frame that lies in the span of exactly one timed sentence of its video looks for "
    "that sentence among the timed sentences of the video, by plain cosine and, for models with "
    "masks, by the cosine under the masks of frame and sentence. Chance is a random sentence.",
    labels={
        "sentence_of_frame/frame/accuracy": "own sentence first, plain cosine, %",
        "sentence_of_frame/modular/accuracy": "own sentence first, modular, %",
        "sentence_of_frame/chance": "a random sentence, %",
    },
)
