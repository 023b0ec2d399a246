"""Memory that is used again never changes what somebody still holds."""

import gc
import pickle
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest

from mova_jax.data.pipeline.buffers import BufferPool

SHAPE = (4, 64, 8)


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_that_nobody_holds_is_used_again():
    reused = BufferPool()
    first = address(reused(SHAPE))
    others = [np.empty(SHAPE, np.uint8) for _ in range(8)]  # would get it, were it given back
    assert address(reused(SHAPE)) == first
    assert first not in map(address, others)
    assert reused((2, 8)).shape == (2, 8)  # of another size: not that one


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
def test_what_is_held_is_left_alone(hold):
    reused = BufferPool()
    array = reused(SHAPE)
    array[:] = 7
    held = hold(array)
    del array
    for _ in range(3):
        reused(SHAPE)[:] = 9
    assert (np.asarray(held) == 7).all()


def test_jax_may_read_an_array_where_it_lies():
    reused, shape = BufferPool(), (64, 64, 64)
    array = reused(shape)
    array[:] = 7
    on_device = jax.device_put(array)
    del array
    gc.collect()
    for _ in range(3):
        reused(shape)[:] = 9
    assert (np.asarray(on_device) == 7).all()


def test_threads_never_get_the_same_memory():
    reused = BufferPool()

    def fill(value):
        array = reused(SHAPE)
        array[:] = value
        return array, value

    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            found = list(pool.map(fill, range(16)))
            assert all((array == value).all() for array, value in found)
            assert len({address(array) for array, _ in found}) == 16


def test_it_goes_to_another_process_without_its_memory():
    reused = BufferPool()
    held = reused(SHAPE)
    held[:] = 7
    pickle.loads(pickle.dumps(reused))(SHAPE)[:] = 9
    assert (held == 7).all()


_FAULTS = """
import resource
from mova_jax.data.pipeline.buffers import keep_freed
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):  # as records are read: some large pieces, many small ones
        pieces = [bytes(2_300_000) for _ in range(3)] + [bytes(20_000) for _ in range(120)]
        del pieces
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
without = faults()
keep_freed()
faults()
print(without, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_a_process_keeps_what_it_freed_and_asks_for_no_new_pages():
    command = [sys.executable, "-c", _FAULTS]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    without, kept = map(int, told.split())
    assert kept < without / 10
