"""Finds the collectives of a compiled program: their kinds, bytes and links.

Bytes are those that a device receives, which decide the time of a bandwidth-bound ring:

    all-gather          result x (n - 1) / n        over n devices
    reduce-scatter      operand x (n - 1) / n
    all-reduce          2 x size x (n - 1) / n      a reduce-scatter and an all-gather
    all-to-all          size x (n - 1) / n
    collective-permute  size
    between slices      bytes received from the network

Devices of TPUs are numbered within their slice. Traffic between slices is not a collective of the
program: the compiler turns it into a `send` and a `recv` through the host. Programs for GPUs number
the devices of all nodes, and `from_other_nodes` is what of a collective crosses their network.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from mova_jax.planning.hlo import Instruction, Module

NETWORK = "between-slices"
KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", NETWORK)
_LISTS = re.compile(r"replica_groups=\{(\{[\d,{} ]*\})\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(r"replica_groups=@?(?:mesh|\w+)\[([^\]]*)\]([^{]*)\{([^}]*)\}")
_ORDER = re.compile(r"device_ids=\(?\[([^\]]*)\](?:<=\[([^\]]*)\])?(?:T\(([\d,]+)\))?")
_PAIRS = re.compile(r"source_target_pairs=\{(\{[\d,{} ]*\})\}")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of the program, over all its executions in a step."""

    kind: str
    source: str  # operation and named scopes it comes from
    times: float
    bytes: float  # received by a device, over all executions
    size: int  # devices in a group
    group: tuple[int, ...]  # device numbers of one group; of one pair for a permute; may be empty
    pairs: tuple[tuple[int, ...], ...] = ()  # of a permute: source and target, device numbers


def of_program(module: Module, devices: int, by_channel: bool = True) -> list[Collective]:
    """All collectives; one that the compiler split into several instructions counts once.

    Args:
        module: the parsed program.
        devices: of a slice, for collectives that name no groups.
        by_channel: whether instructions of one channel are parts of one collective, as in programs
            for TPUs. In those for GPUs all that a `shard_map` holds have the same channel.
    """
    found: dict[str, Collective] = {}
    for instruction, times, computation in _with_fused(module):
        kind = instruction.opcode.removesuffix("-start")
        if kind == "recv" and "xla_megascale" in instruction.attributes:
            kind = NETWORK
        if kind not in KINDS:
            continue
        channel = by_channel and re.search(r"channel_id=(\d+)", instruction.attributes)
        key = channel[1] if channel else f"{computation}/{instruction.name}"
        collective = _collective(kind, instruction, times, devices)
        if key not in found or collective.bytes > found[key].bytes:
            found[key] = collective
    return [c for c in found.values() if c.size > 1 or c.kind == NETWORK]


def _with_fused(module: Module):
    """`module.running()` and the instructions inside fusions, which may hold collectives."""
    for instruction, times, computation in module.running():
        yield instruction, times, computation
        if instruction.opcode == "fusion":
            for name in instruction.called().get("calls", ()):
                for inner in _inside(module, name):
                    yield inner, times, name


def _inside(module: Module, computation: str):
    for instruction in module.computations[computation]:
        yield instruction
        if instruction.opcode == "fusion":
            for name in instruction.called().get("calls", ()):
                yield from _inside(module, name)


def _collective(kind: str, instruction: Instruction, times: float, devices: int) -> Collective:
    arrays = instruction.arrays
    if kind == NETWORK:
        return Collective(kind, instruction.op_name, times, arrays[0].bytes * times, 0, ())
    if instruction.opcode.endswith("-start") and kind != "all-reduce":
        # A start's result is (operands, results, ...): the results are the second half. That of an
        # all-reduce has the results only.
        arrays = [a for a in arrays if a.dims or len(arrays) < 4]
        arrays = arrays[len(arrays) // 2 :]
    size = float(sum(array.bytes for array in arrays))
    if kind == "collective-permute":
        pairs = _pairs(instruction.attributes)
        group = next((pair for pair in pairs if pair[0] != pair[1]), ())
        received = size * times
        return Collective(
            kind, instruction.op_name, times, received, len(group), group, tuple(pairs)
        )
    group = _group(instruction.attributes, devices)
    n = len(group)
    share = (n - 1) / n
    received = {
        "all-gather": size * share,
        "all-reduce": 2 * size * share,
        "reduce-scatter": size * n * share,
        "all-to-all": size * share,
    }[kind]
    return Collective(kind, instruction.op_name, times, received * times, n, group)


def _pairs(attributes: str) -> list[tuple[int, ...]]:
    match = _PAIRS.search(attributes)
    return _lists(match[1]) if match else []


def _lists(text: str) -> list[tuple[int, ...]]:
    groups = re.findall(r"\{([\d, ]*)\}", text)
    return [tuple(int(n) for n in group.split(",") if n.strip()) for group in groups]


def _group(attributes: str, devices: int) -> tuple[int, ...]:
    """The first group of a collective, in any of the three notations."""
    if match := _LISTS.search(attributes):
        return _lists(match[1])[0]
    if match := _IOTA.search(attributes):
        shape, dims = ([int(n) for n in match[i].split(",")] for i in (1, 2))
        numbers = np.arange(math.prod(dims)).reshape(dims)
        if match[3]:
            numbers = numbers.transpose([int(n) for n in match[3].split(",")])
        return tuple(int(n) for n in numbers.reshape(shape)[0])
    if match := _MESH.search(attributes):
        return _mesh_group(*match.groups())
    return tuple(range(devices))


def _mesh_group(axes: str, order: str, used: str) -> tuple[int, ...]:
    """Parses `mesh['x'=4,'y'=2] {'y'}`: devices that differ in these axes only.

    `'x':(m)k` is part of an axis of size n: the middle factor of m, k and n / (m k).
    """
    named = {name: int(n) for name, n in re.findall(r"'([^']+)'=(\d+)", axes)}
    numbers = np.arange(math.prod(named.values())).reshape(tuple(named.values()))
    if listed := _ORDER.search(axes + order):
        # `[a,b]<=[dims]T(order)`, or only `[dims]T(order)`, where the mesh's axes say the rest.
        dims = [int(n) for n in (listed[2] or listed[1]).split(",")]
        numbers = np.arange(math.prod(dims)).reshape(dims)
        if listed[3]:
            numbers = numbers.transpose([int(n) for n in listed[3].split(",")])
        numbers = numbers.reshape(tuple(named.values()))
    index: list[Any] = [0] * len(named)
    for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", used):
        place, total = list(named).index(name), named[name]
        if not size:
            index[place] = slice(None)
        else:
            step = total // (int(before) * int(size))
            index[place] = slice(0, step * int(size), step)
    return tuple(int(n) for n in np.atleast_1d(numbers[tuple(index)]).ravel())


def links(group: Sequence[int], devices: Sequence[Any], shape: tuple[int, ...], chip) -> float:
    """Number of links over which a chip of this group receives at once.

    A group along an axis of the torus uses the links of that axis: two where the axis is a ring,
    one where it is a line, since its ends have one neighbour.

    Args:
        group: numbers of devices.
        devices: in the order of their numbers, with `coords`.
        shape: chips along each axis of the slice.
        chip: from `chips.py`.
    """
    if not chip.torus_axes:
        return 1.0
    coords = np.array([devices[i].coords for i in group])
    count = 0.0
    ring_everywhere = all(n % chip.wraps_at == 0 for n in shape)
    for axis, length in enumerate(shape):
        if len(set(coords[:, axis])) > 1:
            wraps = length == chip.wraps_at if chip.torus_axes == 2 else ring_everywhere
            count += 2.0 if wraps else 1.0
    return max(count, 1.0)


def from_other_nodes(collective: Collective, nodes: Sequence[int]) -> float:
    """Bytes of a collective that a GPU receives over the network of its node, at least.

    What a node needs from the others comes in once, through the network ports of all its GPUs in
    the group, and goes to its other GPUs over their own links.

    Args:
        collective: from `of_program`.
        nodes: the node of each device, in the order of their numbers.
    """
    if collective.kind == "collective-permute":
        # The slowest pair decides, and all send at once.
        crosses = any(nodes[source] != nodes[target] for source, target in collective.pairs)
        return collective.bytes if crosses else 0.0
    places = [nodes[device] for device in collective.group]
    n, here = len(places), places.count(places[0]) if places else 0
    if n == here:
        return 0.0
    outside = collective.bytes * (n - here) / (n - 1)
    # An all-to-all brings each GPU something else; all others bring the node's GPUs the same.
    return outside if collective.kind == "all-to-all" else outside / here
