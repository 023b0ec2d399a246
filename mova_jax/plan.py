"""Compiles a config for a TPU slice, GPUs or CPUs: memory, FLOPs, collectives, time, cost.

    python -m mova_jax.plan --config=configs/activitynet.py --topology=v5e:16x16
    python -m mova_jax.plan --config=configs/activitynet.py --topology=h100:2x8
    python -m mova_jax.plan --config=configs/base.py --topology=cpu:8 --config.mesh.data=4
    python -m mova_jax.plan --config=configs/base.py --topology=local --json

The real train step is compiled ahead of time for devices that need not be there: for TPUs by libtpu
(requirements-tpu.txt), for GPUs by JAX's plugin (requirements-gpu-plan.txt). A large model takes
minutes; --cache stores the result. A topology is v5e:16x16 (v4, v5e, v5p, v6e, tpu7x) or
v5e:16x16*2, two slices; h100:8 (l4, a100, h100, h200) or h100:2x8, two nodes; cpu:8; or local, this
machine.

Exit codes: 0 it fits, 1 something is wrong (one message says what), 2 an argument is wrong, 3 it
does not fit.
"""

import argparse
import dataclasses
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mova_jax.config import Config, ConfigError, make_parser, parse
from mova_jax.planning import targets as topology_lib
from mova_jax.utils.command_line import local_path
from mova_jax.utils.stack_limit import raise_stack_limit
from mova_jax.utils.streams import run_command

DONE, FAILED, TOO_LARGE = 0, 1, 3
CACHE = ".data/plan"
VOCABULARY = 49408  # CLIP's; for `model.text.vocab_size` 0, which takes that of a tokenizer


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code, see the module."""
    try:
        args, flags, config = parse(_parser(), sys.argv[1:] if argv is None else argv)
        args.config = flags.file
        made = plan(with_vocabulary(config), args)
    except (ConfigError, topology_lib.TopologyError) as error:
        print(f"plan: {error}", file=sys.stderr)
        return FAILED
    from mova_jax.planning.render import render

    print(json.dumps(made, indent=2) if args.json else render(made))
    return DONE if made["fits"] else TOO_LARGE


def with_vocabulary(config: Config) -> Config:
    """The configuration with CLIP's vocabulary where it leaves the size to a tokenizer."""
    text = config.model.text
    text = dataclasses.replace(text, vocab_size=text.vocab_size or VOCABULARY)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, text=text))


def plan(config: Config, args: argparse.Namespace) -> dict[str, Any]:
    """Compiles the step and returns its estimate, see `planning/estimate.py`.

    Raises:
        ConfigError, TopologyError: what does not go together, and what to do.
    """
    topology = topology_lib.parse(args.topology)
    topology_lib.prepare_environment(topology)
    raise_stack_limit()
    # Imported here, for JAX reads the environment when it is imported.
    from mova_jax.planning import compile as compile_lib
    from mova_jax.planning.estimate import PlanRequest, estimate

    devices = topology_lib.devices(topology)
    chip = topology_lib.chip_of(topology, devices)
    tokens = args.tokens or config.data.token_buckets[-1]
    try:
        step = compile_lib.trace(config, devices, tokens)
    except ValueError as error:
        raise ConfigError([str(error)]) from error
    result = compile_lib.compile_step(step, args.cache or None, topology.compiler_options)
    epoch = args.videos or _train_videos(config)
    return estimate(
        step, result, PlanRequest(args.config, topology, chip, tokens, epoch, args.price)
    )


def _train_videos(config: Config) -> int | None:
    """Videos of the train split, of the embedded data or of local shards; None when unknown."""
    from mova_jax.data.shards import read_manifest
    from mova_jax.training.datasets import STORYBOARD

    if config.data.mixture:
        return None  # its parts have epochs of their own
    if config.data.source == STORYBOARD:
        return config.data.train_videos
    if not (Path(config.data.source) / "manifest.json").exists():
        return None
    split = read_manifest(config.data.source).splits.get("train")
    return split.videos if split else None


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("python -m mova_jax.plan", __doc__)
    parser.add_argument("--topology", default="local", help="such as v5e:16x16, h100:8, cpu:8")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.add_argument("--tokens", type=int, default=0, help="of a caption; 0: the longest bucket")
    parser.add_argument(
        "--videos", type=int, default=0, help="of an epoch; 0: of the shards' train split"
    )
    parser.add_argument("--price", type=float, help="USD a chip-hour; by default a list price")
    parser.add_argument(
        "--cache", default=CACHE, type=local_path, help="of the compiler's answers; '' keeps none"
    )
    return parser


def cli() -> None:
    """The command, which Ctrl-C ends at once: a compiler at work would not hear of it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    run_command(main)


if __name__ == "__main__":
    cli()
