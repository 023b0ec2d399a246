"""The leak of identity: do masks find their video without the caption? (docs/method.md, 5)"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mova_jax.losses.contrast import masked_term
from mova_jax.typing import Term


def identity_leak(scores: Float[Array, "b c"], example_mask: Bool[Array, "b"]) -> Term:
    """Share of captions whose masks find their own video (docs/method.md, 5); no gradient.

    Fed with scores in which every caption was swapped for an unrelated one, chance is 1 / gallery
    (the number of valid videos), and all above it was read from the masks, not from language.

    A caption counts 1 when its own video scores strictly highest among the valid videos, 1 / n when
    n videos (its own among them) share the highest score, which is what breaking the tie at random
    would give on average, and 0 otherwise. Equal scores all over therefore give chance.

    Args:
        scores: `[b c]`, b == c, the own video of a caption on the diagonal.
        example_mask: `[b]`.

    Returns:
        Sum over valid captions; their count.

    Raises:
        ValueError: when scores are not square.
    """
    if scores.ndim != 2 or scores.shape[0] != scores.shape[1]:
        raise ValueError(
            f"scores have shape {scores.shape}; expected [b c] with b == c, caption i belonging to "
            "video i: score every video of the batch with every caption of the batch"
        )
    scores = jax.lax.stop_gradient(scores).astype(jnp.float32)
    own = jnp.diagonal(scores)
    video_mask = example_mask[:, None]
    beaten = ((scores > own) & video_mask).any(0)
    sharing = ((scores == own) & video_mask).sum(0)
    return masked_term(jnp.where(beaten, 0.0, 1 / sharing), example_mask)
