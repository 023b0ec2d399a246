"""Reused memory never changes an array that is still referenced."""

import gc
import pickle
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest

from mova_jax.data.pipeline.buffers import BufferPool

SHAPE = (4, 64, 8)


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_without_references_is_used_again():
    pool = BufferPool()
    first = address(pool(SHAPE))
    others = [np.empty(SHAPE, np.uint8) for _ in range(8)]  # would get it, were it given back
    assert address(pool(SHAPE)) == first
    assert first not in map(address, others)
    assert pool((2, 8)).shape == (2, 8)  # of another size: not that one


@pytest.mark.parametrize(
    "hold",
    [
        lambda array: array,
        lambda array: array[1],
        lambda array: array[1:][:, ::2].T,
        lambda array: memoryview(array),
        lambda array: {"frames": array}["frames"].view(np.int8),
        lambda array: np.frombuffer(array, np.uint8),
    ],
    ids=["itself", "row", "view of a view", "memoryview", "other type", "buffer"],
)
def test_an_array_with_a_reference_is_left_alone(hold):
    pool = BufferPool()
    array = pool(SHAPE)
    array[:] = 7
    held = hold(array)
    del array
    for _ in range(3):
        pool(SHAPE)[:] = 9
    assert (np.asarray(held) == 7).all()


def test_jax_may_read_an_array_without_a_copy():
    pool, shape = BufferPool(), (64, 64, 64)
    array = pool(shape)
    array[:] = 7
    on_device = jax.device_put(array)
    del array
    gc.collect()
    for _ in range(3):
        pool(shape)[:] = 9
    assert (np.asarray(on_device) == 7).all()


def test_threads_never_get_the_same_memory():
    pool = BufferPool()

    def fill(value):
        array = pool(SHAPE)
        array[:] = value
        return array, value

    with ThreadPoolExecutor(8) as threads:
        for _ in range(20):
            found = list(threads.map(fill, range(16)))
            assert all((array == value).all() for array, value in found)
            assert len({address(array) for array, _ in found}) == 16


def test_it_goes_to_another_process_without_its_memory():
    pool = BufferPool()
    held = pool(SHAPE)
    held[:] = 7
    pickle.loads(pickle.dumps(pool))(SHAPE)[:] = 9
    assert (held == 7).all()
