"""Blocks of rows: the values and gradients of all rows at once, in the memory of one block."""

import jax
import jax.numpy as jnp
import pytest

from mova_jax.losses.microbatch import map_blocks
from tests import tiny

ROWS, WIDTH, INNER = 5, 3, 7


def total(weights, rows, block):
    """A sum in which each row has a weight of its own, over a hidden `[r INNER]`."""

    def fn(rows):
        return {"y": jnp.sin(rows["x"] @ weights) @ weights.T * rows["scale"][:, None]}

    values = map_blocks(fn, rows, block)["y"]
    return (values * jnp.arange(1.0, ROWS + 1)[:, None]).sum(), values


def inputs():
    weights, x = (jax.random.normal(jax.random.key(i), s) for i, s in enumerate(SHAPES))
    return weights, {"x": x, "scale": jnp.arange(ROWS) - 1.5}


SHAPES = (WIDTH, INNER), (ROWS, WIDTH)


@pytest.mark.parametrize("block", [1, 2, 3, 5, 8])
def test_blocks_change_neither_values_nor_gradients(block):
    results = [
        jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(*inputs(), n) for n in (block, 0)
    ]
    tiny.assert_near(*results, 1e-6)


def test_no_more_than_a_block_is_alive():
    """The hidden layer of all rows is in the program of the whole and not in that of blocks."""

    def program(block):
        gradient = jax.grad(total, has_aux=True)
        return str(jax.make_jaxpr(gradient, static_argnums=2)(*inputs(), block))

    assert f"f32[{ROWS},{INNER}]" in program(0)
    assert f"f32[{ROWS},{INNER}]" not in program(2) and f"f32[2,{INNER}]" not in program(0)
