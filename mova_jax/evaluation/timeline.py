"""The score of each sentence over the frames of its video: what the report draws of a video."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from mova_jax.data.pipeline.dataset import eval_batches, record_ids
from mova_jax.evaluation.context import EvalContext
from mova_jax.evaluation.masks import mean_of_parts


class Timeline(NamedTuple):
    """A video, its sentences and their scores on its valid frames."""

    video_id: str
    frames: UInt8[np.ndarray, "f H W 3"]
    timestamps: Float[np.ndarray, "f"]  # seconds
    sentences: tuple[str, ...]
    scores: Float[np.ndarray, "s f"]  # of each sentence on each frame
    windows: tuple[Float[np.ndarray, "w 2"], ...]  # of each sentence, seconds; none when untimed
    # mᵀ and mⱽ for the video's own caption; the mean over the parts of a divided one.
    text_concepts: Float[np.ndarray, "f d"] | None = None
    video_concepts: Float[np.ndarray, "f d"] | None = None


def timelines(context: EvalContext) -> list[Timeline]:
    """The timelines of all videos of a context that have a sentence; their frames are in memory."""
    folder, split, count = context.folder, context.split, context.num_videos
    masks, text = context.matching_masks, context.embeddings.text
    if masks is not None:
        text_concepts, video_concepts = (
            mean_of_parts(mask, text) for mask in (masks.text, masks.video)
        )
    scored = context.sentence_cosines(timed_only=False)
    arrays = next(eval_batches(folder, split, context.tokenizer, context.settings, count, count))
    found = []
    for row, name in enumerate(record_ids(folder, split, arrays["video_id"])):
        valid = arrays["frame_mask"][row]
        mine = [one for one in scored if one.sentence.video == row]
        if not mine:
            continue
        found.append(
            Timeline(
                video_id=name,
                frames=arrays["frames"][row][valid],
                timestamps=arrays["timestamps"][row][valid],
                sentences=tuple(one.sentence.text for one in mine),
                scores=np.stack([one.modular[valid] for one in mine]),
                windows=tuple(one.sentence.windows for one in mine),
                text_concepts=None if masks is None else text_concepts[row][valid],
                video_concepts=None if masks is None else video_concepts[row][valid],
            )
        )
    return found
