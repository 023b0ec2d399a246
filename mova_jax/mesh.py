"""Devices as a mesh, and what lies where on it: the only file that names mesh axes.

Axis `data` splits the batch. Parameters and optimizer state are whole on every device. Models and
losses are written for the global batch and know nothing of this: the compiler splits them, and an
all-pairs loss sees every pair whatever the number of devices.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mova_jax.typing import Batch

DATA = "data"


def make_mesh(data: int = -1, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh over this run's devices, or over those of a machine that is not there.

    Args:
        data: devices on the batch axis; -1 takes all there are.
        devices: of a topology; None: those of this run.

    Raises:
        ValueError: when there are fewer devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    available = len(devices)
    size = available if data == -1 else data
    if not 1 <= size <= available:
        raise ValueError(
            f"config.mesh.data is {data}, but there are {available} {devices[0].platform} "
            f"device(s): choose 1 to {available}, or -1 for all"
        )
    return jax.make_mesh((size,), (DATA,), axis_types=(AxisType.Auto,), devices=devices[:size])


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """First axis over the devices."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def check_batch_size(mesh: Mesh, batch_size: int, name: str) -> None:
    """Raises ValueError when a global batch does not divide over the mesh."""
    size = mesh.shape[DATA]
    if batch_size % size:
        raise ValueError(
            f"{name} is {batch_size} over {size} devices: choose a multiple of {size}, or a "
            "smaller config.mesh.data"
        )


def put_batch(mesh: Mesh, arrays: dict[str, np.ndarray]) -> Batch:
    """This process's rows as part of a global batch on the devices.

    Args:
        mesh: from `make_mesh`.
        arrays: the fields of `Batch`, this process's rows of each.
    """
    sharding = batch_sharding(mesh)
    return Batch(
        **{
            name: jax.make_array_from_process_local_data(sharding, array)
            for name, array in arrays.items()
        }
    )
