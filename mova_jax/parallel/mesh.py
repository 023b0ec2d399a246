"""Arranges devices as a mesh with the axes of `config.mesh`.

    data     shards the batch; slices of a pod that only a network joins are joined on this axis
    fsdp     shards the batch too, and parameters, optimizer state and average with it
    tensor   shards the heads and the MLP width of a layer; its devices share the same rows

`sharding.py` says which arrays are sharded over which axis.
"""

import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh

from mova_jax.config import Mesh as MeshConfig

AXES = tuple(field.name for field in dataclasses.fields(MeshConfig))


class MeshError(ValueError):
    """Devices or processes that do not fit; the message says what to do."""


def make_mesh(
    sizes: MeshConfig | None = None,
    *,
    data: int = -1,
    fsdp: int = 1,
    tensor: int = 1,
    devices: Sequence[Any] | None = None,
) -> Mesh:
    """A mesh of this run's devices, or of a topology's, to compile for a machine elsewhere.

    Args:
        sizes: `config.mesh`; takes the place of the next three.
        data: devices on the axis; one of the three may be -1, which takes what is left.
        fsdp: as `data`.
        tensor: as `data`.
        devices: None takes all that there are. A single process may leave some of them unused.

    Raises:
        MeshError: when the sizes do not fit the devices.
    """
    devices = all_devices() if devices is None else list(devices)
    asked = (data, fsdp, tensor) if sizes is None else dataclasses.astuple(sizes)
    shape = _shape(asked, devices)
    if (used := math.prod(shape)) < len(devices):
        return Mesh(np.array(devices[:used]).reshape(shape), AXES)
    return Mesh(_arrange(devices, shape), AXES)


def all_devices() -> list[jax.Device]:
    """The devices of all processes; the first call starts JAX's platforms.

    Raises:
        MeshError: a platform cannot be used, such as one that JAX_PLATFORMS names and is not there.
    """
    try:
        return list(jax.devices())
    except (RuntimeError, AssertionError) as error:  # JAX asserts where a plugin is missing
        reason, asked = str(error).partition("\n")[0], os.environ.get("JAX_PLATFORMS", "")
        reason = reason or "none of its platforms can be used."
        advice = f"JAX_PLATFORMS is {asked!r}: unset it, or install what it names" if asked else ""
        raise MeshError(f"JAX found no devices: {reason} {advice}".rstrip()) from error


def local_devices() -> list[jax.Device]:
    """The devices of this process; errors as of `all_devices`."""
    return [device for device in all_devices() if device.process_index == jax.process_index()]


def _shape(asked: tuple[int, ...], devices: list) -> tuple[int, ...]:
    """Sizes with -1 filled in."""
    fixed = math.prod(size for size in asked if size != -1)
    free = asked.count(-1)
    count = len(devices)
    fits = fixed > 0 and free <= 1 and min(asked) >= -1 and 0 not in asked
    fits = fits and (count % fixed == 0 if free else fixed <= count)
    if fits and fixed < count and not free:
        fits = len({device.process_index for device in devices}) == 1
    if not fits:
        text = " x ".join(f"{axis} {size}" for axis, size in zip(AXES, asked, strict=True))
        raise MeshError(
            f"config.mesh is {text}, but there are {count} {devices[0].platform} device(s): "
            "choose sizes whose product that is; one of them may be -1, which takes what is left"
        )
    return tuple(count // fixed if size == -1 else size for size in asked)


def _arrange(devices: list, shape: tuple[int, int, int]) -> np.ndarray:
    """Devices `[data fsdp tensor]`, neighbours of the mesh joined by fast links."""
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    data, fsdp, tensor = shape
    if data % slices:
        raise MeshError(
            f"config.mesh.data is {data}, but the devices are {slices} slices, which are joined by "
            f"that axis: choose a multiple of {slices}, or -1 with a smaller fsdp and tensor"
        )
    return mesh_utils.create_hybrid_device_mesh(
        (data // slices, fsdp, tensor), (slices, 1, 1), devices, allow_split_physical_axes=True
    )


def describe(mesh: Mesh) -> str:
    """`data 2 x fsdp 4 x tensor 1 of 8 TPU v5 lite device(s)`."""
    sizes = " x ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
    return f"{sizes} of {mesh.size} {mesh.devices.flat[0].device_kind} device(s)"
