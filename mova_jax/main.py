"""Trains, evaluates and reports; goes on where it stopped when called again.

    python -m mova_jax.main --config=configs/base.py --workdir=runs/base
    python -m mova_jax.main --config=configs/base.py:objective=no_dfsm --config.train.steps=2000

One process runs on every host. On Cloud TPU, GKE and Slurm they find each other; elsewhere each is
told where they meet: --coordinator=HOST:PORT --processes=4 --process=0 (1, 2, 3 on the others).

Exit codes: 0 the run is complete, 1 something is wrong (one message says what), 130 or 143 stopped
by Ctrl-C or SIGTERM with everything saved, 75 another process of the run was lost.
"""

import errno
import faulthandler
import gc
import logging
import os
import re
import resource
import sys
import traceback
from pathlib import Path

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from mova_jax import config as config_lib

STACK = 100 * 2**20  # bytes; Linux leaves room for 128 MB

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file("config", None, "Path of a config, such as configs/base.py.")
flags.DEFINE_string("workdir", None, "Folder of the run; by default runs/NAME_OF_THE_CONFIG.")
flags.DEFINE_string("profile_steps", "", "FIRST:LAST, steps to trace into WORKDIR/profile.")
flags.DEFINE_string("coordinator", "", "host:port of process 0, where nothing else says it.")
flags.DEFINE_integer("processes", 0, "Number of processes, with --coordinator.")
flags.DEFINE_integer("process", -1, "Number of this process from 0, with --coordinator.")


def main(argv: list[str]) -> int:
    """Runs the flags' configuration; `argv` is what absl left over."""
    try:
        code = _run(argv)
    except app.UsageError:
        raise
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


def _one_of_several() -> bool:
    """Whether this is one of several processes; starts nothing that was not started yet."""
    import jax

    return jax.distributed.is_initialized() and jax.process_count() > 1


def _run(argv: list[str]) -> int:
    if len(argv) > 1:
        raise app.UsageError(f"got {argv[1:]}, expected flags only (--config=, --workdir=)")
    # JAX tells at level INFO of every accelerator that is not there.
    logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)
    # What libraries load stays: to look for garbage among it takes a fifth of the loading.
    gc.disable()
    raise_stack_limit()
    # Imported here, for the flags are checked before anything takes seconds to load.
    from jax.errors import JaxRuntimeError

    from mova_jax.data.shards import ShardError
    from mova_jax.parallel import mesh
    from mova_jax.parallel.processes import LOST, is_main, lost_process
    from mova_jax.training.checkpoint import CheckpointError
    from mova_jax.training.run import run
    from mova_jax.training.workdir import RunError
    from mova_jax.weights.files import WeightsError

    gc.freeze()
    gc.enable()
    path, _, argument = _config_flag(sys.argv).partition(":")
    workdir = FLAGS.workdir or str(Path("runs") / Path(path).stem)
    try:
        config = config_lib.from_config_dict(FLAGS.config)
        mesh.start_processes(FLAGS.coordinator, FLAGS.processes, FLAGS.process)
        if _one_of_several():
            # JAX aborts when another process is gone, and says so; the stacks of all threads, which
            # absl has printed at an abort, would bury it.
            faulthandler.disable()
        if is_main():
            _tell_difference(config, path, argument)
        return run(config, workdir, steps_to_trace(FLAGS.profile_steps))
    except (
        config_lib.ConfigError,
        mesh.MeshError,
        RunError,
        ShardError,
        CheckpointError,
        WeightsError,
        FloatingPointError,
    ) as error:
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
        if error.errno == errno.ENOSPC:
            return _fail(
                f"no space is left on the device of {error.filename or workdir}; checkpoints "
                "written before are whole. Make room and start again with the same command."
            )
        if not error.filename:
            raise
        return _fail(f"{error.filename}: {error.strerror}; correct the path or its permissions")


def raise_stack_limit() -> None:
    """Lets the stack of the main thread, on which JAX compiles, grow beyond the usual 8 MB.

    libtpu 0.0.42 walks long chains of instructions by recursion, and overflowed it on the step of
    B/16 for 64 chips.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    limit = STACK if hard == resource.RLIM_INFINITY else min(STACK, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_STACK, (limit, hard))


def _fail(message: str) -> int:
    print(f"mova_jax: {message}", file=sys.stderr)
    return 1


def _tell_difference(config: config_lib.Config, path: str, argument: str) -> None:
    """Prints what the argument string and the flags changed of the config file."""
    base = config_lib.from_config_dict(config_lib.load_file(path).get_config())
    changed = config_lib.difference(config, base)
    lines = [f"  {name}: {old!r} -> {new!r}" for name, (old, new) in changed.items()]
    suffix = f":{argument}" if argument else ""
    print(f"{path}{suffix}: {len(lines)} keys differ from {path}", *lines, sep="\n")


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
        raise config_lib.ConfigError([f"--profile_steps: got {text!r}, expected {expected}"])
    return int(found[1]), int(found[2])


def _config_flag(argv: list[str]) -> str:
    """The value of `--config`, '' without one."""
    for i, argument in enumerate(argv):
        name, equals, value = argument.lstrip("-").partition("=")
        if name == "config" and argument.startswith("-"):
            return value if equals else "".join(argv[i + 1 : i + 2])
    return ""


def check_flags(argv: list[str]) -> list[str]:
    """All that is wrong with the flags; absl would stop at the first, with a long usage text.

    Args:
        argv: of the command, the program's name first.

    Returns:
        One line a problem.
    """
    given = _config_flag(argv)
    path, _, argument = given.partition(":")
    if not given:
        return ["--config is missing; for example --config=configs/base.py"]
    if not Path(path).is_file():
        return [f"--config: there is no file {path}"]
    try:
        config: ConfigDict = config_lib.load_file(path).get_config(
            *([argument] if argument else [])
        )
    except config_lib.ConfigError as error:
        return error.problems
    overrides = {}
    for text in argv[1:]:
        name, equals, value = text.lstrip("-").partition("=")
        if name.startswith("config.") and equals:
            overrides[name.removeprefix("config.")] = value
    problems = config_lib.check_overrides(config, overrides)
    if "objective" in overrides:
        problems.append(
            "objective is the name of a preset: choose one by "
            f"--config={path}:objective={overrides['objective']}"
        )
    return problems


def cli() -> None:
    """The command: flags checked all at once, then `main`."""
    asks_help = any(argument.lstrip("-").startswith("help") for argument in sys.argv[1:])
    problems = [] if asks_help else check_flags(sys.argv)
    if problems:
        sys.exit(_fail(str(config_lib.ConfigError(problems))))
    app.run(main)


if __name__ == "__main__":
    cli()
