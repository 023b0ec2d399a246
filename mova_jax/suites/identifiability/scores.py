"""How well blocks are recovered inside and outside of supports, and supports by masks."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

RIDGES = (1e-3, 1e-2, 1e-1, 1.0)


def r_squared(predicted: Float[Array, "n v"], truth: Float[Array, "n v"]) -> Float[Array, ""]:
    """1 - residual / variance, over all rows and columns; at most 1, below 0 if worse than none."""
    residual = jnp.square(truth - predicted).sum()
    return 1 - residual / jnp.square(truth - truth.mean(0)).sum()


@jax.jit
def predictability(inputs: Float[Array, "n d"], targets: Float[Array, "n v"]) -> Float[Array, ""]:
    """Held-out R^2 of kernel ridge regression (Gaussian kernel), of at least 0.

    The first half of the rows is for fitting, a quarter for choosing the ridge, a quarter for the
    result.
    """
    half, fourth = len(inputs) // 2, len(inputs) // 4
    scale = inputs[:half].std()
    x = (inputs - inputs[:half].mean(0)) / jnp.maximum(scale, 1e-6)
    squared = jnp.square(x).sum(-1)
    distance = squared[:, None] + squared[:half] - 2 * x @ x[:half].T
    kernel = jnp.exp(-distance / jnp.maximum(jnp.median(distance[:half]), 1e-6))
    mean = targets[:half].mean(0)

    def fitted(ridge):
        matrix = kernel[:half] + ridge * jnp.eye(half)
        weights = jax.scipy.linalg.solve(matrix, targets[:half] - mean, assume_a="pos")
        predicted = kernel[half:] @ weights + mean
        chosen, held_out = slice(None, fourth), slice(fourth, None)
        truth = targets[half:]
        return tuple(r_squared(predicted[s], truth[s]) for s in (chosen, held_out))

    chosen, held_out = jnp.array([fitted(ridge) for ridge in RIDGES]).T
    return jnp.maximum(held_out[jnp.argmax(chosen)], 0.0)


def block_recovery(
    vectors: Float[np.ndarray, "n d"],
    values: Float[np.ndarray, "n k v"],
    where: Bool[np.ndarray, "n k"],
    rows: int,
) -> float:
    """Mean over blocks of how well vectors predict their values, from `rows` rows each.

    Args:
        vectors: one a row, such as masked frames.
        values: of each block.
        where: which rows count for which block.
        rows: of each block; blocks that have fewer are left out.

    Returns:
        The mean; NaN when all are left out.
    """
    found = []
    for block in range(values.shape[1]):
        chosen = np.flatnonzero(where[:, block])
        # Not the first ones: rows in a row may be of one video or of videos that are alike.
        chosen = (
            chosen[np.linspace(0, len(chosen) - 1, rows).astype(int)] if len(chosen) else chosen
        )
        if len(set(chosen)) == rows:
            found.append(predictability(vectors[chosen], values[chosen, block]))
    return float(np.mean(found)) if found else float("nan")


def match_dimensions(
    vectors: Float[np.ndarray, "n d"],
    values: Float[np.ndarray, "n k v"],
    present: Bool[np.ndarray, "n k"],
) -> Float[np.ndarray, "d k"]:
    """How much of each dimension's variance each block explains: R^2 by features of one block.

    The features of a block are its presence, its values and their products of two.
    """
    centred = vectors - vectors.mean(0)
    total = np.maximum(np.square(centred).sum(0), 1e-12)
    explained = []
    for block in range(values.shape[1]):
        on = present[:, block, None]
        v = np.where(on, values[:, block], 0.0)
        pairs = (v[:, :, None] * v[:, None, :]).reshape(len(v), -1)
        features = np.concatenate([on, np.abs(v), v, pairs], axis=1)
        features = features - features.mean(0)
        weights = np.linalg.lstsq(features, centred, rcond=None)[0]
        explained.append(1 - np.square(centred - features @ weights).sum(0) / total)
    return np.stack(explained, axis=1)


def purity(explained: Float[np.ndarray, "d k"], masks: Float[np.ndarray, "n d"]) -> float:
    """How far each dimension belongs to one block: 1 when no other explains any of it.

    Args:
        explained: of `match_dimensions`.
        masks: dimensions that they open in less than 1 % of the rows do not count.

    Returns:
        Mean over the dimensions of the share of its block in what all blocks explain, above 1 / k.
    """
    explained = np.maximum(explained[_used(masks)], 1e-6)
    if not len(explained):
        return float("nan")
    return float((explained.max(1) / explained.sum(1)).mean())


def _used(masks: Float[np.ndarray, "n d"]) -> Bool[np.ndarray, "d"]:
    return masks.mean(0) >= 0.01


class Support(NamedTuple):
    """How well masks find supports."""

    f1: float  # of (row, block) pairs
    open_inside: float  # mean openness of the dimensions of blocks in the support
    open_outside: float


def support_scores(
    masks: Float[np.ndarray, "n d"],
    block_of: np.ndarray,
    truth: Bool[np.ndarray, "n k"],
) -> Support:
    """Compares masks with supports, block by block.

    A block is selected where the mask is open over at least half of its dimensions. Those that the
    masks open in less than 1 % of the rows are of no use to any block, and are left out. A block
    without dimensions is never selected.

    Args:
        masks: in 0..1.
        block_of: `[d]`, the block of each dimension.
        truth: the supports.
    """
    member = block_of[:, None] == np.arange(truth.shape[1])
    member = member & _used(masks)[:, None]
    share = masks @ member / np.maximum(member.sum(0), 1)
    selected = (share >= 0.5) & member.any(0)
    f1 = 2 * (selected & truth).sum() / max(1, selected.sum() + truth.sum())
    return Support(float(f1), float(share[truth].mean()), float(share[~truth].mean()))
