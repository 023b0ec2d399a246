"""Checksums of arrays, by which a checkpoint that its disk damaged is found when it is read.

    saved = state_checksums({"step": ..., "params": ...})     # {"step": 1, "params": 3405691582}
    differing(saved, state_checksums(restored))               # names of the fields that differ

The numbers are made where the arrays are, of the bits of all values with a weight for their place,
modulo 2**32. So they are the same on every mesh, each process has all, and a change of one value is
always found; of several, all but one in four billion.
"""

import json
import math
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt32

_BLOCK = 2**20  # values at a time on the host
_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}  # by bytes


def state_checksums(fields: Mapping[str, Any]) -> dict[str, int]:
    """One number for each field of a state, a tree of arrays of at most 4 bytes a value."""
    if all(map(_is_in_memory, jax.tree.leaves(fields))):  # compiling takes longer than small states
        return {name: _of_host_tree(tree) for name, tree in fields.items()}
    return {name: int(value) for name, value in jax.device_get(_checksums(dict(fields))).items()}


def json_checksum(value: Any) -> int:
    """A number for what JSON can hold; the order of keys does not matter."""
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def differing(saved: Mapping[str, int], found: Mapping[str, int]) -> list[str]:
    """Names that both have and whose numbers differ."""
    return sorted(name for name in saved.keys() & found.keys() if saved[name] != found[name])


def _is_in_memory(leaf: Any) -> bool:
    """Whether NumPy reads an array without a copy from a device or another process."""
    if not isinstance(leaf, jax.Array):
        return True
    return leaf.is_fully_addressable and all(d.platform == "cpu" for d in leaf.devices())


def _of_host_tree(tree: Any) -> int:
    total = 0
    for number, leaf in enumerate(jax.tree.leaves(tree)):
        flat = np.ascontiguousarray(leaf).reshape(-1)
        for start in range(0, len(flat), _BLOCK):
            block = flat[start : start + _BLOCK]
            bits = block.view(f"u{block.dtype.itemsize}").astype(np.uint32)
            weight = 2 * np.arange(start, start + len(block), dtype=np.uint32) + np.uint32(1)
            total += (2 * number + 1) * int((bits * weight).sum(dtype=np.uint32))
    return total % 2**32


@jax.jit
def _checksums(fields: dict[str, Any]) -> dict[str, UInt32[Array, ""]]:
    return {name: _of_tree(tree) for name, tree in fields.items()}


def _of_tree(tree: Any) -> UInt32[Array, ""]:
    total = jnp.zeros((), jnp.uint32)
    for number, leaf in enumerate(jax.tree.leaves(tree)):
        total += jnp.uint32(2 * number + 1) * _of_array(leaf)
    return total


def _of_array(leaf: Array) -> UInt32[Array, ""]:
    """The sum of bits times an odd weight: odd numbers have no zero product modulo 2**32."""
    bits = leaf.astype(jnp.uint8) if leaf.dtype == bool else leaf
    bits = jax.lax.bitcast_convert_type(bits, _UNSIGNED[bits.dtype.itemsize]).astype(jnp.uint32)
    weight = jnp.ones((), jnp.uint32)
    for axis in range(leaf.ndim):  # not by a flat index, which would gather what is sharded
        stride = 2 * math.prod(leaf.shape[axis + 1 :]) % 2**32
        place = jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
        weight = weight + jnp.uint32(stride) * place
    return (bits * weight).sum(dtype=jnp.uint32)
