"""How many entries a data set should have, how many its annotations name, how many were found.

`counts_of` goes into the manifest's settings under "dataset", `count_lines` reads it for the eye:

    train: 10,009 videos expected, 9,980 found; 29 files missing, listed in shards/missing.txt

`queries` in it says by which captions papers search the data set: by one a video, or by all.
"""

from typing import Any

from mova_jax.data.annotations.items import Reading


def counts_of(reading: Reading) -> dict[str, Any]:
    """The counts of a data set by split, as JSON; empty for annotations that are nobody's set."""
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
    """A line for each split whose numbers are known or are not as they should be.

    Args:
        counts: of `counts_of`.
        listed_in: the file that names what is missing.
    """
    lines = []
    for split in sorted({*counts["expected"], *counts["named"]} if counts else ()):
        expected, named, found, missing = (
            counts[key].get(split, 0) for key in ("expected", "named", "found", "missing")
        )
        if not expected and found == named:
            continue  # nothing is known that it could be held against
        known = f"{expected:,} {counts['unit']} expected" if expected else f"{named:,} named"
        line = f"{split or 'all'}: {known}, {found:,} found"
        if expected and named != expected:
            line += f"; the annotations name {named:,}"
        if missing:
            line += f"; {missing:,} files missing, listed in {listed_in}"
        lines.append(line)
    return lines
