"""Devices as a mesh, and what lies where on it: the only file that names mesh axes.

Axis `data` splits the batch. Parameters and optimizer state are whole on every device. Models are
written for the global batch and know nothing of this: the compiler splits them. Losses see every
pair of the batch whatever the number of devices, by way of `Parties`.
"""

import math

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mova_jax.typing import Batch

DATA = "data"


def make_mesh(data: int = -1) -> Mesh:
    """A mesh over this run's devices.

    Args:
        data: devices on the batch axis; -1 takes all there are.

    Raises:
        ValueError: when there are fewer devices.
    """
    available = jax.device_count()
    size = available if data == -1 else data
    if not 1 <= size <= available:
        raise ValueError(
            f"config.mesh.data is {data}, but there are {available} {jax.default_backend()} "
            f"device(s): choose 1 to {available}, or -1 for all"
        )
    devices = jax.devices()[:size]
    return jax.make_mesh((size,), (DATA,), axis_types=(AxisType.Auto,), devices=devices)


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


class Parties:
    """The devices between which the batch is split, as the losses see them.

    What is not about the batch stays with the compiler. `mova_jax.losses.ring.OneParty` says what
    each method does, and stands in where there is only one.
    """

    def __init__(self, mesh: Mesh, axes: tuple[str, ...]):
        self._mesh, self._axes = mesh, axes
        self.size = math.prod(mesh.shape[axis] for axis in axes)

    def index(self):
        """The number of this party, from 0, in the order of the batch."""
        return jax.lax.axis_index(self._axes)

    def shift(self, tree):
        """Hands a pytree to the next party; what the one before had comes in."""
        ring = [(i, (i + 1) % self.size) for i in range(self.size)]
        return jax.lax.ppermute(tree, self._axes, ring)

    def sum(self, tree):
        """The sum over all parties."""
        return jax.lax.psum(tree, self._axes)

    def gather(self, tree):
        """The rows of all parties, in the order of the batch."""
        return jax.lax.all_gather(tree, self._axes, tiled=True)

    def local(self, tree):
        """Marks what is made alike everywhere as each party's own: its gradients are summed."""
        return jax.lax.pcast(tree, self._axes, to="varying")

    def map(self, fn, whole, split):
        """Runs `fn(whole, split)` at each party; it returns what is the same everywhere."""
        return jax.shard_map(
            lambda whole, split: fn(self.local(whole), split),
            mesh=self._mesh,
            in_specs=(PartitionSpec(), PartitionSpec(self._axes)),
            out_specs=PartitionSpec(),
            axis_names=set(self._axes),
        )(whole, split)


def parties(mesh: Mesh) -> Parties | None:
    """What the losses need to know of a mesh; None where one device has the whole batch."""
    found = Parties(mesh, (DATA,))
    return found if found.size > 1 else None
