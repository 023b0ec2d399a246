"""Makes frame shards of your own videos.

    python -m mova_jax.prepare --input clips/captions.jsonl --output shards

In:  a JSONL beside the videos, one video a line; `--help` lists its fields.
Out: a folder for `--config=configs/base.py:data=shards`: shards, tokenizer, and manifest.json with
     all that was skipped and why.

Exit code: 0 when every line went in, 3 when some were skipped, 1 when nothing could be made.
"""

import argparse
import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Sequence

from mova_jax.data.annotations import FIELDS, InputError
from mova_jax.data.ingest import IngestSettings, ingest
from mova_jax.data.manifest import MANIFEST, Manifest, ShardError, SplitInfo

DONE, FAILED, SOME_SKIPPED, INTERRUPTED = 0, 1, 3, 130
_SHOWN = 10  # skipped videos in the summary
_BATCH = 32  # `train.batch_size` of configs/base.py, which train has to fill


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code, see the module."""
    args = _parser().parse_args(argv)
    settings = IngestSettings(
        fps=args.fps,
        short_side=args.short_side,
        splits=args.splits,
        vocab_size=args.vocab_size,
        tokenizer=args.tokenizer,
        name=args.name,
        licence=args.licence,
    )
    try:
        manifest = ingest(args.input, args.output, settings, args.workers)
    except (InputError, ShardError, OSError) as error:
        print("prepare:", " ".join(str(error).split()), file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("prepare: interrupted; nothing was kept.", file=sys.stderr)
        return INTERRUPTED
    print(summary(manifest, args.output))
    return SOME_SKIPPED if manifest.skipped else DONE


def summary(manifest: Manifest, folder: str) -> str:
    """What went in, what did not, and what to do next, for the eye."""
    lines = [f"{'split':<12}{'videos':>9}{'frames':>11}{'captions':>10}"]
    for split in sorted({*manifest.splits, *manifest.settings["splits"]}):
        info = manifest.splits.get(split, SplitInfo(0, 0, 0, ()))
        lines.append(f"{split:<12}{info.videos:>9,}{info.frames:>11,}{info.captions:>10,}")
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
    """The command that trains on the shards, in a workdir of their own."""
    argument = f"configs/base.py:data={folder}"
    train = manifest.splits.get("train", SplitInfo(0, 0, 0, ())).videos
    if train < _BATCH:
        argument += f",batch={max(2, train)}"
    workdir = os.path.join("runs", os.path.basename(os.path.abspath(folder)))
    return shlex.join(
        ["python", "-m", "mova_jax.main", f"--config={argument}", f"--workdir={workdir}"]
    )


def _parser() -> argparse.ArgumentParser:
    default = IngestSettings()
    parser = argparse.ArgumentParser(
        prog="python -m mova_jax.prepare",
        description="Makes frame shards of videos and captions.",
        epilog=f"Fields of a line of the JSONL:\n{FIELDS}\n\n"
        "Exit code: 0 when every line went in, 3 when some were skipped, 1 when nothing was made.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--input", required=True, metavar="JSONL", help="one video a line, see below")
    add("--output", required=True, metavar="FOLDER", help="of the shards; absent or empty")
    add("--fps", type=float, default=default.fps, help="frames a second (%(default)s)")
    add("--short_side", type=int, default=default.short_side, metavar="PIXELS",
        help="of the stored frames, 0 for the videos' own (%(default)s)")  # fmt: skip
    add("--splits", type=_splits, default=default.splits, metavar="NAME=SHARE,...",
        help="for lines that name no split (train=0.8,validation=0.1,test=0.1)")  # fmt: skip
    add("--vocab_size", type=int, default=default.vocab_size, metavar="TOKENS",
        help="of the tokenizer that is learned from the captions (%(default)s)")  # fmt: skip
    add("--tokenizer", default="", metavar="FOLDER", help="a CLIP tokenizer to use instead")
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N",
        help="processes that decode; the result does not depend on it (%(default)s)")  # fmt: skip
    add("--name", default=default.name, help="of the data set (%(default)s)")
    add("--licence", default="", metavar="TEXT", help="a note kept in the manifest")
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
    sys.exit(main())
