"""Reads the owners' annotation files of every data set that is there, and counts what was read.

    python -m benchmarks.real_annotations ANNOTATIONS [--sets uca msvd]

ANNOTATIONS has a folder for each data set, by its name (`msrvtt_full` is in `msrvtt`); zips in it
are unpacked in a temporary folder. No videos are needed: a first reading, without videos, names all
that are missing, and a second one finds an empty file for each. docs/data.md shows the table.
"""

import argparse
import collections
import re
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from mova_jax.data.annotations import InputError, Reading
from mova_jax.data.annotations.registry import DATASETS, read_dataset
from mova_jax.utils.progress_bar import bar_of

SHOWN = 3  # reasons of one data set
COLUMNS = "set", "split", "videos", "sentences", "with a time", "windows", "expected", ""


def read_without_videos(name: str, annotations: Path) -> Reading:
    """Reads a data set as if all its videos were there."""
    with tempfile.TemporaryDirectory() as scratch:
        videos, unpacked = Path(scratch) / "videos", Path(scratch) / "annotations"
        videos.mkdir()
        if zips := sorted(annotations.glob("*.zip")):
            unpacked.mkdir()
            for file in annotations.iterdir():
                (unpacked / file.name).symlink_to(file.resolve())
            for file in zips:
                zipfile.ZipFile(file).extractall(unpacked)
            annotations = unpacked
        missing = read_dataset(name, annotations, videos).missing
        for video in (video for videos in missing.values() for video in videos):
            file = videos / f"{video}.mp4"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        return read_dataset(name, annotations, videos)


def rows_of(reading: Reading) -> Iterator[list[str]]:
    """A row of the table for each split."""
    for split in {**reading.expected, **reading.named}:
        items = [item for item in reading.items if item.split == split]
        sentences = [caption for item in items for caption in item.captions]
        alternatives = sum(len(item.alternatives) for item in items)
        counted = reading.found.get(split, 0)
        expected = reading.expected.get(split)
        verdict = "same" if counted == expected else f"read: {counted:,}" if counted else "no file"
        yield [
            reading.source,
            split or "none",
            f"{len(items):,}",
            f"{len(sentences) + alternatives:,}",
            f"{sum(caption.timed for caption in sentences):,}",
            f"{sum(len(caption.windows) for caption in sentences):,}",
            f"{expected:,} {reading.unit}" if expected else "",
            verdict if expected else "",
        ]


def reasons_of(reading: Reading) -> list[str]:
    """The most frequent reasons why entries were skipped, or read without their times."""
    counts = collections.Counter(
        f"skipped: {re.sub(r'(entry|line|sentence) [0-9]+', 'an entry', entry['id'])}: "
        f"{entry['reason']}"[:120]
        for entry in reading.skipped
    )
    for item in reading.items:
        for warning in item.warnings:  # "caption 3 is kept without ...: 38.0, 13.0"
            counts[re.sub(r"caption \d+", "a sentence", warning.partition(":")[0])] += 1
    return [f"{count:,} x {reason}" for reason, count in counts.most_common(SHOWN)]


def main() -> int:
    """Prints the table, and below it the reasons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("annotations", type=Path)
    parser.add_argument("--sets", nargs="+", choices=sorted(DATASETS), default=list(DATASETS))
    args = parser.parse_args()
    folders = {name: args.annotations / name.removesuffix("_full") for name in args.sets}
    folders = {name: folder for name, folder in folders.items() if folder.is_dir()}
    if not folders:
        parser.error(f"{args.annotations} has no folder named as a data set: {', '.join(DATASETS)}")
    readings, faults = [], []
    for name, folder in bar_of("reading", len(folders), folders.items(), unit="set"):
        try:
            readings.append(read_without_videos(name, folder))
        except InputError as error:
            faults.append(f"{name}: {error}")
    rows = [list(COLUMNS), ["---"] * len(COLUMNS), *(row for r in readings for row in rows_of(r))]
    print("\n".join(f"| {' | '.join(row)} |" for row in rows), end="\n\n")
    for reading in readings:
        for reason in reasons_of(reading):
            print(f"{reading.source}: {reason}")
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
