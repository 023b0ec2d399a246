"""The replica groups of a mesh: collectives over the devices that shard the batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from mova_jax.losses.replica_group import ReplicaGroup, SingleReplica
from mova_jax.parallel import sharding


class MeshReplicaGroup:
    """The `losses.replica_group.ReplicaGroup` of a mesh.

    `shard_map` is manual over the axes of the batch only: over the others the compiler partitions a
    replica's computation.
    """

    def __init__(self, mesh: Mesh):
        """The replicas of this mesh."""
        self._mesh, self._axes = mesh, sharding.LOGICAL["batch"]
        self.size = sharding.batch_shards(mesh)

    def shard_map(self, fn: Callable, replicated: Any, sharded: Any) -> Any:
        """Runs `fn(replicated, sharded)` on each replica; it returns values equal on all."""

        def run(replicated, sharded):
            return fn(self.pvary(replicated), sharded)

        return jax.shard_map(
            run,
            mesh=self._mesh,
            in_specs=(
                sharding.replicated(self._mesh).spec,
                sharding.batch_sharding(self._mesh).spec,
            ),
            out_specs=sharding.replicated(self._mesh).spec,
            axis_names=set(self._axes),
        )(replicated, sharded)

    def rank(self) -> Int[Array, ""]:
        """Index of this replica, from 0, in the order of the batch."""
        return jax.lax.axis_index(self._axes)

    def ring_shift(self, tree: Any) -> Any:
        """Sends a pytree to the next replica and returns that of the previous one."""
        ring = [(i, (i + 1) % self.size) for i in range(self.size)]
        return jax.lax.ppermute(tree, self._axes, ring)

    def psum(self, tree: Any) -> Any:
        """The sum over all replicas."""
        return jax.lax.psum(tree, self._axes)

    def all_gather(self, tree: Any) -> Any:
        """The rows of all replicas, in the order of the batch."""
        return jax.lax.all_gather(tree, self._axes, tiled=True)

    def pvary(self, tree: Any) -> Any:
        """Marks arrays that are equal on all replicas as varying: their gradients are summed."""
        return jax.lax.pcast(tree, self._axes, to="varying")

    def ordered(self, exchange: Callable, tree: Any) -> Any:
        """`exchange(tree)`; the runtimes of accelerators start collectives in program order."""
        return exchange(tree)


class CpuReplicaGroup(MeshReplicaGroup):
    """Replicas on simulated devices, whose collectives have to be ordered by data dependence.

    XLA's CPU runtime may start collectives that do not depend on each other in a different order on
    each device, and then all of them hang. Here the inputs of each exchange depend on the
    results of the exchange before, and therefore the gradients of that one on the gradients of this
    one. The dependence is a zero that is added to float arrays.
    """

    def __init__(self, mesh: Mesh):
        """The replicas of this mesh."""
        super().__init__(mesh)
        self._after: jax.Array | None = None  # a zero that depends on the exchange before

    def shard_map(self, fn: Callable, replicated: Any, sharded: Any) -> Any:
        """As of every mesh; no gradient of the arguments is summed before all are computed."""

        def run(*arguments):
            self._after = None
            return fn(*_add(arguments, _zero_of(arguments)))

        return super().shard_map(run, replicated, sharded)

    def psum(self, tree: Any) -> Any:
        """The sum over all replicas, when every summand is computed."""
        return super().psum(_add(tree, _zero_of(tree)))

    def all_gather(self, tree: Any) -> Any:
        """The rows of all replicas of float arrays, one array after the other."""
        gather = super().all_gather
        return jax.tree.map(lambda leaf: self.ordered(gather, leaf), tree)

    def ordered(self, exchange: Callable, tree: Any) -> Any:
        """`exchange(tree)`, after the exchange of the last call."""
        result = exchange(tree if self._after is None else _add(tree, self._after))
        self._after = _zero_of(result)
        return result


def _zero_of(tree: Any) -> Float[Array, ""]:
    """A zero that depends on every float array of a tree, whatever values these have."""
    floats = [leaf for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    firsts = [leaf.reshape(-1)[0].astype(jnp.float32) for leaf in floats]
    return 0.0 * sum(jnp.where(jnp.isfinite(first), first, 0.0) for first in firsts)


def _add(tree: Any, zero: Float[Array, ""]) -> Any:
    """Adds a zero to the float arrays of a tree."""
    return jax.tree.map(
        lambda x: x + zero.astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


def replica_group(mesh: Mesh) -> ReplicaGroup:
    """The replicas between which a mesh shards the batch."""
    if sharding.batch_shards(mesh) == 1:
        return SingleReplica()
    is_cpu = mesh.devices.flat[0].platform == "cpu"
    return (CpuReplicaGroup if is_cpu else MeshReplicaGroup)(mesh)
