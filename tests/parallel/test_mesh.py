"""Meshes over eight simulated devices, and over devices of a topology."""

import jax
import pytest

from mova_jax.config import Mesh
from mova_jax.parallel.mesh import AXES, make_mesh
from tests.parallel.devices import fake_devices


@pytest.mark.parametrize(
    ("asked", "shape"),
    [
        ((-1, 1, 1), (8, 1, 1)),
        ((8, 1, 1), (8, 1, 1)),
        ((1, -1, 2), (1, 4, 2)),
        ((2, 2, -1), (2, 2, 2)),
        ((1, 2, 1), (1, 2, 1)),  # fewer than there are
    ],
)
def test_sizes_of_the_mesh(asked, shape):
    mesh = make_mesh(Mesh(*asked))
    assert tuple(mesh.shape.items()) == tuple(zip(AXES, shape, strict=True))
    assert list(mesh.devices.flat) == jax.devices()[: mesh.size]
    assert make_mesh(data=asked[0], fsdp=asked[1], tensor=asked[2]) == mesh


@pytest.mark.parametrize(
    "asked", [(0, 1, 1), (9, 1, 1), (-2, 1, 1), (4, 4, 1), (-1, 3, 1), (-1, -1, 1), (3, 0, 1)]
)
def test_sizes_that_do_not_fit_the_devices_are_refused(asked):
    with pytest.raises(ValueError, match=rf"mesh is data {asked[0]} x .* there are 8 cpu device"):
        make_mesh(Mesh(*asked))


def test_slices_are_joined_by_the_data_axis():
    devices = fake_devices(4, 2, slices=2)
    mesh = make_mesh(data=-1, fsdp=2, tensor=2, devices=devices)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 2}
    for i, part in enumerate(mesh.devices):
        assert {device.slice_index for device in part.flat} == {i}
    with pytest.raises(ValueError, match=r"mesh\.data is 1, but the devices are 2 slices"):
        make_mesh(data=1, fsdp=4, tensor=2, devices=devices)


def test_devices_of_several_processes_must_all_be_used():
    with pytest.raises(ValueError, match="there are 8 gpu device"):
        make_mesh(data=4, devices=fake_devices(2, 4))
