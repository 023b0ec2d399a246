"""One table of plans: models, batches and topologies, compiled one after the other.

    python -m benchmarks.plan_table                     # the table of docs/pods.md
    python -m benchmarks.plan_table b16/256 v5e:16x16   # rows whose name holds all these words
    python -m benchmarks.plan_table scaling             # one model from 4 to 256 chips
    python -m benchmarks.plan_table cost                # what the modular part adds
    python -m benchmarks.plan_table gpu                 # one GPU, a node of 8, two nodes

Needs libtpu (requirements-tpu.txt) or, for GPUs, requirements-gpu-plan.txt, and minutes a row. The
compiler's answers are kept by `mova_jax.plan`: stopped and started again, it goes on where it was.
"""

import argparse
import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

RECIPE = "configs/activitynet.py"
TOPOLOGIES = ("v5e:4x4", "v5e:16x16", "v6e:16x16", "v5p:4x4x4")
FRAMES = {"b16": 64, "l14": 96}
BATCHES = (256, 4096, 32768)
# What all rows have, and what some need to fit: all rules whose words are in the row's name.
COMMON = {"model.dtype": "bfloat16", "model.remat": "full"}
SETTINGS: dict[tuple[str, ...], dict[str, Any]] = {
    ("/32768",): {"losses.hard_pairs": 15},
    ("/4096",): {"losses.hard_pairs": 15},
    # The state is 5 GiB when whole. Over 16 chips XLA would gather it in pieces so small that
    # the step takes four times as long.
    ("l14", "v5e"): {"mesh.fsdp": 4},
    # The one where that takes too much of the memory.
    ("l14/32768", "v5e:4x4"): {"mesh.fsdp": 16},
}
# A chip with more videos than this takes them through the towers by microbatches. Four of L/14 want
# 20 of the 15.75 GiB of a v5e.
ROWS_A_CHIP = {"b16": 4, "l14": 1}
ROWS_OF_80_GB = {"b16": 16, "l14": 8}
GPUS = ("h100:1", "h100:8", "h100:2x8")


@dataclasses.dataclass(frozen=True)
class Row:
    """One call of `plan`."""

    model: str
    batch: int
    topology: str
    objective: str = "paper"
    changes: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """`b16/256 v5e:16x16`."""
        objective = "" if self.objective == "paper" else f" {self.objective}"
        return f"{self.model}/{self.batch} {self.topology}{objective}"

    def settings(self) -> dict[str, Any]:
        """Keys that the row changes of the recipe."""
        keys = dict(COMMON)
        for words, made in SETTINGS.items():
            if all(word in self.name for word in words):
                keys |= made
        shape = self.topology.partition(":")[2]
        rows = ROWS_OF_80_GB if self.topology in GPUS else ROWS_A_CHIP
        at_once = rows[self.model] * math.prod(map(int, shape.split("x")))
        if self.batch > at_once:
            keys["train.microbatch"] = at_once
        return keys | dict(self.changes)

    def command(self) -> list[str]:
        """The call, one argument a string."""
        argument = f"model={self.model},objective={self.objective},batch={self.batch}"
        config = f"{RECIPE}:{argument},frames={FRAMES[self.model]}"
        keys = [f"--config.{key}={value}" for key, value in self.settings().items()]
        return ["--json", f"--config={config}", f"--topology={self.topology}", *keys]


def paper_rows() -> list[Row]:
    """Both models at all batches on all topologies."""
    return [Row(m, b, t) for m in FRAMES for b in BATCHES for t in TOPOLOGIES]


def gpu_rows() -> list[Row]:
    """One GPU, a node and two nodes of 80 GB a GPU; then one GPU of 24 GB."""
    large = [Row(m, b, t) for m in FRAMES for t in GPUS for b in BATCHES[:2]]
    return large + [Row(m, BATCHES[0], "l4:1") for m in FRAMES]


def scaling_rows() -> list[Row]:
    """The same rows of a batch on each chip, on 4 to 256 chips."""
    shapes = {4: "2x2", 16: "4x4", 64: "8x8", 256: "16x16"}
    changes = (("losses.hard_pairs", 15),)
    return [Row("b16", 8 * n, f"v5e:{shape}", changes=changes) for n, shape in shapes.items()]


def cost_rows() -> list[Row]:
    """The whole method beside its global loss alone."""
    head = (("model.global_head", "seq_transformer"),)  # the same in both
    return [Row("b16", 256, "v5e:16x16"), Row("b16", 256, "v5e:16x16", "global_only", head)]


def plan(row: Row) -> dict[str, Any]:
    """What `plan --json` says of a row.

    Raises:
        RuntimeError: when the command fails for another reason than too little memory.
    """
    command = [sys.executable, "-m", "mova_jax.plan", *row.command()]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode not in (0, 3):
        raise RuntimeError(f"{row.name}: plan ended with {done.returncode}")
    return json.loads(done.stdout)


def table(rows: Iterable[Row], plans: Iterable[dict[str, Any]]) -> str:
    """Markdown: one line a plan."""
    heads = (
        "row", "chips", "settings", "memory a chip, GiB", "of it temporaries",
        "waiting on the host, GiB", "TFLOP a chip", "received a chip, GiB", "step, ms", "MFU, %",
        "communication, %", "USD per 10,000 videos",
    )  # fmt: skip
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row, made in zip(rows, plans, strict=True):
        settings = ", ".join(f"`{key}={value}`" for key, value in row.settings().items())
        cells = [row.name, str(made["chips"]), settings, *_figures(made)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _figures(made: dict[str, Any]) -> list[str]:
    gib, memory = 2**30, made["memory"]
    flops = f"{made['flops']['program'] * made['devices'] / made['chips'] / 1e12:.2f}"
    host = f"{memory['host'] * made['devices'] / made['chips'] / gib:.1f}"
    if not made["fits"]:
        wanted = memory.get("wanted") or memory.get("total")
        says = f"wants {wanted / gib:.1f}" if wanted else "too large"
        return [f"{says} of {memory['usable'] / gib:.2f}", "", host, flops, "", "", "", "", ""]
    bounds, cost = made["roofline"], made["cost"]
    usd = cost["run_usd"] and cost["run_usd"] / (cost["run_steps"] * made["batch"]) * 10_000
    return [
        f"{memory['total'] / gib:.1f} of {memory['usable'] / gib:.2f}",
        f"{memory['temporaries'] / gib:.2f}",
        host,
        flops,
        f"{made['collectives']['bytes'] / gib:.2f}",
        f"{bounds['step_seconds'] * 1e3:.0f} to {bounds['step_seconds_without_overlap'] * 1e3:.0f}",
        f"{bounds['mfu_without_overlap']:.0%} to {bounds['mfu']:.0%}".replace("%", ""),
        f"{bounds['communication_share']:.0%}".replace("%", ""),
        f"{usd:.2f}" if usd is not None else "",
    ]


def main() -> None:
    """Plans the rows and prints their table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="gpu, scaling, cost, or what a row's name holds")
    words = parser.parse_args().words
    sets = {"gpu": gpu_rows, "scaling": scaling_rows, "cost": cost_rows}
    rows = next((sets[word]() for word in words if word in sets), None) or paper_rows()
    rows = [row for row in rows if all(w in row.name for w in words if w not in sets)]
    plans = []
    for i, row in enumerate(rows, 1):
        print(f"{i} of {len(rows)}: {row.name}", file=sys.stderr)
        plans.append(plan(row))
    print(table(rows, plans))


if __name__ == "__main__":
    main()
