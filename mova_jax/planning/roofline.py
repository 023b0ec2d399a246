"""How fast a step can be: the slowest of what it has to compute, to move and to send.

    compute   FLOPs of the program / peak of the matrix units
    HBM       bytes between memory and cores / bandwidth of the memory
    ICI       bytes that a device receives / links that it can receive over at once
    DCN       bytes between slices / bandwidth of the network

With perfect overlap a step takes as long as the slowest of the four; without any overlap of
communication, the slower of the first two and then the others. Real programs lie above the first
and rarely above the second, for no unit reaches its peak: both are bounds, not measurements.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from mova_jax.cost.chips import Chip
from mova_jax.planning.collectives import NETWORK, Collective, links


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds of one step."""

    compute: float
    hbm: float
    ici: float
    dcn: float

    @property
    def step(self) -> float:
        """With perfect overlap."""
        return max(self.compute, self.hbm, self.ici, self.dcn)

    @property
    def without_overlap(self) -> float:
        """One after the other."""
        return max(self.compute, self.hbm) + self.ici + self.dcn

    @property
    def bound(self) -> str:
        """What the step waits for."""
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
        chip: what the devices are.
        passes: FLOPs of the matrix units, over all devices.
        moved: bytes between a device's memory and its cores.
        found: the collectives of the program.
        devices: of all slices, in the order of the program's numbers, which count within a slice.
        shape: chips along each axis of a slice.
    """
    ici = dcn = 0.0
    for collective in found:
        if collective.kind == NETWORK:
            dcn += collective.bytes / (chip.dcn_bandwidth / chip.devices)
            continue
        used = 1.0  # a permutation goes to one neighbour, over one link
        if collective.kind != "collective-permute":
            used = links(collective.group, devices, shape, chip)
        ici += collective.bytes / (chip.link_bandwidth * used)
    return Roofline(
        compute=passes / len(devices) / (chip.peak_flops / chip.devices),
        hbm=moved / (chip.hbm_bandwidth / chip.devices),
        ici=ici,
        dcn=dcn,
    )
