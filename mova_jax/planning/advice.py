"""Suggests config changes; for a program that does not fit, the cheapest first."""

from typing import Any

from mova_jax.config import Config
from mova_jax.data.pipeline.batching import PipelineSettings

TIGHT = 0.05  # share of memory free, below which another caption length may not fit
HOST = 8 * 2**30  # bytes of offloaded frames per device that the host of a TPU can hold


def advice(config: Config, made: dict[str, Any]) -> list[str]:
    """One line per suggestion, each naming a config key.

    Args:
        config: the configuration that was planned.
        made: the estimate so far: `fits`, `memory`, `mesh`, `slices`, `roofline` if there is one.
    """
    if made["fits"]:
        return _of_a_program_that_fits(config, made)
    lines = []
    memory = made["memory"]
    if memory["usable"] and memory["batch"] > 0.5 * memory["usable"]:
        lines.append(
            f"the frames of the batch alone take {memory['batch'] / 2**30:.1f} GiB of a device: "
            "with train.microbatch they wait in the memory of the host"
        )
    if config.model.dtype == "float32":
        lines.append("model.dtype=bfloat16: half the activations; parameters stay float32")
    if config.model.remat != "full":
        lines.append("model.remat=full: the towers' blocks are recomputed in the backward pass")
    if rows := _fewer_rows(config, made):
        lines.append(
            f"train.microbatch={rows}: the towers take that many videos at a time; the same "
            "gradient"
        )
    if keys := _split_state(config, made):
        lines.append(
            f"{keys}: parameters and optimizer state, "
            f"{memory['state_whole'] / 2**30:.1f} GiB a device when whole, are split"
        )
    if config.data.frames > 8:
        lines.append(
            f"data.frames={config.data.frames // 2}: half the frames, half the activations"
        )
    lines.append(f"more chips than {made['chips']}: a device has fewer videos")
    return lines


def _fewer_rows(config: Config, made: dict[str, Any]) -> int:
    """About a quarter of the rows of a microbatch today; 0 when no smaller number divides."""
    train, shards = config.train, made["mesh"]["data"] * made["mesh"]["fsdp"]
    now = train.microbatch or train.batch_size
    most = max(shards, now // 4)
    divide = [
        rows for rows in range(shards, min(most + 1, now), shards) if train.batch_size % rows == 0
    ]
    return max(divide, default=0)


def _split_state(config: Config, made: dict[str, Any]) -> str:
    """Keys that move up to 16 devices from `data` to `fsdp`; '' when that is impossible."""
    mesh = made["mesh"]
    if mesh["fsdp"] > 1:
        return ""
    # The data axis spans slices and nodes.
    a_slice = mesh["data"] // (made["slices"] * made.get("nodes", 1))
    size = max(n for n in range(1, 17) if a_slice % n == 0)
    if size == 1:
        return ""
    data = "" if config.mesh.data == -1 else f"mesh.data={mesh['data'] // size} "
    return f"{data}mesh.fsdp={size}"


def _of_a_program_that_fits(config: Config, made: dict[str, Any]) -> list[str]:
    lines = []
    memory, bounds = made["memory"], made.get("roofline")
    if memory["free"] is not None and memory["free"] < TIGHT * memory["usable"]:
        lines.append("the memory is nearly full: a newer compiler may want a little more")
    if memory["host"] > HOST:
        ahead = PipelineSettings.prefetch
        lines.append(
            f"the host holds {(3 + ahead) * memory['host'] / 2**30:.0f} GiB of frames for each "
            "device: of this batch, the next one twice (as read and as placed), and "
            f"{ahead} read ahead; check that it has as much"
        )
    if config.train.microbatch and config.model.remat == "full":
        lines.append(
            "train.microbatch computes the towers a second time, and model.remat=full a third: "
            "model.remat=dots with fewer rows at a time does a fifth less"
        )
    if not bounds:
        return lines
    if made["flops"]["program"] > 1.15 * made["flops"]["model"] and memory["free"] > (
        0.4 * memory["usable"]
    ):
        lines.append("memory is left: with less model.remat fewer FLOPs are computed twice")
    if bounds["bound"] in ("ici", "dcn"):
        lines.append(
            "communication takes longest: a larger train.batch_size, or fewer chips, gives each "
            "more to compute"
        )
    if bounds["bound"] == "hbm" and config.model.dtype == "float32":
        lines.append("the memory's bandwidth takes longest: model.dtype=bfloat16 halves the bytes")
    return lines
