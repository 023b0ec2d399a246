"""How sharp the window of a part is: sharper the more frames there are (docs/method.md, 3)."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# The number of frames at which the sharpness is as given: `eval.frames` of the base recipe.
FRAMES = 32


def sharpness_for(
    sharpness: float | Float[Array, "..."], frames: Int[Array, "..."]
) -> Float[Array, "..."]:
    """The factor on cosines in log-mean-exp over so many frames: it grows as log(1 + frames).

    In a mean over n frames, what a single frame shows loses log(n) / sharpness. With this factor
    it loses nearly the same in a video of any length, and a longer video, in which more frames are
    like the part by chance, weighs the best of them more.

    Args:
        sharpness: that for 32 frames.
        frames: n, valid frames of a video, at least 1.
    """
    return sharpness * (jnp.log1p(frames.astype(jnp.float32)) / math.log1p(FRAMES))
