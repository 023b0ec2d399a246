"""Renders the estimate of a plan as text."""

from typing import Any

GIB = 2**30


def render(made: dict[str, Any]) -> str:
    """The page of an estimate, as lines of text."""
    lines = [*_head(made), "", *_memory(made), "", *_flops(made)]
    if "collectives" in made:
        lines += ["", *_collectives(made)]
    if "roofline" in made:
        lines += ["", *_roofline(made), "", *_cost(made)]
    elif made["fits"]:
        lines += ["", f"{made['chip']} is not in the table of chips: no roofline, no cost."]
    if made["advice"]:
        title = "Worth a thought" if made["fits"] else "It does not fit. In this order, try"
        lines += ["", title, *(f"  {i}. {line}" for i, line in enumerate(made["advice"], 1))]
    return "\n".join(lines)


def size(count: float | None) -> str:
    """Bytes in GiB or MiB."""
    if count is None:
        return "unknown"
    return f"{count / GIB:,.2f} GiB" if abs(count) >= 0.1 * GIB else f"{count / 2**20:,.1f} MiB"


def _row(name: str, *cells: str) -> str:
    return f"  {name:24}" + "".join(f"{cell:>16}" for cell in cells)


def _head(made: dict[str, Any]) -> list[str]:
    mesh = " x ".join(f"{axis} {n}" for axis, n in made["mesh"].items())
    frozen = f", frozen: {', '.join(made['frozen_towers'])}" if made["frozen_towers"] else ""
    return [
        f"{made['config']} on {made['topology']}: {made['chips']} {made['chip']} chip(s), "
        f"{made['devices']} device(s), mesh {mesh}",
        f"batch {made['batch']} in all, {made['batch_per_device']:g} a device; {made['frames']} "
        f"frames, {made['tokens']} tokens; {made['parameters'] / 1e6:,.1f}M parameters, products "
        f"in {made['dtype']}{frozen}",
    ]


def _memory(made: dict[str, Any]) -> list[str]:
    memory = made["memory"]
    if "total" not in memory:
        wanted = size(memory["wanted"]) if memory["wanted"] else "more than there is"
        first = memory["message"].splitlines()[0][:300]
        return [
            f"Memory of a device: the program wants {wanted} of {size(memory['usable'])}",
            f"  {first}",
        ]
    lines = ["Memory of a device"]
    new = memory["outputs"] - memory["aliased"]
    for name, count in (
        ("arguments", memory["arguments"]),
        ("temporaries", memory["temporaries"]),
        ("results, code", new + memory["code"]),
        ("in all", memory["total"]),
    ):
        lines.append(_row(name, size(count)))
    if memory["usable"]:
        lines.append(_row("free", size(memory["free"]), f"of {size(memory['usable'])}"))
    if memory["share_of_card"]:
        lines.append(
            f"  JAX takes {memory['share_of_card']:.0%} of a GPU's memory (launch/gpu.sh); NCCL "
            "and cuDNN need the rest."
        )
    if memory["host"]:
        lines.append(_row("frames, on the host", size(memory["host"])))
    return lines


def _flops(made: dict[str, Any]) -> list[str]:
    flops = made["flops"]
    lines = ["TFLOPs of a step, all devices" + f"{'the method':>13}{'the program':>16}"]
    parts = dict.fromkeys([*flops["model_global_by_part"], *flops["program_global_by_part"]])
    for part in parts:
        needed = flops["model_global_by_part"].get(part, 0.0)
        done = flops["program_global_by_part"].get(part, 0.0)
        if needed or done:
            lines.append(
                _row(part.replace("_", " "), f"{needed / 1e12:,.4g}", f"{done / 1e12:,.4g}")
            )
    lines.append(
        _row(
            "in all",
            f"{flops['model_global'] / 1e12:,.4g}",
            f"{flops['program_global'] / 1e12:,.4g}",
        )
    )
    lines.append(
        f"  The modular part adds {flops['modular_added']:.1%} to the rest; as computed, "
        f"{flops['modular_added_program']:.1%}."
    )
    if flops["loops_of_unknown_length"]:
        lines.append(
            f"  {flops['loops_of_unknown_length']} loop(s) whose length depends on the data, each "
            f"counted {flops['loop_trips']:.3g} times, the mean."
        )
    return lines


def _collectives(made: dict[str, Any]) -> list[str]:
    found = made["collectives"]
    lines = [f"Collectives: a device receives {size(found['bytes'])} a step"]
    for kind, sums in found["by_kind"].items():
        lines.append(_row(kind, f"{sums['count']:,.0f} times", size(sums["bytes"])))
    if "bytes_between_nodes" in found:
        lines.append(_row("of it between nodes", "", size(found["bytes_between_nodes"])))
    for one in found["largest"][:3]:
        over = f" over {one['devices']}" if one["devices"] else ""
        what = f"{one['kind']}{over}, {one['times']:,.0f} x"
        lines.append(f"  largest: {size(one['bytes']):>11} {what}, {one['source'][-70:]}")
    return lines


def _roofline(made: dict[str, Any]) -> list[str]:
    bounds = made["roofline"]
    moved, flops = made["bytes"]["hbm"], made["flops"]["matrix_passes"]
    inside, outside = made["networks"]
    bound = {"hbm": "HBM", "ici": inside, "dcn": outside}.get(bounds["bound"], bounds["bound"])
    return [
        f"Roofline of a step, bound by {bound} ({bounds['chip_source']})",
        _row("compute", _time(bounds["compute_seconds"]), f"{flops / 1e12:,.3g} TFLOP"),
        _row("HBM", _time(bounds["hbm_seconds"]), size(moved)),
        _row(inside, _time(bounds["ici_seconds"])),
        _row(outside, _time(bounds["dcn_seconds"])),
        _row(
            "a step takes at least",
            _time(bounds["step_seconds"]),
            f"MFU {bounds['mfu']:.1%}",
            f"{bounds['videos_per_second']:,.0f} videos/s",
        ),
        _row(
            "without any overlap",
            _time(bounds["step_seconds_without_overlap"]),
            f"MFU {bounds['mfu_without_overlap']:.1%}",
            f"{bounds['videos_per_second_without_overlap']:,.0f} videos/s",
        ),
    ]


def _cost(made: dict[str, Any]) -> list[str]:
    cost = made["cost"]
    run = "" if cost["run_usd"] is None else f"{cost['run_usd']:,.2f} USD"
    price = cost["price_chip_hour"]
    at = (
        f"{price:.2f} USD a chip-hour ({cost['price_source']})"
        if price is not None
        else cost["price_source"]
    )
    lines = [
        f"Cost at least, without overlap, at {at}",
        _row(f"{cost['run_steps']:,} steps", f"{cost['run_chip_hours']:,.2f} chip-h", run),
    ]
    if cost["epoch_videos"] is None:
        return [*lines, "  give --videos for the cost of an epoch"]
    usd = "" if cost["epoch_usd"] is None else f"{cost['epoch_usd']:,.2f} USD"
    name = f"epoch, {cost['epoch_videos']:,} videos"
    return [*lines, _row(name, f"{cost['epoch_chip_hours']:,.2f} chip-h", usd)]


def _time(seconds: float) -> str:
    return f"{seconds:,.2f} s" if seconds >= 1 else f"{seconds * 1e3:,.2f} ms"
