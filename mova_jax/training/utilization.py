"""How well a run uses its devices: model FLOPs against their peak, and the memory in use."""

import jax

from mova_jax.cost import chips
from mova_jax.cost.flops import frozen_towers, model_flops
from mova_jax.training.state import TrainSpec
from mova_jax.typing import Batch

_GIB = 2**30


class Utilization:
    """`time/mfu` where the chip is in the table of `cost/chips.py`; memory where it is told."""

    def __init__(self, spec: TrainSpec, mesh: jax.sharding.Mesh):
        """Looks the devices up."""
        self._config, self._frozen = spec.config, frozen_towers(spec.factors)
        self._device = mesh.local_devices[0]
        chip = chips.of_kind(self._device.device_kind)
        self._peak = mesh.size * chip.peak_flops / chip.devices if chip else 0.0

    def figures(self, batch: Batch, step_s: float | None) -> dict[str, float]:
        """What there is to tell of steps on such a batch.

        Args:
            batch: on the devices; its shapes are read.
            step_s: seconds of a step; None where none was measured yet.

        Returns:
            `time/mfu`: FLOPs that the method needs for a step (docs/plan.md) over what all devices
            of the mesh could do in that time; `device/hbm_gib`: the most memory that this process's
            first device had in use.
        """
        found = {}
        if self._peak and step_s:
            videos, frames = batch.frame_mask.shape
            cost = model_flops(
                self._config, batch.tokens.shape[1], self._frozen, batch=videos, frames=frames
            )
            done = sum(part.total for part in cost.values())
            found["time/mfu"] = done / (step_s * self._peak)
        stats = self._device.memory_stats() or {}
        if "peak_bytes_in_use" in stats:
            found["device/hbm_gib"] = stats["peak_bytes_in_use"] / _GIB
        return found
