"""Time and memory of a train step, split into towers, TMN, CMN and losses by the profiler.

    python -m benchmarks.train_step [--model tiny] [--steps 5] [--tokens 160]
    python -m benchmarks.train_step --model b32 --batch 16 --frames 8 --tokens 248 --steps 2

Runs the real step on random data and reads the profiler's trace: the time of each instruction, over
all cores, is counted under the part of the method whose named scope it was compiled from, forwards
and backwards together. What is under none (copies, input conversion) is `other`. The modular part
is TMN, CMN and the modular losses. Memory is what the compiler plans: arguments and temporaries.
"""

import argparse
import collections
import re
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from configs.base import get_config
from mova_jax.config import Config, from_config_dict
from mova_jax.parallel import mesh as mesh_lib
from mova_jax.parallel import sharding
from mova_jax.training.state import make_train_spec
from mova_jax.training.step import make_train_step

# The first scope that an instruction's name holds is the part it counts under.
PARTS = (
    ("tmn", "TMN"),
    ("cmn", "CMN"),
    ("modular_losses", "modular losses"),
    ("global_loss|global_head", "global head and loss"),
    ("vision_tower", "vision tower"),
    ("text_tower", "text tower"),
    ("optimizer", "optimizer"),
)
MODULAR = ("TMN", "CMN", "modular losses")
CALLERS = ("while", "call", "conditional")  # their time is that of the instructions inside


def random_batch(
    config: Config, tokens: int, parts: tuple[int, int] = (4, 40)
) -> dict[str, np.ndarray]:
    """A batch whose frames and tokens are all valid.

    Args:
        config: of the run.
        tokens: l.
        parts: p and t, where captions are divided.
    """
    rng = np.random.default_rng(0)
    b, f, size = config.train.batch_size, config.data.frames, config.model.vision.image_size
    texts = {"tokens": (b, tokens)}
    if config.data.parts:
        texts["part_tokens"] = (b, *parts)
    arrays = {}
    for name, shape in texts.items():
        arrays[name] = rng.integers(0, config.model.text.vocab_size, shape, dtype=np.int32)
        arrays[name.replace("tokens", "token_mask")] = np.ones(shape, bool)
    return arrays | {
        "frames": rng.integers(0, 256, (b, f, size, size, 3), dtype=np.uint8),
        "frame_mask": np.ones((b, f), bool),
        "timestamps": np.tile(np.arange(f, dtype=np.float32), (b, 1)),
        "video_id": np.arange(b, dtype=np.int32),
    }


def part_of(op_name: str) -> str:
    """The part of the method that an instruction belongs to, by its named scopes."""
    for scopes, part in PARTS:
        if re.search(rf"\b({scopes})\b", op_name):
            return part
    return "other"


def parts_by_instruction(program: str) -> dict[str, str]:
    """`{instruction: part}` of a compiled program's text."""
    pattern = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = .*metadata=\{[^}]*op_name=\"([^\"]*)\"")
    matches = filter(None, map(pattern.match, program.splitlines()))
    return {match[1]: part_of(match[2]) for match in matches}


def seconds_by_part(folder: str, parts: dict[str, str]) -> dict[str, float]:
    """Core-seconds of each part in the profiler's trace."""
    seconds: dict[str, float] = collections.defaultdict(float)
    for path in Path(folder).rglob("*.xplane.pb"):
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
            for line in plane.lines:
                for event in line.events:
                    names = dict(event.stats)
                    if "hlo_op" not in names:
                        continue
                    name = str(names["hlo_op"])
                    if name.split(".")[0] not in CALLERS:
                        seconds[parts.get(name, "other")] += event.duration_ns / 1e9
    return seconds


def main() -> None:
    """Measures and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--objective", default="full")
    parser.add_argument("--batch", type=int, default=0, help="videos; 0: the base recipe's")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=160)
    parser.add_argument("--steps", type=int, default=5)
    args = parser.parse_args()

    made = get_config(
        f"model={args.model},objective={args.objective},frames={args.frames},batch={args.batch}"
    )
    made.model.text.vocab_size = 1024 if args.model == "tiny" else 49408
    config = from_config_dict(made)
    mesh = mesh_lib.make_mesh()
    spec = make_train_spec(config, mesh)
    state = spec.initial()
    batch = sharding.put_batch(mesh, random_batch(config, args.tokens))
    start = time.perf_counter()
    compiled = make_train_step(spec, mesh).lower(state, batch).compile()
    compile_s = time.perf_counter() - start

    state, _ = compiled(state, batch)
    jax.block_until_ready(state)
    times = []
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(args.steps):
                start = time.perf_counter()
                state, _ = compiled(state, batch)
                jax.block_until_ready(state)
                times.append(time.perf_counter() - start)
        seconds = seconds_by_part(folder, parts_by_instruction(compiled.as_text()))

    memory, total = compiled.memory_analysis(), sum(seconds.values())
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    print(
        f"{args.model}, {args.objective}: {parameters / 1e6:.1f}M parameters, batch "
        f"{config.train.batch_size}, {args.frames} frames, {args.tokens} tokens, "
        f"{jax.device_count()} {jax.devices()[0].device_kind} device(s)\n"
        f"step     {np.median(times):.2f} s (median of {args.steps}; {min(times):.2f} to "
        f"{max(times):.2f}), compiled in {compile_s:.0f} s\n"
        f"memory   {memory.argument_size_in_bytes / 2**20:.0f} MiB arguments, "
        f"{memory.temp_size_in_bytes / 2**20:.0f} MiB temporaries"
    )
    for part in [name for _, name in PARTS] + ["other"]:
        print(f"{part:22}{seconds[part] / args.steps:9.3f} core-s{seconds[part] / total:8.1%}")
    modular = sum(seconds[part] for part in MODULAR)
    print(f"{'modular part':22}{modular / args.steps:9.3f} core-s{modular / total:8.1%}")


if __name__ == "__main__":
    main()
