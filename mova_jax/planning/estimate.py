"""The figures of a plan as nested dicts of plain numbers, as `plan --json` prints them.

Key names are stable. Bytes and FLOPs are per device unless a name says otherwise; times are seconds
of one step.
"""

import dataclasses
from typing import Any

from mova_jax.config import Config
from mova_jax.cost.chips import GPU_MEMORY_SHARE, PRICES, Chip
from mova_jax.cost.flops import Cost, model_flops
from mova_jax.parallel import sharding
from mova_jax.planning import collectives, hbm_traffic, hlo, jaxpr_flops
from mova_jax.planning.advice import advice
from mova_jax.planning.compile import CompileResult, Step, versions
from mova_jax.planning.roofline import roofline
from mova_jax.planning.targets import Topology, local_shape

MODULAR = ("tmn", "cmn", "modular_losses")
HOUR = 3600.0
LARGEST = 8  # collectives that are listed individually


@dataclasses.dataclass(frozen=True)
class PlanRequest:
    """The configuration and target of a plan."""

    name: str  # of the configuration
    topology: Topology
    chip: Chip | None
    tokens: int  # l
    epoch: int | None  # videos; None: unknown
    price: float | None  # USD per chip-hour; None: the list price


def estimate(step: Step, result: CompileResult, request: PlanRequest) -> dict[str, Any]:
    """All figures of a compiled step.

    Args:
        step: from `compile.trace`.
        result: from `compile.compile_step`.
        request: the target it was compiled for.

    Returns:
        Nested dicts of numbers, strings and lists. A program that does not fit has no `bytes`,
        `collectives`, `roofline` and `cost`; a device without an entry in `CHIPS` has no `roofline`
        and `cost`.
    """
    config = step.config
    devices = list(step.mesh.devices.flat)
    made = _what(step, request, devices)
    made["fits"] = _fits(result, request.chip)
    made["memory"] = _memory(step, result, request.chip)
    model = model_flops(config, request.tokens, step.frozen, parts=step.parts)
    gpu = bool(request.chip and request.chip.is_gpu)
    counted = jaxpr_flops.count(
        step.traced, step.trips, jaxpr_flops.GPU_PASSES if gpu else jaxpr_flops.TPU_PASSES
    )
    made["flops"] = _flops(model, counted, result, len(devices)) | {"loop_trips": step.trips}
    if result.fits:
        module = hlo.parse(result.text)
        found = collectives.of_program(
            module, len(devices) // request.topology.slices, devices[0].platform == "tpu"
        )
        moved = hbm_traffic.bytes_moved(module)
        made["bytes"] = {"hbm": moved, "compiler": result.bytes_accessed}
        made["collectives"] = _collectives(found)
        if made["nodes"] > 1:
            nodes = [device.process_index for device in devices]
            made["collectives"]["bytes_between_nodes"] = sum(
                collectives.from_other_nodes(collective, nodes) for collective in found
            )
        if request.chip:
            shape = request.topology.shape or local_shape(request.chip, devices)
            bounds = roofline(request.chip, counted.passes, moved, found, devices, shape)
            made["roofline"] = _roofline(bounds, made, request.chip, config)
            made["cost"] = _cost(made, request, config)
    made["advice"] = advice(config, made)
    made["compile_seconds"] = result.seconds
    made["versions"] = versions()
    return made


def _what(step: Step, request: PlanRequest, devices: list[Any]) -> dict[str, Any]:
    config, chip = step.config, request.chip
    return {
        "config": request.name,
        "topology": request.topology.name,
        "chip": chip.name if chip else devices[0].device_kind,
        "chips": len(devices) // (chip.devices if chip else 1),
        "devices": len(devices),
        "slices": request.topology.slices,
        "nodes": request.topology.shape[0] if request.topology.platform == "gpu" else 1,
        "networks": chip.networks if chip else None,
        "mesh": dict(step.mesh.shape),
        "batch": config.train.batch_size,
        "batch_per_device": config.train.batch_size / sharding.batch_shards(step.mesh),
        "frames": config.data.frames,
        "tokens": request.tokens,
        "vocabulary": config.model.text.vocab_size,
        "dtype": config.model.dtype,
        "parameters": step.parameters,
        "frozen_towers": sorted(step.frozen),
    }


def _fits(result: CompileResult, chip: Chip | None) -> bool:
    return result.fits and (not chip or result.total <= chip.hbm_usable / chip.devices)


def _memory(step: Step, result: CompileResult, chip: Chip | None) -> dict[str, Any]:
    usable: float | None = result.available or (chip.hbm_usable / chip.devices if chip else None)
    made = {
        "usable": usable,
        "share_of_card": GPU_MEMORY_SHARE if chip and chip.is_gpu else None,
        "state_whole": step.state_bytes,
        "batch": step.batch_bytes,
        "host": step.host_bytes,
    }
    if not result.fits:
        return made | {"wanted": result.wanted or None, "message": result.message}
    return made | {
        "arguments": result.arguments,
        "outputs": result.outputs,
        "aliased": result.aliased,
        "temporaries": result.temporaries,
        "code": result.code,
        "total": result.total,
        "free": usable - result.total if usable else None,
    }


def _flops(
    model: dict[str, Cost], counted: jaxpr_flops.Count, result: CompileResult, devices: int
) -> dict[str, Any]:
    total = sum(cost.total for cost in model.values())
    modular = sum(model[part].total for part in MODULAR)
    computed = sum(counted.flops.get(part, 0.0) for part in MODULAR)
    return {
        "model_global": total,
        "model_global_forward": sum(cost.forward for cost in model.values()),
        "model_global_by_part": {part: cost.total for part, cost in model.items()},
        "model": total / devices,
        "program_global": counted.total,
        "program_global_by_part": counted.flops,
        "program": counted.total / devices,
        "matrix_passes": counted.passes / devices,
        "loops_of_unknown_length": counted.loops,
        # The modular part relative to the towers, the head and the global loss.
        "modular_added": modular / (total - modular),
        "modular_added_program": computed / (counted.total - computed),
        "compiler": result.flops,
    }


def _collectives(found: list[collectives.Collective]) -> dict[str, Any]:
    kinds: dict[str, dict[str, float]] = {}
    for collective in found:
        kind = kinds.setdefault(collective.kind, {"count": 0.0, "bytes": 0.0})
        kind["count"] += collective.times
        kind["bytes"] += collective.bytes
    largest = sorted(found, key=lambda collective: -collective.bytes)[:LARGEST]
    return {
        "bytes": sum(kind["bytes"] for kind in kinds.values()),
        "by_kind": {kind: kinds[kind] for kind in collectives.KINDS if kind in kinds},
        "largest": [
            {
                "kind": collective.kind,
                "bytes": collective.bytes,
                "times": collective.times,
                "devices": collective.size,
                # Where the compiler merged several, this is one of them.
                "source": collective.source,
            }
            for collective in largest
        ],
    }


def _roofline(bounds, made: dict[str, Any], chip: Chip, config: Config) -> dict[str, Any]:
    peak = chip.peak_flops / chip.devices

    def share(flops: float, seconds: float) -> float:
        return flops / peak / seconds

    model, computed = made["flops"]["model"], made["flops"]["program"]
    return {
        "compute_seconds": bounds.compute,
        "hbm_seconds": bounds.hbm,
        "ici_seconds": bounds.ici,
        "dcn_seconds": bounds.dcn,
        "step_seconds": bounds.step,
        "step_seconds_without_overlap": bounds.without_overlap,
        "bound": bounds.bound,
        "mfu": share(model, bounds.step),
        "mfu_without_overlap": share(model, bounds.without_overlap),
        "hfu": share(computed, bounds.step),
        "communication_share": (bounds.ici + bounds.dcn) / bounds.without_overlap,
        "videos_per_second": config.train.batch_size / bounds.step,
        "videos_per_second_without_overlap": config.train.batch_size / bounds.without_overlap,
        "chip_source": chip.source,
    }


def _cost(made: dict[str, Any], request: PlanRequest, config: Config) -> dict[str, Any]:
    """Cost of an epoch and of the run, at the slower of the two time bounds."""
    chip = request.chip
    price = chip.price if request.price is None else request.price
    seconds = made["roofline"]["step_seconds_without_overlap"]
    step = seconds / HOUR * made["chips"]
    run = config.train.steps * step
    epoch = None if request.epoch is None else request.epoch / config.train.batch_size * step
    given = "given" if request.price is not None else f"{chip.price_region}; {PRICES}"
    return {
        "epoch_videos": request.epoch,
        "epoch_hours": None if epoch is None else epoch / made["chips"],
        "epoch_chip_hours": epoch,
        "run_steps": config.train.steps,
        "run_chip_hours": run,
        "price_chip_hour": price,
        "price_source": given if price is not None else "not known: give --price",
        "epoch_usd": None if price is None or epoch is None else epoch * price,
        "run_usd": run * price if price is not None else None,
    }
