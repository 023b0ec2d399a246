"""Collectives of the replicas that share a batch, as the losses call them.

A replica is a device, or the group of devices that share the same rows of the batch. Losses run
per-replica code inside `group.shard_map` and see nothing of the mesh. `SingleReplica` is the group
of an unsharded batch; `mova_jax.parallel.collectives` has that of a mesh.
"""

from collections.abc import Callable
from typing import Any, Protocol

from jaxtyping import Array, Int


class ReplicaGroup(Protocol):
    """Replicas of a sharded batch. All methods but `shard_map` are called inside `shard_map`."""

    size: int  # number of replicas

    def shard_map(self, fn: Callable, replicated: Any, sharded: Any) -> Any:
        """Runs `fn(replicated, sharded)` on each replica.

        Args:
            fn: returns values that are equal on all replicas, such as the results of `psum`.
            replicated: pytree that each replica gets whole. Its gradients are summed over replicas.
            sharded: pytree of which each replica gets its rows.
        """

    def rank(self) -> Int[Array, ""] | int:
        """Index of this replica, from 0, in the order of the batch."""

    def ring_shift(self, tree: Any) -> Any:
        """Sends a pytree to the next replica and returns that of the previous one."""

    def psum(self, tree: Any) -> Any:
        """The sum over all replicas."""

    def all_gather(self, tree: Any) -> Any:
        """The rows of all replicas, in the order of the batch.

        Args:
            tree: float arrays `[r ...]`; each is gathered by a collective of its own.
        """

    def pvary(self, tree: Any) -> Any:
        """Marks arrays that are equal on all replicas as varying, as `jax.lax.pcast` does."""

    def ordered(self, exchange: Callable, tree: Any) -> Any:
        """`exchange(tree)`, after the exchanges of earlier calls where a backend requires an order.

        The methods above keep that order by themselves. Code that calls `ring_shift` in a loop
        passes the loop as `exchange`.
        """


class SingleReplica:
    """The `ReplicaGroup` of a batch that is not sharded: nothing to exchange."""

    size = 1

    def shard_map(self, fn: Callable, replicated: Any, sharded: Any) -> Any:
        """Calls `fn`."""
        return fn(replicated, sharded)

    def rank(self) -> int:
        """0."""
        return 0

    def ring_shift(self, tree: Any) -> Any:
        """The tree itself, as are the results of all other collectives."""
        return tree

    psum = all_gather = pvary = ring_shift

    def ordered(self, exchange: Callable, tree: Any) -> Any:
        """Calls `exchange`."""
        return exchange(tree)
