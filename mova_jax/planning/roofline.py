"""Bounds on the time of a step, from what it computes, moves and sends.

    compute   FLOPs of the program / peak of the matrix units
    HBM       bytes between memory and cores / bandwidth of the memory
    ICI       bytes that a device receives / bandwidth of the links it uses
    DCN       bytes between slices / bandwidth of the network

For GPUs, ICI is NVLink (or PCIe) within a node and DCN the network between nodes.

With perfect overlap a step takes as long as the slowest of the four. Without overlap of
communication it takes the slower of the first two plus the others. Both are bounds, not
measurements: no unit reaches its peak.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from mova_jax.cost.chips import Chip
from mova_jax.planning.collectives import NETWORK, Collective, from_other_nodes, links


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds of one step."""

    compute: float
    hbm: float
    ici: float
    dcn: float

    @property
    def step(self) -> float:
        """Seconds with perfect overlap."""
        return max(self.compute, self.hbm, self.ici, self.dcn)

    @property
    def without_overlap(self) -> float:
        """Seconds when communication overlaps with nothing."""
        return max(self.compute, self.hbm) + self.ici + self.dcn

    @property
    def bound(self) -> str:
        """The resource that limits the step."""
        times = {"compute": self.compute, "hbm": self.hbm, "ici": self.ici, "dcn": self.dcn}
        return max(times, key=times.get)


def roofline(
    chip: Chip,
    passes: float,
    moved: float,
    found: Sequence[Collective],
    devices: Sequence[Any],
    shape: tuple[int, ...],
) -> Roofline:
    """The bounds of a step.

    Args:
        chip: of the devices.
        passes: FLOPs of the matrix units, over all devices.
        moved: bytes between a device's memory and its cores.
        found: the collectives of the program.
        devices: of all slices; the program numbers them within a slice, in this order.
        shape: chips along each axis of a slice.
    """
    ici = dcn = 0.0
    nodes = [device.process_index for device in devices] if chip.is_gpu else []
    for collective in found:
        if chip.is_gpu:
            outside = from_other_nodes(collective, nodes)
            dcn += outside / chip.dcn_bandwidth
            ici += (collective.bytes - outside) / chip.link_bandwidth
            continue
        if collective.kind == NETWORK:
            dcn += collective.bytes / (chip.dcn_bandwidth / chip.devices)
            continue
        used = 1.0  # a permute goes to one neighbour over one link
        if collective.kind != "collective-permute":
            used = links(collective.group, devices, shape, chip)
        ici += collective.bytes / (chip.link_bandwidth * used)
    return Roofline(
        compute=passes / len(devices) / (chip.peak_flops / chip.devices),
        hbm=moved / (chip.hbm_bandwidth / chip.devices),
        ici=ici,
        dcn=dcn,
    )
