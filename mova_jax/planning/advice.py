"""What to change: when a program does not fit, in the order in which it costs least."""

from typing import Any

from mova_jax.config import Config, flatten

TIGHT = 0.05  # of the memory free: less than this and another length of captions may not fit


def advice(config: Config, made: dict[str, Any]) -> list[str]:
    """Lines that each name a key.

    Args:
        config: the configuration that was planned.
        made: the report so far: `fits`, `memory`, `mesh`, `devices`, `roofline` where there is one.
    """
    if made["fits"]:
        return _of_a_program_that_fits(config, made)
    keys, devices = flatten(config), made["devices"]
    lines = []
    memory = made["memory"]
    if memory["usable"] and memory["batch"] > 0.5 * memory["usable"]:
        lines.append(
            f"the frames of the batch alone take {memory['batch'] / 2**30:.1f} GiB of a device: "
            "only a smaller train.batch_size, fewer data.frames or more chips help"
        )
    if config.model.dtype == "float32":
        lines.append("model.dtype=bfloat16: half the activations; parameters stay float32")
    if config.model.remat != "full":
        lines.append("model.remat=full: the towers' blocks are computed again, not kept")
    if _pairs_are_made(config) and not config.losses.pair_block:
        lines.append("losses.pair_block=16: masks of so many videos' pairs at a time")
    rows = keys.get("train.microbatch")
    if rows is not None and (not rows or rows > devices):
        fewer = max(devices, (rows or config.train.batch_size) // 4)
        lines.append(
            f"train.microbatch={fewer}: so many videos go through the towers at once; the same "
            "gradient"
        )
    if made["mesh"].get("fsdp", 0) == 1 and devices > 1:
        lines.append(
            f"mesh.fsdp={min(devices, 16)}: parameters and optimizer state, "
            f"{memory['state_whole'] / 2**30:.1f} GiB a device when whole, are split"
        )
    if config.data.frames > 8:
        lines.append(
            f"data.frames={config.data.frames // 2}: half the frames, half the activations"
        )
    lines.append(f"more chips than {made['chips']}: a device has fewer videos")
    return lines


def _pairs_are_made(config: Config) -> bool:
    losses = config.losses
    return bool(losses.sfdm or (losses.dfsm and losses.dfsm_masks == "pair"))


def _of_a_program_that_fits(config: Config, made: dict[str, Any]) -> list[str]:
    lines = []
    memory, bounds = made["memory"], made.get("roofline")
    if memory["free"] is not None and memory["free"] < TIGHT * memory["usable"]:
        lines.append("the memory is nearly full: a newer compiler may want a little more")
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
