"""Resizes position tables: 77 text positions to 248, image positions to another grid.

In and out: NumPy tables with one row per position. `layouts.py` uses them when weights are read.
"""

import math

import numpy as np
from jaxtyping import Float

from mova_jax.weights.files import WeightsError

UNSTRETCHED = 20  # first text positions, which the stretch leaves as they are (Long-CLIP)


def stretched_length(length: int) -> int:
    """Rows that `stretch_positions` makes of `length` rows: 77 gives 248."""
    return UNSTRETCHED + 4 * (length - UNSTRETCHED)


def stretch_positions(table: Float[np.ndarray, "r w"], length: int = 248) -> np.ndarray:
    """Stretches a text position table by Long-CLIP's rule (docs/method.md, 1).

    The first 20 rows stay. After each later row come three more in equal steps to the next one;
    after the last row three that continue by quarters of the last step.

    Args:
        table: text positions of a CLIP, 77 rows.
        length: rows of the result: `len(table)`, or what the rule gives.

    Returns:
        `[length w]`.

    Raises:
        WeightsError: for a length that the rule does not give.
    """
    rows = len(table)
    if length == rows:
        return table
    if rows <= UNSTRETCHED or length != stretched_length(rows):
        stretched = f", or {stretched_length(rows)}, to which they stretch"
        gives = stretched if rows > UNSTRETCHED else ""
        raise WeightsError(
            [
                f"the text has {rows} positions in the weights and {length} in the model: expected "
                f"model.text.context to be {rows}{gives}"
            ]
        )
    # The last row has no next one: it continues in the direction of the last step.
    following = np.concatenate([table[UNSTRETCHED + 1 :], [2 * table[-1] - table[-2]]])
    share = np.arange(4, dtype=table.dtype)[:, None] / 4
    between = (1 - share) * table[UNSTRETCHED:, None] + share * following[:, None]
    return np.concatenate([table[:UNSTRETCHED], between.reshape(-1, table.shape[1])])


def resize_image_positions(table: Float[np.ndarray, "p w"], grid: int) -> np.ndarray:
    """Resizes image positions to another grid, bicubic; the class token's row stays.

    The convention is that of transformers' `interpolate_pos_encoding`, which is
    `torch.nn.functional.interpolate(mode="bicubic", align_corners=False)`: half-pixel centres,
    cubic coefficient -0.75, edges repeated. (open_clip adds `antialias=True`, with which PyTorch
    takes -0.5 and, for smaller grids, a wider kernel: its tables are close to these, not equal.)

    Args:
        table: `[1 + g * g, w]`, the class token, then the patches row by row.
        grid: patches per side of the result.

    Returns:
        `[1 + grid * grid, w]`.

    Raises:
        WeightsError: the table is not of a square grid.
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
    """Weights that resample a line of `old` samples to `new` ones."""
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
