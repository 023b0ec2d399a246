"""The commands `prepare montage` and `prepare pictures`.

    python -m mova_jax.prepare montage --input captions.jsonl --items 48 --named 4 \\
        --videos test=128 --output shards/montage
    python -m mova_jax.prepare montage --input captions.jsonl --duration 60-1800 --output shards/m
    python -m mova_jax.prepare pictures --input captions.jsonl --views 16 --output shards/pictures

In:  a JSONL of captioned pictures or clips, one a line.
Out: a folder of shards, as `prepare` makes them of videos. A folder that the same command made
     before is left as it is; one that was interrupted is made again.

Exit code: 0 when it is made, 3 when lines were skipped, 1 when it could not be made, 130 when it
was interrupted.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence

from mova_jax.data.annotations import InputError
from mova_jax.data.montage.generate import (
    SPLITS,
    MontageSettings,
    PictureSettings,
    Source,
    make_montages,
    make_pictures,
)
from mova_jax.data.montage.items import FIELDS
from mova_jax.data.montage.plan import PlanSettings
from mova_jax.data.shards import Manifest, ShardError
from mova_jax.utils.command_line import command_parser

MADE, FAILED, SOME_SKIPPED, INTERRUPTED = 0, 1, 3, 130
NAMES = MONTAGE, PICTURES = "montage", "pictures"
_SHOWN = 5  # skipped lines


def main(argv: Sequence[str]) -> int:
    """Runs the command whose name comes first; returns its exit code, see the module."""
    args = _parser(argv[0]).parse_args(argv[1:])
    common = {
        name: getattr(args, name) for name in ("size", "seed", "vocab_size", "tokenizer", "licence")
    }
    try:
        source = Source.read(args.input, args.splits)
        if argv[0] == PICTURES:
            settings = PictureSettings(**common, views=args.views)
            manifest = make_pictures(source, args.output, settings)
        else:
            names = [field.name for field in dataclasses.fields(PlanSettings)]
            plan = PlanSettings(**{name: getattr(args, name) for name in names})
            settings = MontageSettings(
                **common, plan=plan, captions=args.captions, videos=args.videos
            )
            manifest = make_montages(source, args.output, settings)
    except (InputError, ShardError, OSError) as error:
        print("prepare:", " ".join(str(error).split()), file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("prepare: interrupted; the same command starts again.", file=sys.stderr)
        return INTERRUPTED
    print(_summary(manifest, args.output))
    return SOME_SKIPPED if manifest.skipped else MADE


def _summary(manifest: Manifest, folder: str) -> str:
    lines = [f"{'split':<12}{'videos':>9}{'frames':>11}{'sentences':>11}"]
    for split, info in manifest.splits.items():
        lines.append(f"{split:<12}{info.videos:>9,}{info.frames:>11,}{info.captions:>11,}")
    lines.append(f"captions truncated: {manifest.truncated_captions}")
    lines.append(f"skipped: {len(manifest.skipped)}")
    lines += [f"  {entry['id']}: {entry['reason']}" for entry in manifest.skipped[:_SHOWN]]
    return "\n".join([*lines, f"next: python -m mova_jax.prepare inspect {folder}"])


def _parser(name: str) -> argparse.ArgumentParser:
    what = "long videos of captioned pictures or clips" if name == MONTAGE else "single pictures"
    parser = command_parser(
        f"python -m mova_jax.prepare {name}",
        f"Makes shards of {what}.",
        f"Fields of a line of the JSONL:\n{FIELDS}\n\nA RANGE is LOW-HIGH, or one number.",
    )
    add, default, plan = parser.add_argument, MontageSettings(), PlanSettings()
    add("--input", required=True, metavar="JSONL", help="captioned pictures or clips, see below")
    add("--output", required=True, metavar="FOLDER", help="of the shards; absent or empty")
    if name == MONTAGE:
        add("--videos", type=_counts, default=default.videos, metavar="SPLIT=N,...",
            help="to make (train=1000,validation=100,test=100)")  # fmt: skip
        add("--items", type=_whole, default=plan.items, metavar="RANGE",
            help="pictures or clips in a video (12)")  # fmt: skip
        add("--duration", type=_range, metavar="RANGE",
            help="of a video, seconds, in place of --items")  # fmt: skip
        add("--named", type=_whole, default=plan.named, metavar="RANGE",
            help="items that the caption names (4)")  # fmt: skip
        add("--seconds", type=_range, default=plan.seconds, metavar="RANGE",
            help="an item is shown (5-15)")  # fmt: skip
        add("--every", type=float, default=plan.every, metavar="SECONDS",
            help="between two stored frames (%(default)s)")  # fmt: skip
        add("--captions", type=int, default=default.captions,
            help="of a video at most: its caption, and alternatives (%(default)s)")  # fmt: skip
    else:
        add("--views", type=int, default=PictureSettings().views,
            help="of a picture of train: itself, and crops and flips (%(default)s)")  # fmt: skip
    add("--size", type=int, default=default.size, metavar="PIXELS",
        help="a side of a frame (%(default)s)")  # fmt: skip
    add("--seed", type=int, default=default.seed, help="(%(default)s)")
    add("--splits", type=_shares, default=SPLITS, metavar="NAME=SHARE,...",
        help="for lines that name no split (train=0.8,validation=0.1,test=0.1)")  # fmt: skip
    add("--vocab_size", type=int, default=default.vocab_size, metavar="TOKENS",
        help="of the tokenizer that is trained on the captions (%(default)s)")  # fmt: skip
    add("--tokenizer", default="", metavar="FOLDER", help="a CLIP tokenizer to use instead")
    add("--licence", default="", metavar="TEXT", help="a note for the manifest")
    return parser


def _range(text: str, number: type = float) -> tuple:
    low, _, high = text.partition("-")
    try:
        return number(low), number(high or low)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must look like 4 or 2-6; got {text!r}") from None


def _whole(text: str) -> tuple[int, int]:
    return _range(text, int)


def _counts(text: str) -> dict[str, int]:
    return {name: int(value) for name, value in _pairs(text, "test=128")}


def _shares(text: str) -> tuple[tuple[str, float], ...]:
    return tuple((name, float(value)) for name, value in _pairs(text, "train=0.9,test=0.1"))


def _pairs(text: str, like: str) -> list[tuple[str, str]]:
    pairs = [tuple(pair.strip() for pair in part.split("=")) for part in text.split(",")]
    if any(len(pair) != 2 or not pair[1].replace(".", "", 1).isdigit() for pair in pairs):
        raise argparse.ArgumentTypeError(f"must look like {like}; got {text!r}")
    return pairs
