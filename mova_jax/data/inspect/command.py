"""Inspects a shard folder: statistics, a contact sheet, and a check of every record.

    python -m mova_jax.prepare inspect shards
    python -m mova_jax.prepare inspect shards --sheet sheet.png --verify

In:  a folder that `prepare` made, or the embedded data.
Out: statistics of each split, and licence, warnings and skipped videos from the manifest; with
     --sheet an image of some videos of each split; with --verify the faults of files, records and
     frames.

Exit code: 0 when all is right, 1 when something is wrong or cannot be read, 2 for wrong flags.
"""

import argparse
import concurrent.futures
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mova_jax.data.ingest.ingest import TOKENIZER
from mova_jax.data.inspect.checks import Fault, count_faults, plain, read_records, record_faults
from mova_jax.data.inspect.contact_sheet import COLUMNS, Section, Strip, draw_sheet, save_sheet
from mova_jax.data.inspect.statistics import SplitFigures, table
from mova_jax.data.pipeline.sampling import even_numbers
from mova_jax.data.shards import (
    MANIFEST,
    Manifest,
    ShardError,
    SplitInfo,
    VideoRecord,
    read_manifest,
)
from mova_jax.data.shards.cache import local_folder
from mova_jax.data.tokenizer import Tokenizer
from mova_jax.utils.progress_bar import bar_of

RIGHT, WRONG, INTERRUPTED = 0, 1, 130
SHEET = "contact_sheet.png"
_SHOWN = 5  # warnings and skipped videos
_FAULTS_SHOWN = 100
_MAX_VIDEOS = 100  # of a split on a sheet: higher images are hard to open


class Inspected(NamedTuple):
    """The result for one split: its statistics, strips for the sheet, and faults."""

    figures: SplitFigures
    strips: list[Strip]
    faults: list[Fault]


def main(argv: Sequence[str]) -> int:
    """Runs the command and returns its exit code, see the module; wrong flags raise SystemExit."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.sheet and not Path(args.sheet).absolute().parent.is_dir():
        parser.error(f"argument --sheet: there is no folder for {args.sheet}")
    try:
        args.shards = local_folder(args.shards)
        manifest = read_manifest(args.shards)
        if args.split and args.split not in manifest.splits:
            there = ", ".join(plain(split) for split in manifest.splits) or "none"
            parser.error(f"argument --split: there is no {args.split!r}; the splits are: {there}")
        return _inspect(args, manifest)
    except (ShardError, OSError) as error:
        print("inspect:", plain(str(error), 1000), file=sys.stderr)
        return WRONG
    except KeyboardInterrupt:
        print("inspect: interrupted.", file=sys.stderr)
        return INTERRUPTED


def _inspect(args: argparse.Namespace, manifest: Manifest) -> int:
    """Reads, prints and draws; returns the exit code."""
    folder: Path = args.shards
    tokenizer, tokenizer_note, faults = _tokenizer(folder / TOKENIZER)
    splits = [args.split] if args.split else list(manifest.splits)
    seen: dict[str, Inspected] = {}
    for split in splits:
        info = manifest.splits[split]
        strips = args.videos if args.sheet else 0
        seen[split] = inspect_split(folder, split, info, tokenizer, strips, args.verify)
        faults += seen[split].faults
    print(f"{plain(manifest.name)} in {folder}")
    if seen:
        print(table({plain(split): one.figures for split, one in seen.items()}))
    print("\n".join([tokenizer_note, *_notes(manifest)]))
    print("\n".join(_verdict(faults, seen, args.verify)))
    if args.sheet:  # last, because it may fail and everything found is then printed already
        save_sheet(_sheet(manifest, folder, seen), args.sheet)
        print(f"contact sheet: {args.sheet}")
    return WRONG if faults else RIGHT


def inspect_split(
    folder: Path,
    split: str,
    info: SplitInfo,
    tokenizer: Tokenizer | None,
    strips: int,
    verify: bool,
) -> Inspected:
    """Reads a split once, with a progress bar.

    Args:
        folder: of the shards.
        split: its name.
        info: of the split, from the manifest.
        tokenizer: without a limit on the length; None leaves token lengths out.
        strips: videos for the contact sheet, evenly spaced over the split.
        verify: whether to check hashes, counts and the contents of records; a shard or record
            that cannot be read is a fault in any case.
    """
    seen = Inspected(SplitFigures(), [], [])
    wanted = set(even_numbers(info.videos, strips).tolist()) if strips else set()
    first: dict[str, str] = {}  # the first place of each id
    records = read_records(folder, info, seen.faults, hashes=verify)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        bar = bar_of(plain(split, 24), info.videos, records)
        for number, (shard, position, record) in enumerate(bar):
            tokens = len(tokenizer.encode(record.caption).ids) if tokenizer else None
            seen.figures.add(record, tokens)
            if number in wanted:
                seen.strips.append(_strip(record, tokens))
            if verify:
                reasons = record_faults(record, pool.map)
                place = first.setdefault(record.id, f"{shard}, record {position}")
                if place != f"{shard}, record {position}":
                    reasons.append(f"has the id {record.id!r} of {place}")
                seen.faults.extend(Fault(shard, position, reason) for reason in reasons)
    if verify:
        seen.faults.extend(count_faults(split, info, seen.figures.counts))
    return seen


def _tokenizer(folder: Path) -> tuple[Tokenizer | None, str, list[Fault]]:
    """The tokenizer of the folder, a line about it, and a fault if it is broken."""
    try:
        tokenizer = Tokenizer(folder, max_tokens=sys.maxsize)
    except FileNotFoundError:
        return None, "tokenizer: none in the folder, so lengths in tokens are not known", []
    except Exception as error:  # transformers and its Rust raise many kinds
        reason = f"cannot be read ({error})"
        return None, "tokenizer: see below", [Fault(TOKENIZER, None, reason)]
    return tokenizer, f"tokenizer: {tokenizer.vocab_size:,} tokens", []


def _strip(record: VideoRecord, tokens: int | None) -> Strip:
    facts = [
        f"{record.duration:.1f} s",
        f"{len(record.frames)} frames",
        f"{record.width} x {record.height}",
    ]
    if tokens is not None:
        facts.append(f"{tokens} tokens")
    if timed := sum(caption.timed for caption in record.captions):
        facts.append(f"{timed} timed sentences")
    # A damaged record may lack frames or times.
    frames = list(zip(record.timestamps, record.frames, strict=False))
    picked = [frames[i] for i in even_numbers(len(frames), COLUMNS)]
    return Strip(
        title=plain(record.id),
        note=" · ".join(facts),
        caption=plain(record.caption, 500),
        size=(record.height, record.width),
        frames=tuple((float(seconds), jpeg) for seconds, jpeg in picked),
    )


def _sheet(manifest: Manifest, folder: Path, seen: dict[str, Inspected]):
    sections = [
        Section(
            f"{plain(split)}: {len(one.strips):,} of {len(one.figures.durations):,} videos",
            one.strips,
        )
        for split, one in seen.items()
    ]
    note = plain(f"{folder.absolute().name} · licence: {manifest.licence or 'none noted'}")
    return draw_sheet(plain(manifest.name), note, sections)


def _notes(manifest: Manifest) -> list[str]:
    """Settings, licence, warnings and skipped videos of the manifest."""
    settings = ", ".join(
        f"{key}={value}" for key, value in manifest.settings.items() if value != ""
    )
    lines = [
        f"settings: {plain(settings, 400) or 'none noted'}",
        f"licence: {plain(str(manifest.licence), 400) or 'none noted'}",
    ]
    for what, entries in (("warnings", manifest.warnings), ("skipped", manifest.skipped)):
        lines.append(f"{what}: {len(entries):,}")
        lines += [f"  {plain(str(e['id']))}: {plain(str(e['reason']))}" for e in entries[:_SHOWN]]
        if len(entries) > _SHOWN:
            lines.append(f"  and {len(entries) - _SHOWN:,} more, in {MANIFEST}")
    return lines


def _verdict(faults: list[Fault], seen: dict[str, Inspected], verify: bool) -> list[str]:
    """The last lines: the faults, or that there are none."""
    if faults:
        lines = [f"wrong: {len(faults):,}", *(f"  {fault}" for fault in faults[:_FAULTS_SHOWN])]
        if len(faults) > _FAULTS_SHOWN:
            lines.append(f"  and {len(faults) - _FAULTS_SHOWN:,} more")
        return [
            *lines,
            "Copy what is wrong again, or make it again with python -m mova_jax.prepare.",
        ]
    if not verify:
        return ["all records can be read; --verify checks hashes, counts, times and every frame"]
    counts = [one.figures.counts for one in seen.values()]
    videos, frames = sum(count[0] for count in counts), sum(count[1] for count in counts)
    return [f"verified: {videos:,} videos with {frames:,} frames, nothing is wrong"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mova_jax.prepare inspect",
        description="Shows what is in a shard folder, and checks it.",
        epilog="Exit code: 0 when all is right, 1 when something is wrong or cannot be read.",
    )
    add = parser.add_argument
    add("shards", metavar="SHARDS", help="a folder made by python -m mova_jax.prepare")
    add("--split", default="", metavar="NAME", help="only this split (all)")
    add("--sheet", nargs="?", const=SHEET, type=_png, metavar="FILE.png",
        help=f"draws a contact sheet; without a name, {SHEET} where you are")  # fmt: skip
    add("--videos", type=_videos, default=6, metavar="N",
        help="of each split on the sheet, evenly spaced (%(default)s)")  # fmt: skip
    add("--verify", action="store_true",
        help="checks hashes, counts, times, and decodes every frame")  # fmt: skip
    return parser


def _png(text: str) -> str:
    if not text.lower().endswith(".png"):
        raise argparse.ArgumentTypeError(f"must end in .png, got {text!r}")
    return text


def _videos(text: str) -> int:
    if text.isdecimal() and 1 <= int(text) <= _MAX_VIDEOS:
        return int(text)
    raise argparse.ArgumentTypeError(f"must be 1 to {_MAX_VIDEOS}, got {text!r}")
