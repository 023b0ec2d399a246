"""Counts of a data set: the entries that it should have, that its annotations name, and found ones.

`counts_of` goes into the manifest's settings under "dataset", `count_lines` prints it:

    train: 10,009 videos expected, 9,980 found; 29 files missing, listed in shards/missing.txt

`queries` in it says which captions papers use as queries: one a video, or all of them.
"""

from typing import Any

from mova_jax.data.annotations.items import Reading


def counts_of(reading: Reading) -> dict[str, Any]:
    """The counts of a data set by split, as JSON; empty for annotations of no known data set."""
    if not reading.named:
        return {}
    return {
        "name": reading.source,
        "unit": reading.unit,
        "queries": reading.queries,
        "expected": reading.expected,
        "named": reading.named,
        "found": reading.found,
        "missing": {split: len(names) for split, names in reading.missing.items()},
    }


def count_lines(counts: dict[str, Any], listed_in: str) -> list[str]:
    """A line for each split with published counts, or with entries that were not found.

    Args:
        counts: of `counts_of`.
        listed_in: the file that lists missing videos.
    """
    lines = []
    for split in sorted({*counts["expected"], *counts["named"]} if counts else ()):
        expected, named, found, missing = (
            counts[key].get(split, 0) for key in ("expected", "named", "found", "missing")
        )
        if not expected and found == named:
            continue  # there is no published count to compare with
        known = f"{expected:,} {counts['unit']} expected" if expected else f"{named:,} named"
        line = f"{split or 'all'}: {known}, {found:,} found"
        if expected and named != expected:
            line += f"; the annotations name {named:,}"
        if missing:
            line += f"; {missing:,} files missing, listed in {listed_in}"
        lines.append(line)
    return lines
