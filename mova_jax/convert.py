"""Imports CLIP weights, exports to PyTorch, Hugging Face and ONNX, and verifies both.

    python -m mova_jax.convert export runs/base out/base --to pytorch huggingface
    python -m mova_jax.convert verify runs/base out/base/pytorch
    python -m mova_jax.convert import clip-vit-base-patch16 out/start
    python -m mova_jax.main --config=configs/base.py:model=b16,init=clip-vit-base-patch16

Exit code: 0 done (for `verify`: every output is within the tolerance), 1 failed (an output is not),
2 an argument is wrong.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from mova_jax import config as config_lib
from mova_jax.utils.command_line import file_error, local_path
from mova_jax.utils.streams import run_command

DONE, FAILED = 0, 1
FORMATS = ("pytorch", "hub", "huggingface", "text_encoder", "onnx")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code, see the module."""
    args = _parser().parse_args(argv)
    # These imports take seconds: arguments are checked before.
    from mova_jax.parallel.mesh import MeshError
    from mova_jax.training.checkpoint import CheckpointError
    from mova_jax.training.workdir import RunError
    from mova_jax.utils.metric_log import MetricLogError
    from mova_jax.weights.files import WeightsError

    errors = (WeightsError, RunError, CheckpointError, MetricLogError, config_lib.ConfigError)
    errors += (MeshError,)
    try:
        return args.command(args)
    except ImportError as error:
        print(
            f"convert: {error}; conversions need more packages than runs: "
            "pip install -r requirements-convert.txt",
            file=sys.stderr,
        )
        return FAILED
    except OSError as error:
        print(f"convert: {file_error(error, getattr(args, 'output', ''))}", file=sys.stderr)
        return FAILED
    except errors as error:
        print(f"convert: {error}", file=sys.stderr)
        return FAILED


def _export(args: argparse.Namespace) -> int:
    from mova_jax.export import bundle, export
    from mova_jax.training.load_model import load_run

    made = bundle.bundle_from_run(load_run(args.run), args.licence)
    for folder in export.export(made, args.output, list(dict.fromkeys(args.to))):
        print(f"{folder}: {_size(folder)}")
    print(f"Check it: python -m mova_jax.convert verify {args.run} {folder}")
    return DONE


def _import(args: argparse.Namespace) -> int:
    from mova_jax.export import export, import_clip

    changes = dict(text.partition("=")[::2] for text in args.set)
    made, report = import_clip.import_clip(
        args.source,
        config_lib.load(args.config),
        changes=config_lib.parse_overrides(changes),
        tokenizer=args.tokenizer,
        strict=not args.not_strict,
        allow_torchscript=args.allow_torchscript,
        licence=args.licence,
    )
    print(*report.lines(), sep="\n")
    (folder,) = export.export(made, args.output, ["pytorch"])
    print(f"{folder}: {_size(folder)}")
    return DONE


def _verify(args: argparse.Namespace) -> int:
    from mova_jax.export import parity
    from mova_jax.export.backends import open_model

    trusted = args.trust_remote_code
    first, second = open_model(args.first, trusted), open_model(args.second, trusted)
    sizes = {"videos": args.videos, "frames": args.frames}
    found = parity.compare(first, second, **sizes, seed=args.seed)
    print(f"{first.name}\nagainst\n{second.name}\n")
    print(parity.table(found, args.tolerance))
    worst = max(found, key=lambda difference: difference.relative)
    if worst.relative <= args.tolerance:
        print(f"\nAll {len(found)} outputs agree within {args.tolerance:g} of their largest value.")
        return DONE
    print(
        f"\n{worst.output} differs by {worst.relative:.2e} of its largest value, "
        f"more than {args.tolerance:g}.",
        file=sys.stderr,
    )
    return FAILED


def _size(folder: os.PathLike) -> str:
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    total = sum(path.stat().st_size for path in files)
    return f"{len(files)} files, {total / 1e6:,.1f} MB"


def _parser() -> argparse.ArgumentParser:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m mova_jax.convert", description=__doc__, formatter_class=form
    )
    commands = parser.add_subparsers(required=True, metavar="export | import | verify")
    out = commands.add_parser("export", help="a run to PyTorch, Hugging Face, ONNX")
    out.add_argument("run", help="workdir of the run, whose best checkpoint is exported")
    out.add_argument("output", type=local_path, help="for a folder OUTPUT/FORMAT of each format")
    out.add_argument("--to", nargs="+", choices=FORMATS, default=["pytorch"], help="formats")
    out.add_argument("--licence", default="", help="of the weights, for the model card")
    out.set_defaults(command=_export)
    into = commands.add_parser("import", help="CLIP, Long-CLIP, SmartCLIP to a MoVA for PyTorch")
    into.add_argument("source", help="a folder or file in Hugging Face's, OpenAI's ... layout")
    into.add_argument(
        "output", type=local_path, help="for the folder OUTPUT/pytorch, which init=... takes"
    )
    into.add_argument(
        "--config", default="configs/base.py", help="for settings that CLIP does not have"
    )
    into.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="such as model.text.context=77"
    )
    into.add_argument("--tokenizer", default="", help="folder of CLIP's vocabulary")
    into.add_argument("--not_strict", action="store_true", help="list problems and continue")
    into.add_argument(
        "--allow_torchscript",
        action="store_true",
        help="read TorchScript archives, which may run code: only those that you trust",
    )
    into.add_argument("--licence", default="", help="of the weights, for the model card")
    into.set_defaults(command=_import)
    check = commands.add_parser("verify", help="the same inputs through two models")
    check.add_argument(
        "first", help="a run, an export, a CLIPModel folder; jax:FOLDER opens it in JAX"
    )
    check.add_argument("second", help="the same")
    check.add_argument(
        "--trust_remote_code",
        action="store_true",
        help="run the code of a Hub folder also when it is not what this version writes",
    )
    check.add_argument("--tolerance", type=float, default=1e-5, help="of the largest value")
    check.add_argument("--videos", type=int, default=4, help="number of videos and captions")
    check.add_argument("--frames", type=int, default=3, help="frames of a video")
    check.add_argument("--seed", type=int, default=0, help="of the random inputs")
    check.set_defaults(command=_verify)
    return parser


if __name__ == "__main__":
    run_command(main)
