"""Position tables: the stretch against Long-CLIP's rule, the resize against PyTorch."""

import numpy as np
import pytest
import torch

from mova_jax.weights.files import WeightsError
from mova_jax.weights.positions import resize_image_positions, stretch_positions

RNG = np.random.default_rng(0)


def by_the_rule(old):
    """Long-CLIP's rule (docs/method.md, 1), row by row."""
    last = len(old) - 1  # 76 of 77
    new = np.zeros((4 * len(old) - 60, old.shape[1]))
    for row in range(20):
        new[row] = old[row]
    for i in range(last - 20):
        for k in range(4):
            new[20 + 4 * i + k] = (1 - k / 4) * old[20 + i] + (k / 4) * old[21 + i]
    for k in range(4):
        new[len(new) - 4 + k] = old[last] + (k / 4) * (old[last] - old[last - 1])
    return new


@pytest.mark.parametrize(("rows", "length"), [(77, 248), (21, 24), (30, 60)])
def test_stretch_is_the_rule(rows, length):
    old = RNG.normal(size=(rows, 3)).astype(np.float32)
    new = stretch_positions(old, length)
    assert new.shape == (length, 3) and new.dtype == np.float32
    np.testing.assert_allclose(new, by_the_rule(old), rtol=1e-6, atol=1e-6)
    # The trained rows are still there: the first 20, then every fourth one.
    np.testing.assert_array_equal(new[:20], old[:20])
    np.testing.assert_array_equal(new[20::4], old[20:])


def test_some_rows_of_the_stretch_by_hand():
    old = np.arange(77, dtype=np.float32)[:, None]
    old[76] = 79  # a last step of 4, so that it goes on by ones
    new = stretch_positions(old)[:, 0]
    np.testing.assert_array_equal(new[18:25], [18, 19, 20, 20.25, 20.5, 20.75, 21])
    np.testing.assert_array_equal(new[240:], [75, 76, 77, 78, 79, 80, 81, 82])


def test_equal_lengths_stay():
    old = RNG.normal(size=(6, 3)).astype(np.float32)
    np.testing.assert_array_equal(stretch_positions(old, 6), old)


@pytest.mark.parametrize(
    ("rows", "length", "expected"),
    [
        (77, 128, "77 positions in the weights and 128 in the model.* be 77, or 248"),
        (248, 77, "248 positions in the weights and 77 in the model"),
        (20, 24, "expected model.text.context to be 20$"),
    ],
)
def test_other_lengths_are_refused(rows, length, expected):
    with pytest.raises(WeightsError, match=expected):
        stretch_positions(np.zeros((rows, 2), np.float32), length)


@pytest.mark.parametrize(("old", "new"), [(7, 14), (14, 7), (16, 24), (4, 3), (1, 2)])
def test_image_positions_are_resized_as_in_pytorch(old, new):
    table = RNG.normal(size=(1 + old * old, 5)).astype(np.float32)
    got = resize_image_positions(table, new)
    # In float64: for float32 images PyTorch computes places in float32, with errors of 3e-6.
    image = torch.tensor(table[1:]).double().reshape(1, old, old, 5).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(
        image, size=(new, new), mode="bicubic", align_corners=False
    )
    expected = resized.permute(0, 2, 3, 1).reshape(-1, 5).numpy()
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got[0], table[0])
    np.testing.assert_allclose(got[1:], expected, rtol=0, atol=1e-6)


def test_an_equal_grid_stays_and_other_shapes_are_refused():
    table = RNG.normal(size=(5, 3)).astype(np.float32)
    np.testing.assert_array_equal(resize_image_positions(table, 2), table)
    with pytest.raises(WeightsError, match=r"got 6 image positions, expected 1 \+ g \* g"):
        resize_image_positions(np.zeros((6, 3), np.float32), 2)
    with pytest.raises(WeightsError, match="got 1 image positions"):
        resize_image_positions(np.zeros((1, 3), np.float32), 2)
