"""What the report draws of one video: made by the evaluator, which draws nothing itself."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8


class Timeline(NamedTuple):
    """A video, its sentences, and what the model says of each frame; valid frames only."""

    video_id: str
    frames: UInt8[np.ndarray, "f H W 3"]
    timestamps: Float[np.ndarray, "f"]  # seconds
    sentences: tuple[str, ...]
    scores: Float[np.ndarray, "s f"]  # of each sentence on each frame
    spans: Float[np.ndarray, "s 2"]  # seconds, -1 when untimed
    text_concepts: Float[np.ndarray, "f d"] | None = None  # mᵀ for the video's own caption
    video_concepts: Float[np.ndarray, "f d"] | None = None  # mⱽ
