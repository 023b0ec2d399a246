"""The leak of identity: do masks find their video without the caption? (docs/method.md, 5)

Every video is given an unrelated caption, that of the video half a gallery away. Above chance,
1 / gallery, such a caption finds its video by the masks alone, not by language.
"""

import numpy as np
from jaxtyping import Float

from mova_jax.evaluation.context import CACHED_VIDEOS, EvalContext, Evaluation
from mova_jax.evaluation.jitted import rows_of


def leak(context: EvalContext) -> dict[str, float]:
    """How often a swapped caption finds the video that it was given to, 0 to 1.

    The gallery has the first `CACHED_VIDEOS` videos, because all their masks are needed at once.

    Returns:
        `leak/own_masks`: every video is scored under the masks that a caption has with the video
        that it was given to; `leak/pairs`: every video under its own masks with the caption, for a
        model with modular scores; `leak/chance`. Empty for a single video.
    """
    count = min(CACHED_VIDEOS, context.num_videos)
    if count < 2:
        return {}
    given = np.roll(np.arange(count), count // 2)
    video = rows_of(context.embeddings.video, slice(count))
    text = rows_of(context.embeddings.text, given)
    _, masks = context.fns.matching_pairs(context.params, video, text)
    metrics = {"leak/own_masks": identity_leak(context.fns.own_mask_scores(video, masks))}
    if context.config.model.modular_scale:
        pairs = context.matching_scores.square("modular")[:, given]
        metrics["leak/pairs"] = identity_leak(pairs)
    return metrics | {"leak/chance": 1 / count}


def identity_leak(scores: Float[np.ndarray, "b b"]) -> float:
    """Share of captions that find their own video, which is on the diagonal.

    A caption counts 1 when its own video scores strictly highest, 1 / n when n videos (its own
    among them) share the highest score, which is what breaking the tie at random would give on
    average, and 0 otherwise. Equal scores everywhere therefore give chance.
    """
    scores = np.asarray(scores, np.float32)
    own = np.diagonal(scores)
    sharing = (scores == own).sum(0)
    return float(np.where((scores > own).any(0), 0, np.float32(1) / sharing).mean(dtype=np.float32))


EVALUATION = Evaluation(
    leak,
    "Leak",
    labels={
        "leak/own_masks": "leak, own masks, %",
        "leak/pairs": "leak, pair masks, %",
        "leak/chance": "leak by chance, %",
    },
    applies=lambda config: config.model.has_masks,
)
