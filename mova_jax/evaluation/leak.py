"""The leak of identity: do masks find their video without the caption? (docs/method.md, 5)

Every video is given an unrelated caption, that of the video half a gallery away. Masks that carry
the identity of the video that they were made with put it above other videos all the same.
"""

import numpy as np
from jaxtyping import Float, Int

from mova_jax.evaluation.context import EvalContext, Evaluation
from mova_jax.evaluation.jitted import rows_of

GALLERY = 256  # first videos of a split that are compared, because all their masks are needed
CHANCE = 0.5


def leak(context: EvalContext) -> dict[str, float]:
    """How far above the other videos a swapped caption puts the video that it was given to.

    Returns:
        `leak/own_masks_auc`, `CHANCE` without a leak: `leak_auc` of the scores of every video under
        the masks that a caption has with the video that it was given to. Empty for fewer than three
        videos.
    """
    count = min(GALLERY, context.num_videos)
    if count < 3:
        return {}
    true_video = np.roll(np.arange(count), count // 2)
    video = rows_of(context.embeddings.video, slice(count))
    text = rows_of(context.embeddings.text, true_video)
    masks = context.fns.matching_masks(context.params, video, text)
    scores = context.fns.own_mask_scores(context.params, video, text, masks)
    return {"leak/own_masks_auc": leak_auc(scores, true_video)}


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
    },
    applies=lambda config: config.model.masks_see_frames,
)
