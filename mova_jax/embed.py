"""Embeds videos into an index that can be searched, and keeps it up to date.

    python -m mova_jax.embed --model runs/base --videos VIDEOS --index INDEX
    python -m mova_jax.embed --model M --videos VIDEOS --index INDEX --runner=FlinkRunner
    python -m mova_jax.embed --index INDEX --status
    python -m mova_jax.embed --index INDEX --remove VIDEOS/a.mp4
    python -m mova_jax.embed --index INDEX --compact
    python -m mova_jax.embed --index INDEX --export frames.parquet
    python -m mova_jax.embed --index INDEX --engine http://milvus:19530

The same command again adds what is new and recognises what was moved; however it is stopped, it
goes on. Videos of any length are read as a stream. --remove takes videos out and keeps them out,
until --restore. --compact deletes the entries of videos whose files are gone, and what commands
that were killed left more than a day ago, and packs the vectors into one file, which a large index
opens and scans faster until it changes. --export writes the vectors as a Parquet file, one row a
frame, and --engine brings a vector engine up to date with them (docs/search.md).

Exit code: 0 done, 3 some files could not be read, 1 it could not be finished, 130 interrupted.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from mova_jax.utils.command_line import add_runner_flags, command_parser, file_error, local_path
from mova_jax.utils.streams import run_command

DONE, FAILED, SOME_SKIPPED, INTERRUPTED = 0, 1, 3, 130
_SHOWN = 10  # skipped files
_OF_INDEX = ("status", "remove", "restore", "compact")  # flags that show or change an index
_WORK = ("videos", *_OF_INDEX, "export", "engine")
_OF_VIDEOS = ("model", "fps", "process", "processes", "runner", "beam")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code, see the module."""
    args = _parse(argv)
    # These imports take seconds: flags are checked before.
    from mova_jax.data.beam_pipeline import PipelineError
    from mova_jax.parallel.mesh import MeshError
    from mova_jax.search.store import StoreError
    from mova_jax.training.checkpoint import CheckpointError
    from mova_jax.training.workdir import RunError
    from mova_jax.weights.files import WeightsError

    errors = (StoreError, PipelineError, RunError, CheckpointError, WeightsError, MeshError)
    try:
        code = _embed(args) if args.videos else _keep(args)
        if args.export or args.engine:
            _copy(args)
        return code
    except errors as error:
        print(f"embed: {error}", file=sys.stderr)
        return FAILED
    except OSError as error:
        print(f"embed: {file_error(error, args.index)}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("embed: interrupted; the same command goes on", file=sys.stderr)
        return INTERRUPTED


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags; ends the command for those that contradict each other."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.videos and not args.model:
        parser.error("--videos needs --model")
    if not args.fps > 0:
        parser.error(f"--fps: got {args.fps}, expected more than 0")
    if not 0 <= args.process < args.processes:
        parser.error(
            f"--process: got {args.process} of {args.processes}, expected 0 to --processes - 1"
        )
    if not any(getattr(args, name) for name in _WORK):
        parser.error(f"expected one of --{', --'.join(_WORK)}")
    ignored = _OF_INDEX if args.videos else _OF_VIDEOS
    for name in ignored:
        if getattr(args, name) != parser.get_default(name):
            both = "not together with --videos" if args.videos else "only together with --videos"
            parser.error(f"--{name}: {both}")
    return args


def _embed(args: argparse.Namespace) -> int:
    from mova_jax import load
    from mova_jax.data.beam_pipeline import beam_options
    from mova_jax.search.indexing import index_folder

    beam = beam_options(args.runner, args.beam)
    found = index_folder(
        load(args.model),
        args.videos,
        args.index,
        fps=args.fps,
        process=args.process,
        processes=args.processes,
        beam=beam,
    )
    counts = {name: getattr(found, name) for name in ("added", "unchanged", "moved", "copies")}
    counts |= {"removed before": found.removed, "skipped": len(found.skipped)}
    print(", ".join(f"{count} {name}" for name, count in counts.items() if count) or "no videos")
    for path, reason in list(found.skipped.items())[:_SHOWN]:
        print(f"  {path}: {reason}")
    return SOME_SKIPPED if found.skipped else DONE


def _keep(args: argparse.Namespace) -> int:
    """Shows or changes an index that is there."""
    from mova_jax.search.index_writer import IndexWriter
    from mova_jax.search.store import broken_entries, open_index

    index = open_index(args.index)
    writer = IndexWriter(args.index, index.manifest)
    for path in args.remove:
        path = os.path.abspath(path)
        ids = [e.id for e in index.entries if any(file.path == path for file in e.files)]
        print(f"{path}: {'removed' if ids else 'is not in the index'}")
        for video in ids:
            writer.remove(video)
    if args.restore:
        for video in writer.removed():
            writer.restore(video)
        print("removed videos are embedded again by the next command with --videos")
    if args.compact:
        print(", ".join(f"{count} {name} deleted" for name, count in writer.compact().items()))
        print(f"{writer.pack():,} videos packed")
    if args.status:
        missing = [e for e in index.entries if not any(os.path.exists(f.path) for f in e.files)]
        hours = sum(entry.duration for entry in index.entries) / 3600
        print(f"{args.index}: {len(index.entries):,} videos, {hours:,.1f} hours")
        print(f"  frames     {sum(e.frames for e in index.entries):,}")
        print(f"  model      {index.manifest['model']}, {index.manifest['fps']:g} frames a second")
        print(f"  missing    {len(missing)} whose files are gone (--compact deletes them)")
        print(f"  removed    {len(writer.removed())}")
        print(f"  skipped    {len(writer.skipped())} files that could not be read")
        print(f"  broken     {len(broken_entries(args.index))}")
    return DONE


def _copy(args: argparse.Namespace) -> None:
    """Copies the vectors of an index, as it is now, to where others read them."""
    from mova_jax.search.engine import Engine
    from mova_jax.search.parquet_file import export_parquet
    from mova_jax.search.store import open_index

    index = open_index(args.index)
    if args.export:
        print(f"{export_parquet(index, args.export):,} frames in {args.export}")
    if args.engine:
        engine = Engine(args.engine, index)
        done = engine.upload(index)
        engine.close()
        print(f"{args.engine}: {done.added:,} videos uploaded, {done.deleted:,} deleted")


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("python -m mova_jax.embed", __doc__)
    add = parser.add_argument
    add("--index", required=True, type=local_path, help="folder of the index")
    add("--model", default="", help="a run, an export for PyTorch, or the folder of a CLIP")
    add("--videos", default="", type=local_path, help="folder of videos to embed, at any depth")
    add("--fps", type=float, default=1.0, help="frames a second")
    add("--remove", nargs="+", default=[], metavar="PATH", help="takes videos out")
    add("--restore", action="store_true", help="lets removed videos in again")
    add("--status", action="store_true", help="what the index has")
    add("--compact", action="store_true", help="deletes what is gone or was left, and packs")
    add("--export", default="", type=local_path, metavar="FILE", help="writes a Parquet file")
    add("--engine", default="", metavar="URI", help="uploads the vectors to Milvus")
    add("--process", type=int, default=0, help="of several that share the videos, from 0")
    add("--processes", type=int, default=1, help="their number")
    add_runner_flags(parser, "which embeds on many machines")
    return parser


if __name__ == "__main__":
    run_command(main)
