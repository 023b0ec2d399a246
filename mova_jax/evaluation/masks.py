"""The open share of the masks of true pairs (docs/method.md, 5), also by what a frame shows."""

import numpy as np
from jaxtyping import Bool, Float

from mova_jax.data.sources import open_source
from mova_jax.data.storyboard.plan import unnamed_events
from mova_jax.evaluation.context import EvalContext, Evaluation
from mova_jax.evaluation.grounding import frames_within
from mova_jax.typing import TextEmbedding


def mask_densities(context: EvalContext) -> dict[str, float]:
    """Mean over valid frames of the share of each mask that is open, 0 to 1.

    Returns:
        `text_mask_density` and `video_mask_density`, of all frames; and of the frames of each
        group of `frames_by_event`, such as `text_mask_density/named`.
    """
    video, text = context.embeddings.video, context.embeddings.text
    valid, shares = video.frame_mask, context.fns.matching_densities(context.params, video, text)
    densities = {name: mean_of_parts(share, text) for name, share in shares.items()}
    groups = {name: density[valid] for name, density in densities.items()}
    for group, frames in frames_by_event(context).items():
        groups |= {f"{name}/{group}": density[frames] for name, density in densities.items()}
    return {name: float(values.mean()) for name, values in groups.items() if values.size}


def mean_of_parts(values: Float[np.ndarray, "b *p f"], text: TextEmbedding) -> np.ndarray:
    """Values of each frame `[b f ...]`: of divided captions, the mean over their valid parts."""
    if text.parts is None:
        return values
    valid = text.parts.token_mask.any(-1)
    valid = valid.reshape(*valid.shape, *(1,) * (values.ndim - 2))
    return np.mean(values, axis=1, where=valid)


def frames_by_event(context: EvalContext) -> dict[str, Bool[np.ndarray, "b f"]]:
    """The valid frames by what they show.

    Returns:
        `named`: frames within a timed sentence of their video. The others are in `unnamed`, events
        that no sentence names, and `gap`, where nothing happens; or all in `other`, for data that
        do not say what the captions leave out. Empty when no sentence has a time.
    """
    valid, times = context.embeddings.video.frame_mask, context.embeddings.timestamps
    named = np.zeros_like(valid)
    for sentence in (cosines.sentence for cosines in context.timed_sentences):
        named[sentence.video] |= frames_within(sentence.windows, times[sentence.video]).any(0)
    if not named.any():
        return {}
    groups = {"named": valid & named}
    unnamed = _unnamed(context)
    if unnamed is None:
        return groups | {"other": valid & ~named}
    return groups | {"unnamed": valid & unnamed & ~named, "gap": valid & ~unnamed & ~named}


def _unnamed(context: EvalContext) -> Bool[np.ndarray, "b f"] | None:
    """Frames within an event that no caption names; None for data that do not know of any."""
    times = context.embeddings.timestamps
    found = np.zeros(times.shape, bool)
    source = open_source(context.folder, context.split)
    for video in range(context.num_videos):
        if not (truth := source[video].truth):
            return None
        spans = np.reshape(unnamed_events(truth), (-1, 2))
        found[video] = frames_within(spans, times[video]).any(0)
    return found


EVALUATION = Evaluation(
    mask_densities,
    "Concept masks",
    labels={
        "text_mask_density": "mᵀ open, %",
        "text_mask_density/named": "mᵀ in named events, %",
        "text_mask_density/unnamed": "mᵀ in unnamed events, %",
        "text_mask_density/gap": "mᵀ in gaps, %",
        "text_mask_density/other": "mᵀ in other frames, %",
        "video_mask_density": "mⱽ open, %",
        "video_mask_density/named": "mⱽ in named events, %",
        "video_mask_density/unnamed": "mⱽ in unnamed events, %",
        "video_mask_density/gap": "mⱽ in gaps, %",
        "video_mask_density/other": "mⱽ in other frames, %",
    },
    applies=lambda config: config.model.has_masks,
)
