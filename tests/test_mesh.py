"""The mesh over eight simulated devices."""

import jax
import numpy as np
import pytest

from mova_jax import mesh as mesh_lib
from tests import tiny


@pytest.mark.parametrize(("asked", "size"), [(-1, 8), (8, 8), (2, 2), (1, 1)])
def test_size_of_the_mesh(asked, size):
    mesh = mesh_lib.make_mesh(asked)
    assert dict(mesh.shape) == {mesh_lib.DATA: size}
    assert list(mesh.devices.flat) == jax.devices()[:size]


@pytest.mark.parametrize("asked", [0, 9, -2])
def test_sizes_that_there_are_not(asked):
    with pytest.raises(ValueError, match=rf"mesh\.data is {asked}, but there are 8 cpu .* 1 to 8"):
        mesh_lib.make_mesh(asked)


def test_batches_have_to_divide_over_the_devices():
    mesh = mesh_lib.make_mesh(4)
    mesh_lib.check_batch_size(mesh, 8, "train.batch_size")
    with pytest.raises(ValueError, match=r"train\.batch_size is 6 over 4 devices.*multiple of 4"):
        mesh_lib.check_batch_size(mesh, 6, "train.batch_size")


def test_put_batch_splits_rows_in_order_and_keeps_values_and_types():
    mesh = mesh_lib.make_mesh(4)
    arrays = tiny.batch_arrays(8)
    batch = mesh_lib.put_batch(mesh, arrays)
    for name, array in arrays.items():
        got = getattr(batch, name)
        np.testing.assert_array_equal(got, array)
        assert got.dtype == array.dtype
        assert got.sharding.is_equivalent_to(mesh_lib.batch_sharding(mesh), got.ndim)
        shards = sorted(got.addressable_shards, key=lambda shard: shard.device.id)
        for i, shard in enumerate(shards):
            np.testing.assert_array_equal(shard.data, array[2 * i : 2 * i + 2])


def test_replicated_is_whole_on_every_device():
    mesh = mesh_lib.make_mesh(4)
    array = jax.device_put(np.arange(6.0), mesh_lib.replicated(mesh))
    assert [shard.data.shape for shard in array.addressable_shards] == [(6,)] * 4


def test_example_mask_needs_a_frame_and_a_token():
    arrays = tiny.batch_arrays(4)
    arrays["frame_mask"][1] = False
    arrays["token_mask"][2] = False
    batch = mesh_lib.put_batch(mesh_lib.make_mesh(1), arrays)
    assert batch.example_mask.tolist() == [True, False, False, True]
