"""How well a run uses its devices: model FLOPs against their peak, and the memory in use."""

import jax

from mova_jax.cost import chips
from mova_jax.cost.flops import frozen_towers, model_flops
from mova_jax.training.state import TrainSpec
from mova_jax.typing import Batch

_GIB = 2**30


class Utilization:
    """Measures `time/mfu` on chips of `cost/chips.py`, and memory where the device reports it."""

    def __init__(self, spec: TrainSpec, mesh: jax.sharding.Mesh):
        """Looks up the peak of the mesh's devices."""
        self._config, self._frozen = spec.config, frozen_towers(spec.factors)
        self._device = mesh.local_devices[0]
        chip = chips.of_kind(self._device.device_kind)
        self._peak = mesh.size * chip.peak_flops / chip.devices if chip else 0.0

    def metrics(self, batch: Batch, step_s: float | None) -> dict[str, float]:
        """The metrics of steps on batches of this shape.

        Args:
            batch: on the devices; only its shapes are read.
            step_s: seconds of a step; None when none was measured yet.

        Returns:
            `time/mfu`: FLOPs that the method needs for a step (docs/plan.md) over what all devices
            of the mesh could do in that time; `device/hbm_gib`: the peak memory in use on this
            process's first device. Each is left out where it is unknown.
        """
        found = {}
        if self._peak and step_s:
            videos, frames = batch.frame_mask.shape
            parts = (0, 0) if batch.part_tokens is None else batch.part_tokens.shape[1:]
            cost = model_flops(
                self._config, batch.tokens.shape[1], self._frozen, videos, frames, parts
            )
            flops = sum(part.total for part in cost.values())
            found["time/mfu"] = flops / (step_s * self._peak)
        stats = self._device.memory_stats() or {}
        if "peak_bytes_in_use" in stats:
            found["device/hbm_gib"] = stats["peak_bytes_in_use"] / _GIB
        return found
