"""Trains, evaluates and reports; called again, resumes where it stopped.

    python -m mova_jax.main --config=configs/base.py --workdir=runs/base
    python -m mova_jax.main --config=configs/base.py:objective=no_dfsm --config.train.steps=2000
    python -m mova_jax.main --config=configs/base.py --help_config

One process runs on each host. On Cloud TPU, GKE and Slurm they find each other; elsewhere give each
the address of the first: --coordinator=HOST:PORT --processes=4 --process=0 (1, 2, 3 elsewhere).

Exit codes: 0 the run is complete, 1 something is wrong (one message says what), 2 a flag is wrong,
130 or 143 stopped by Ctrl-C or SIGTERM with everything saved, 75 another process of the run was
lost.
"""

import argparse
import faulthandler
import gc
import logging
import os
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from mova_jax import config as config_lib
from mova_jax.config import Config, ConfigError, ConfigFlags, make_parser, parse
from mova_jax.utils.command_line import add_process_flags, file_error, path_or_bucket
from mova_jax.utils.stack_limit import raise_stack_limit
from mova_jax.utils.streams import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code, see the module."""
    try:
        args, flags, config = parse(_parser(), sys.argv[1:] if argv is None else argv)
        steps = steps_to_trace(args.profile_steps)
    except ConfigError as error:
        return _fail(str(error))
    workdir = args.workdir or str(Path("runs") / Path(flags.path).stem)
    try:
        code = _run(args, flags, config, workdir, steps)
    except BaseException:
        if not _one_of_several():
            raise
        traceback.print_exc()
        code = 1
    if code == 1 and _one_of_several():
        # JAX's own end would wait for the others, which are waiting for this one.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _run(
    args: argparse.Namespace, flags: ConfigFlags, config: Config, workdir: str, steps: tuple
) -> int:
    # JAX tells at level INFO of every accelerator that is not there.
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)
    # What libraries load stays: looking for garbage in it takes a fifth of the loading.
    gc.disable()
    raise_stack_limit()
    # Imported here, because the flags are checked before anything takes seconds to load.
    try:
        from jax.errors import JaxRuntimeError
    except ValueError as error:  # of a variable of the environment, which the message names
        return _fail(f"JAX cannot start: {error}; correct the variable, or unset it")

    from mova_jax.data.shards import ShardError
    from mova_jax.parallel.mesh import MeshError
    from mova_jax.parallel.processes import LOST, is_main, lost_process, start_processes
    from mova_jax.training.checkpoint import CheckpointError
    from mova_jax.training.run import run
    from mova_jax.training.workdir import RunError
    from mova_jax.utils.metric_log import MetricLogError
    from mova_jax.utils.trackers import TrackerError
    from mova_jax.weights.files import WeightsError

    errors = (ConfigError, MeshError, RunError, ShardError, CheckpointError, WeightsError)
    errors += (TrackerError, MetricLogError)
    gc.freeze()
    gc.enable()
    try:
        start_processes(args.coordinator, args.processes, args.process)
        if not _one_of_several():
            # Among several JAX aborts when one is gone, and says so; stacks would bury it.
            faulthandler.enable()
        if is_main():
            _print_difference(config, flags)
        return run(config, workdir, steps)
    except errors as error:
        return _fail(str(error))
    except FloatingPointError as error:  # of a score in an evaluation
        return _fail(str(error))
    except JaxRuntimeError as error:
        if not (reason := lost_process(error)):
            raise
        _fail(reason)
        os._exit(LOST)  # JAX's own end would wait for the process that is gone
    except KeyboardInterrupt:
        _fail("interrupted; what was saved before is whole, and the same command goes on")
        return 130
    except OSError as error:
        return _fail(file_error(error, workdir, shares_memory=config.data.worker_processes > 0))


def _one_of_several() -> bool:
    """Whether this is one of several processes; starts nothing that was not started yet."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized() and jax.process_count() > 1


def _fail(message: str) -> int:
    print(f"mova_jax: {message}", file=sys.stderr)
    return 1


def _print_difference(config: Config, flags: ConfigFlags) -> None:
    """Prints the keys that the argument string and the flags changed of the config file."""
    base = config_lib.from_config_dict(config_lib.load(flags.path))
    changed = config_lib.difference(config, base)
    lines = [f"  {name}: {old!r} -> {new!r}" for name, (old, new) in changed.items()]
    suffix = f":{flags.argument}" if flags.argument else ""
    print(f"{flags.path}{suffix}: {len(lines)} keys differ from {flags.path}", *lines, sep="\n")


def steps_to_trace(text: str) -> tuple[int, int]:
    """First and last step of `--profile_steps=20:23`; (0, 0) of ''.

    Raises:
        ConfigError: for another form.
    """
    found = re.fullmatch(r"([1-9]\d*):([1-9]\d*)", text)
    if not text:
        return 0, 0
    if not found or int(found[1]) > int(found[2]):
        expected = "FIRST:LAST, steps from 1, such as 20:23"
        raise ConfigError([f"--profile_steps: got {text!r}, expected {expected}"])
    return int(found[1]), int(found[2])


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("python -m mova_jax.main", __doc__)
    add = parser.add_argument
    add("--workdir", type=path_or_bucket, help="folder of the run, or gs://BUCKET/FOLDER "
        "(runs/NAME_OF_THE_CONFIG)")  # fmt: skip
    add("--profile_steps", default="", help="FIRST:LAST, steps to trace into WORKDIR/profile")
    add_process_flags(parser)
    return parser


if __name__ == "__main__":
    run_command(main)
