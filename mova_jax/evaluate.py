"""Evaluates a trained model on any data, and asks it the questions of suites.

    python -m mova_jax.evaluate --model runs/base --output out/base
    python -m mova_jax.evaluate --model clip-vit-base-patch16 --data shards/own --output out/own
    python -m mova_jax.evaluate --model runs/base --suite longform outdomain --output out/base
    python -m mova_jax.evaluate --model runs/a --against runs/b --output out/a
    python -m mova_jax.evaluate --model runs/a --data shards/own --classes own.json --output out/c

--model is the workdir of a run, an export for PyTorch, or the folder of a CLIP, which is evaluated
as it is, without training. --data is a folder of shards, their URL, tfds:NAME or storyboard, with
:SPLIT or without; a run knows its own. The same command resumes an evaluation that was stopped.

--classes is a JSON file for zero-shot classification: {"classes": {label: name or [names]},
"templates": ["a photo of a {}."]}, and "videos": {id: label} where the first caption of a video is
not its label.

Out: OUTPUT/report.html, evaluation.json (every figure with its protocol), ranks/SPLIT.npz (the rank
of every query), and OUTPUT/suites/NAME/ for each suite.

Exit code: 0 done, 1 something is wrong (one message says what), 2 a flag is wrong, 130 interrupted.
"""

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mova_jax.config import ConfigError, parse_overrides
from mova_jax.utils.command_line import add_process_flags, command_parser, file_error, local_path
from mova_jax.utils.streams import run_command


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code, see the module."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.suite and (args.splits or args.against or args.classes):
        parser.error("--splits, --against and --classes are for an evaluation without --suite")
    # These imports take seconds: flags are checked before.
    from jax.errors import JaxRuntimeError

    from mova_jax.data.classes import ClassesError
    from mova_jax.data.shards import ShardError
    from mova_jax.parallel.mesh import MeshError
    from mova_jax.parallel.processes import LOST, lost_process, start_processes
    from mova_jax.training.checkpoint import CheckpointError
    from mova_jax.training.workdir import RunError
    from mova_jax.utils.metric_log import MetricLogError
    from mova_jax.weights.files import WeightsError

    errors = (RunError, ShardError, CheckpointError, WeightsError, ConfigError, MeshError)
    errors += (ClassesError, FloatingPointError, MetricLogError)
    try:
        start_processes(args.coordinator, args.processes, args.process)
        return _run(args)
    except errors as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(file_error(error, args.output))
    except JaxRuntimeError as error:
        if not (reason := lost_process(error)):
            raise
        _fail(reason)
        os._exit(LOST)  # JAX's own end would wait for the process that is gone
    except KeyboardInterrupt:
        _fail("interrupted; finished splits and suites are kept, and the same command goes on")
        return 130


def _run(args: argparse.Namespace) -> int:
    from mova_jax.suites import SUITES
    from mova_jax.training.evaluate_model import with_changes
    from mova_jax.training.load_model import load_model

    if unknown := [name for name in args.suite if name not in SUITES]:
        return _fail(f"--suite: got {', '.join(unknown)}, expected some of {', '.join(SUITES)}")
    asked = [SUITES[name] for name in args.suite]
    if not args.model and (not asked or any(suite.needs_model for suite in asked)):
        return _fail("--model is missing: the workdir of a run, an export, or the folder of a CLIP")
    model, changes = load_model(args.model) if args.model else None, _changes(args)
    if model:
        model = dataclasses.replace(model, config=with_changes(model.config, changes))
    if not args.suite:
        _evaluate(args, model)
    for name in args.suite:
        _ask(args, model, name)
    return 0


def _changes(args: argparse.Namespace) -> dict[str, Any]:
    """The keys of --set."""
    return parse_overrides(dict(text.partition("=")[::2] for text in args.set))


def _evaluate(args: argparse.Namespace, model) -> None:
    from mova_jax.data.sources import data_and_split
    from mova_jax.parallel.processes import log_main
    from mova_jax.training import evaluate_model as evaluation

    if len(args.data) > 1:
        raise ConfigError([f"--data: got {len(args.data)} of them, expected one (without --suite)"])
    data, split = data_and_split(args.data[0] if args.data else "")
    splits = [split] if split else args.splits
    options = {"splits": splits, "classes": args.classes, "against": args.against}
    found = evaluation.evaluate_model(model, data, args.output, **options)
    for split in found.splits:
        log_main(found.protocols[split], *_figures(found.metrics[split]))
    if args.against:
        for split, differences in evaluation.compare(found, args.against).items():
            log_main(f"{split}, minus {args.against}, points with the paired 95 % interval")
            for name, (difference, low, high) in differences.items():
                log_main(f"  {name:25} {difference:+6.1f} ({low:+.1f} to {high:+.1f})")
    log_main(f"Look at {found.folder / 'report.html'}")


def _figures(metrics: dict[str, float]) -> list[str]:
    """The main figures of a split."""
    ways = {"t2v": "captions search videos", "v2t": "videos search captions"}
    keys = {"r1": "R@1", "r5": "R@5", "r10": "R@10", "mdr": "median rank"}
    return [
        f"  {text:23} " + ", ".join(f"{keys[k]} {metrics[f'{way}/{k}']:.1f}" for k in keys)
        for way, text in ways.items()
        if f"{way}/r1" in metrics
    ]


def _ask(args: argparse.Namespace, model, name: str) -> None:
    """Asks a suite, unless its result is there; shows what came out."""
    from mova_jax.parallel.mesh import make_mesh
    from mova_jax.parallel.processes import log_main
    from mova_jax.suites import SUITES, SuiteInput
    from mova_jax.suites.page import as_text, write_page
    from mova_jax.suites.suite import load_result, save_result

    folder, suite = Path(args.output) / "suites" / name, SUITES[name]
    asked = {"model": model.origin, "step": model.step} if model else {}
    asked |= {"data": args.data, "set": sorted(args.set), "seed": args.seed}
    result = load_result(folder, asked)
    if result is None:
        folder.mkdir(parents=True, exist_ok=True)
        cache = Path(model.config.data.cache if model else ".data")
        mesh, data = make_mesh(), tuple(args.data)
        result = suite.fn(SuiteInput(model, mesh, folder, cache, data, args.seed))
        save_result(folder, result, asked)
    path = write_page(folder, suite, model.origin if model else "", result)
    for table in result.tables:
        log_main("", table.title, table.note, as_text(table))
    log_main("", result.protocol, "", result.verdict, f"Look at {path}")


def _fail(message: str) -> int:
    print(f"evaluate: {message}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("python -m mova_jax.evaluate", __doc__)
    add = parser.add_argument
    add("--model", default="", help="workdir of a run, export for PyTorch, or CLIP")
    add("--data", nargs="+", default=[], metavar="SHARDS[:SPLIT]", help="what to evaluate on")
    add("--splits", nargs="+", default=[], help="splits of the data; by default those for testing")
    add("--classes", default="", metavar="FILE", help="classes and prompts, to classify videos")
    add("--suite", nargs="+", default=[], help="suites to ask, in place of the evaluation")
    add("--output", required=True, type=local_path, help="folder for the results")
    add("--against", default="", help="output of another evaluation, or a run, of the same queries")
    add("--set", nargs="+", default=[], metavar="KEY=VALUE", help="such as eval.frames=64")
    add("--seed", type=int, default=0, help="of the data that suites make")
    add_process_flags(parser)
    return parser


if __name__ == "__main__":
    run_command(main)
