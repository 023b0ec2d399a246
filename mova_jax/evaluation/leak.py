"""The leak of identity: do masks find their video without the caption? (docs/method.md, 5)

Every video is given an unrelated caption, that of the video half a gallery away. Masks that carry
the identity of the video that they were made with put it above other videos all the same.
"""

import numpy as np
from jaxtyping import Float, Int

from mova_jax.evaluation.context import CACHED_VIDEOS, EvalContext, Evaluation
from mova_jax.evaluation.jitted import rows_of

CHANCE = 0.5  # of both metrics


def leak(context: EvalContext) -> dict[str, float]:
    """How far above the other videos a swapped caption puts the video that it was given to.

    The gallery has the first `CACHED_VIDEOS` videos, because all their masks are needed at once.

    Returns:
        Two times `leak_auc`, `CHANCE` without a leak. `leak/own_masks_auc`: every video is scored
        under the masks that a caption has with the video that it was given to.
        `leak/pairs_auc`: every video under its own masks with the caption, for a model with modular
        scores; such a score does not depend on which video was given, so this is the control.
        Empty for fewer than three videos.
    """
    count = min(CACHED_VIDEOS, context.num_videos)
    if count < 3:
        return {}
    true_video = np.roll(np.arange(count), count // 2)
    video = rows_of(context.embeddings.video, slice(count))
    text = rows_of(context.embeddings.text, true_video)
    masks = context.fns.matching_masks(context.params, video, text)
    scores = context.fns.own_mask_scores(context.params, video, text, masks)
    metrics = {"leak/own_masks_auc": leak_auc(scores, true_video)}
    if context.config.model.modular_scale:
        pairs = context.matching_scores.square("modular")[:, true_video]
        metrics["leak/pairs_auc"] = leak_auc(pairs, true_video)
    return metrics


def leak_auc(scores: Float[np.ndarray, "b b"], true_video: Int[np.ndarray, "b"]) -> float:
    """Share of the other videos that score below the given one; ties count half.

    The video that the caption was written for is left out: it wins by language, and would hide a
    leak behind it.

    Args:
        scores: of all videos with caption c, which was given to video c, in column c.
        true_video: the video that caption c was written for, another one than c.

    Returns:
        The mean over captions, 0 to 1.
    """
    scores = np.asarray(scores)
    columns = np.arange(len(scores))
    given = np.diagonal(scores)
    below = (scores < given) + 0.5 * (scores == given)
    below[columns, columns] = below[true_video, columns] = 0
    return float(below.sum() / (len(scores) * (len(scores) - 2)))


EVALUATION = Evaluation(
    leak,
    "Leak",
    labels={
        "leak/own_masks_auc": "leak, own masks, %",
        "leak/pairs_auc": "leak, pair masks, %",
    },
    applies=lambda config: config.model.masks_see_frames,
)
