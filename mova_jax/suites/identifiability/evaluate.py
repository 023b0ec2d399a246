"""Scores of trained models on videos that they have not seen."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mova_jax.suites.identifiability.data import draw_videos
from mova_jax.suites.identifiability.scores import (
    block_recovery,
    match_dimensions,
    purity,
    support_scores,
)
from mova_jax.suites.identifiability.training import Trained

VIDEOS = 6144  # of the evaluation, a seed: enough for the rarest blocks
ROWS = 1024  # of the regression of a block
HELD_OUT = 2**30  # number of the draw, which no step of a training has


def evaluate(trained: Trained) -> list[dict[str, float]]:
    """Figures of each seed.

    Returns:
        `video_in`, `text_in`: R^2 of the blocks of the support from masked frames and from masked
        texts. `video_out`: of blocks that the frame shows outside of the support. `text_out`: of
        blocks that the caption names outside of it. `purity` of the dimensions of frames. `f1`,
        `f1_open` (of masks that are open), `open_in`, `open_out`: of the video masks. `text_f1`,
        `text_open_in`, `text_open_out`: of the text masks. NaN where no block has enough rows.
    """
    masked = jax.jit(partial(_masked, trained))
    scores = []
    for seed in range(trained.losses.shape[0]):
        arrays = jax.tree.map(lambda x, seed=seed: x[seed], (trained.params, trained.mixings))
        key = jax.random.fold_in(jax.random.key(seed), HELD_OUT)
        found = masked(key, *arrays)
        scores.append(
            _scores(*jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), found))
        )
    return scores


def _masked(trained: Trained, key, params, mixings):
    """Blocks, supports, frames and masks of matching pairs, rows `[b f]`."""
    model = nnx.merge(trained.graphdef, params)
    videos = draw_videos(key, trained.world, mixings, VIDEOS)
    divided = trained.config.data.parts > 0
    video, text = model.embed(videos, divided)
    masks = model.own_masks(video, model.prepare(text))
    own = videos.shared
    if divided:  # a frame has the masks of the sentence of its event
        own, frame = videos.named_by_own, jnp.arange(own.shape[1])
        masks = jax.tree.map(lambda x: x[:, frame // trained.world.frames, frame], masks)
    named = jnp.broadcast_to(videos.named.any(1, keepdims=True), own.shape)
    return videos.values, (videos.shown, named, own), video.frames, masks


def _scores(values, supports, frames, masks) -> dict[str, float]:
    """The figures from rows of numpy arrays."""
    shown, named, own = supports
    explained = match_dimensions(frames, values, shown)
    block_of = explained.argmax(1)
    visual = support_scores(masks.video, block_of, own)
    textual = support_scores(masks.text, block_of, own)
    opened = support_scores(np.ones_like(masks.video), block_of, own)
    recovery = partial(block_recovery, values=values, rows=ROWS)
    selected = frames * masks.video
    return {
        "video_in": recovery(selected, where=own),
        "video_out": recovery(selected, where=shown & ~own),
        "text_in": recovery(masks.part, where=own),
        "text_out": recovery(masks.part, where=named & ~own),
        "purity": purity(explained, masks.video),
        "f1": visual.f1,
        "text_f1": textual.f1,
        "f1_open": opened.f1,
        "open_in": visual.open_inside,
        "open_out": visual.open_outside,
        "text_open_in": textual.open_inside,
        "text_open_out": textual.open_outside,
    }
