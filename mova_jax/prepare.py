"""Makes frame shards of videos and captions, and inspects shards.

    python -m mova_jax.prepare --input clips/captions.jsonl --output shards
    python -m mova_jax.prepare activitynet --videos V --annotations A --output shards
    python -m mova_jax.prepare inspect shards
    python -m mova_jax.prepare montage --input pictures.jsonl --output shards

In:  a JSONL in the folder of the videos, one video a line; or the files of a data set as its owner
     publishes them (docs/data.md), and the folder of its videos. `--help` lists fields and names.
Out: a folder for `--config=configs/base.py:data=shards`: shards, tokenizer, and manifest.json with
     every skipped entry and its reason.

All of these may be URLs. However the command is stopped, the same command resumes its work.

Exit code: 0 when every entry went in, 3 when some were skipped, 1 when it could not be finished,
130 when it was interrupted.
"""

import argparse
import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from mova_jax.config import ConfigError, load
from mova_jax.data.annotations import FIELDS, InputError, Reading
from mova_jax.data.annotations.counts import count_lines
from mova_jax.data.annotations.registry import DATASETS, read_dataset
from mova_jax.data.beam_pipeline import PipelineError, beam_options
from mova_jax.data.images import CODECS
from mova_jax.data.ingest.ingest import MISSING, IngestSettings, ingest
from mova_jax.data.ingest.publish import InUse, is_unfinished
from mova_jax.data.montage import command as montage
from mova_jax.data.shards import MANIFEST, Manifest, ShardError, SplitInfo
from mova_jax.data.storage import is_url
from mova_jax.utils.command_line import add_runner_flags
from mova_jax.utils.streams import run_command

DONE, FAILED, SOME_SKIPPED, INTERRUPTED = 0, 1, 3, 130
_GOES_ON = "what is done is kept in {}/.partial, and the same command goes on from there."
_SHOWN = 10  # skipped videos in the summary
_BASE = "configs/base.py"  # the recipe of data sets that have none


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code, see the module."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if argv[:1] == ["inspect"]:
        from mova_jax.data.inspect import command  # draws images, which nothing else here does

        return command.main(argv[1:])
    if argv[:1] and argv[0] in montage.NAMES:
        return montage.main(argv)
    args = _arguments(argv)
    dataset = DATASETS.get(args.dataset)
    settings = IngestSettings(
        fps=args.fps,
        short_side=args.short_side,
        codec=args.codec,
        splits=args.splits,
        vocab_size=args.vocab_size,
        tokenizer=args.tokenizer,
        name=args.name or (dataset.name if dataset else IngestSettings.name),
        licence=args.licence or (dataset.licence if dataset else ""),
    )
    try:
        settings.check()
        beam = beam_options(args.runner, args.beam)
        source: str | Reading = args.input
        if dataset:
            source = read_dataset(dataset.name, args.annotations or args.videos, args.videos)
        manifest = ingest(source, args.output, settings, args.workers, beam=beam)
    except (InputError, PipelineError, ShardError, OSError) as error:
        print("prepare:", " ".join(str(error).split()), file=sys.stderr)
        if not isinstance(error, InputError | PipelineError | InUse) and is_unfinished(args.output):
            print(f"prepare: {_GOES_ON.format(args.output)}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        # A remote store may be slow to answer, and an interrupted user does not wait.
        resumes = is_url(args.output) or is_unfinished(args.output)
        what = _GOES_ON.format(args.output) if resumes else "nothing was done yet."
        print(f"prepare: interrupted; {what}", file=sys.stderr)
        return INTERRUPTED
    print(summary(manifest, args.output))
    return SOME_SKIPPED if manifest.skipped else DONE


def summary(manifest: Manifest, folder: str) -> str:
    """Lines for the terminal: counts, warnings, skipped videos, and the next command."""
    lines = [f"{'split':<12}{'videos':>9}{'frames':>11}{'captions':>10}"]
    for split in sorted({*manifest.splits, *manifest.settings["splits"]}):
        info = manifest.splits.get(split, SplitInfo(0, 0, 0, ()))
        lines.append(f"{split:<12}{info.videos:>9,}{info.frames:>11,}{info.captions:>10,}")
    counts = manifest.settings.get("dataset", {})
    lines += count_lines(counts, os.path.join(folder, MISSING))
    lines.append(
        f"captions truncated to {manifest.settings['max_tokens']} tokens: "
        f"{manifest.truncated_captions}"
    )
    for what, entries in (("warnings", manifest.warnings), ("skipped", manifest.skipped)):
        lines.append(f"{what}: {len(entries)}")
        lines += [f"  {entry['id']}: {entry['reason']}" for entry in entries[:_SHOWN]]
        if len(entries) > _SHOWN:
            lines.append(f"  and {len(entries) - _SHOWN} more, in {os.path.join(folder, MANIFEST)}")
    return "\n".join([*lines, f"next: {next_command(manifest, folder)}"])


def next_command(manifest: Manifest, folder: str) -> str:
    """The command that trains on the shards in a new workdir; a test set alone is evaluated on."""
    name = os.path.basename(os.path.abspath(folder))
    if "train" not in manifest.splits:
        command = ["python", "-m", "mova_jax.evaluate", "--model", "RUN", "--data", folder]
        return shlex.join([*command, "--output", os.path.join("out", name)])
    dataset = DATASETS.get(manifest.settings.get("dataset", {}).get("name"))
    recipe = (dataset.recipe if dataset else "") or _BASE
    argument = f"{recipe}:data={folder}" + (",init=CLIP" if recipe != _BASE else "")
    train = manifest.splits["train"].videos
    with contextlib.suppress(ConfigError):  # an installed package has no recipes
        if train < load(str(Path(__file__).parents[1] / recipe)).train.batch_size:
            argument += f",batch={max(2, train)}"
    workdir = os.path.join("runs", name)
    return shlex.join(
        ["python", "-m", "mova_jax.main", f"--config={argument}", f"--workdir={workdir}"]
    )


def _arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = _parser()
    args = parser.parse_args(argv)
    if bool(args.dataset) == bool(args.input):
        parser.error("give either --input JSONL or the name of a data set with --videos")
    if args.dataset and not args.videos:
        parser.error(f"{args.dataset} needs --videos, the folder of its videos")
    if args.input and (args.videos or args.annotations):
        parser.error("--videos and --annotations belong to a data set; --input has its own videos")
    return args


def _parser() -> argparse.ArgumentParser:
    default = IngestSettings()
    known = "\n".join(f"  {name:<15}{dataset.files}" for name, dataset in DATASETS.items())
    parser = argparse.ArgumentParser(
        prog="python -m mova_jax.prepare",
        description="Makes frame shards of videos and captions.",
        epilog=f"Fields of a line of the JSONL:\n{FIELDS}\n\n"
        f"Data sets, and what --annotations has to hold (docs/data.md):\n{known}\n\n"
        "As the first words, `inspect SHARDS` inspects finished shards, `montage` makes long\n"
        "videos of captioned pictures, `pictures` shards of single ones; each has a --help.\n\n"
        "--input, --videos, --annotations and --output may be URLs (gs://, s3://). However the\n"
        "command is stopped, the same command resumes its work.\n\n"
        "Exit code: 0 when every entry went in, 3 when some were skipped, 1 when it could not be\n"
        "finished, 130 when it was interrupted.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("dataset", nargs="?", choices=sorted(DATASETS), metavar="DATASET",
        help="a data set by name, see below; with --videos")  # fmt: skip
    add("--videos", metavar="FOLDER", help="of the data set's videos, at any depth")
    add("--annotations", metavar="FOLDER", help="of the data set's own files (that of the videos)")
    add("--input", metavar="JSONL", help="your own videos: one a line, see below")
    add("--output", required=True, metavar="FOLDER",
        help="of the shards; absent, empty or unfinished")  # fmt: skip
    add("--fps", type=float, default=default.fps, help="frames a second (%(default)s)")
    add("--short_side", type=int, default=default.short_side, metavar="PIXELS",
        help="of the stored frames, 0 for the videos' own (%(default)s)")  # fmt: skip
    add("--codec", choices=sorted(CODECS), default=default.codec,
        help="of the stored frames; raw takes some 7 times the room (%(default)s)")  # fmt: skip
    add("--splits", type=_splits, default=default.splits, metavar="NAME=SHARE,...",
        help="for entries that name no split (train=0.8,validation=0.1,test=0.1)")  # fmt: skip
    add("--vocab_size", type=int, default=default.vocab_size, metavar="TOKENS",
        help="of the tokenizer that is trained on the captions (%(default)s)")  # fmt: skip
    add("--tokenizer", default="", metavar="FOLDER", help="a CLIP tokenizer to use instead")
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N",
        help="processes that decode; the result does not depend on it (%(default)s)")  # fmt: skip
    add_runner_flags(parser, "in place of --workers")
    add("--name", help=f"of the data set (its own, or {default.name})")
    add("--licence", metavar="TEXT", help="a note for the manifest (the data set's own)")
    return parser


def _splits(text: str) -> tuple[tuple[str, float], ...]:
    pairs = [part.split("=") for part in text.split(",")]
    with contextlib.suppress(ValueError):
        return tuple((name.strip(), float(share)) for name, share in pairs)
    raise argparse.ArgumentTypeError(
        f"must look like train=0.8,validation=0.1,test=0.1; got {text!r}"
    )


def _interrupt(*_) -> None:
    raise KeyboardInterrupt  # a scheduler's SIGTERM cleans up as Ctrl-C does


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    run_command(main)
