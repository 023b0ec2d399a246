"""Position tables of other lengths: 77 text positions to 248, image positions to another grid.

In and out: NumPy tables, one row a position. Used when weights are read (`layouts.py`).
"""

import math

import numpy as np
from jaxtyping import Float

from mova_jax.weights.files import WeightsError

KEPT = 20  # first text positions that the stretch leaves where they are (Long-CLIP)


def stretched_length(length: int) -> int:
    """How many rows `stretch_positions` makes of `length` rows: 77 gives 248."""
    return KEPT + 4 * (length - KEPT)


def stretch_positions(table: Float[np.ndarray, "r w"], length: int = 248) -> np.ndarray:
    """A text position table stretched by Long-CLIP's rule (docs/method.md, 1).

    The first 20 rows stay. Between each row behind them and the next come three in equal steps, and
    the last row goes on by quarters of the last step.

    Args:
        table: positions of a CLIP, 77 rows.
        length: rows wanted; as many as there are, or as many as the rule gives.

    Returns:
        `[length w]`.

    Raises:
        WeightsError: for a length that the rule does not give.
    """
    rows = len(table)
    if length == rows:
        return table
    if rows <= KEPT or length != stretched_length(rows):
        gives = f", or {stretched_length(rows)}, to which they stretch" if rows > KEPT else ""
        raise WeightsError(
            [
                f"the text has {rows} positions in the weights and {length} in the model: expected "
                f"model.text.context to be {rows}{gives}"
            ]
        )
    # The last row has no next one: it goes on in the direction of the step that led to it.
    following = np.concatenate([table[KEPT + 1 :], [2 * table[-1] - table[-2]]])
    share = np.arange(4, dtype=table.dtype)[:, None] / 4
    between = (1 - share) * table[KEPT:, None] + share * following[:, None]
    return np.concatenate([table[:KEPT], between.reshape(-1, table.shape[1])])


def resize_image_positions(table: Float[np.ndarray, "p w"], grid: int) -> np.ndarray:
    """Image positions for another number of patches, bicubic; the class token's row stays.

    The convention is that of transformers' `interpolate_pos_encoding`, which is
    `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)`: half-pixel centres,
    cubic coefficient -0.75, edges repeated. (open_clip adds `antialias=True`, with which PyTorch
    takes -0.5 and, downwards, a wider kernel: its tables are near to these, not equal.)

    Args:
        table: `[1 + g * g, w]`, the class token and then the patches row by row.
        grid: patches a side that are wanted.

    Returns:
        `[1 + grid * grid, w]`.

    Raises:
        WeightsError: the table is not one of a square grid.
    """
    old = math.isqrt(max(len(table) - 1, 0))
    if old < 1 or old * old != len(table) - 1:
        raise WeightsError(
            [f"got {len(table)} image positions, expected 1 + g * g of a square grid"]
        )
    if grid == old:
        return table
    weights = _cubic_weights(old, grid)
    image = table[1:].reshape(old, old, -1)
    image = np.einsum("yi,xj,ijw->yxw", weights, weights, image, optimize=True)
    return np.concatenate([table[:1], image.reshape(grid * grid, -1).astype(table.dtype)])


def _cubic_weights(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """What each of the `old` samples of a line gives to each of `new` ones."""
    a = -0.75
    place = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(place).astype(int) - 1
    weights = np.zeros((new, old))
    for tap in range(4):
        x = np.abs(place - (first + tap))
        near = ((a + 2) * x - (a + 3)) * x * x + 1
        far = a * (((x - 5) * x + 8) * x - 4)
        sample = np.clip(first + tap, 0, old - 1)
        # `add.at`, because at the edges several taps meet on one sample.
        np.add.at(weights, (np.arange(new), sample), np.where(x <= 1, near, far))
    return weights
