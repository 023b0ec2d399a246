"""Sources of records: a folder of shards, a TFDS data set, or several of them concatenated.

    source = open_source("SHARDS", "train")              # made by `mova_jax.prepare`
    source = open_source("tfds:NAME/VERSION", "train")   # see `tfds/source.py`
    len(source), source[0].captions, repr(source)
    splits_of("SHARDS")                                  # {"train": 1200, "test": 670}

A source is read at random and can be pickled; its repr names the place of its data.
"""

import bisect
import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path

from mova_jax.data.shards import VideoRecord, open_split, read_manifest

TFDS = "tfds:"
_WITH_SPLIT = re.compile(r"(.+):([a-z][a-z0-9_]*)")


def is_tfds(name: str | os.PathLike) -> bool:
    """Whether a name is that of a TFDS data set."""
    return str(name).startswith(TFDS)


def open_source(name: str | os.PathLike, split: str) -> Sequence[VideoRecord]:
    """The records of a split.

    Args:
        name: a shard folder, or `tfds:` and the name of a TFDS data set.
        split: its name.

    Raises:
        ShardError: it is not there, or cannot be read; lists what there is.
    """
    if is_tfds(name):
        from mova_jax.data.tfds.source import open_tfds  # takes a second, and few runs need it

        return open_tfds(str(name), split)
    return open_split(name, split)


def splits_of(name: str | os.PathLike) -> dict[str, int]:
    """The splits that a source of this name has, and the number of records of each.

    Raises:
        ShardError: it is not there, or cannot be read.
    """
    if is_tfds(name):
        from mova_jax.data.tfds.source import tfds_splits

        return tfds_splits(str(name))
    return {split: info.videos for split, info in read_manifest(name).splits.items()}


def data_and_split(data: str) -> tuple[str, str]:
    """The source and the split of `SHARDS:SPLIT`; '' for the split where none is named.

    `tfds:NAME` has no split, and neither has a folder of this very name.
    """
    found = _WITH_SPLIT.fullmatch(data)
    if not found or found[1] == "tfds" or Path(data).exists():
        return data, ""
    return found[1], found[2]


class ConcatSource(Sequence):
    """Several sources one after the other, under one numbering."""

    def __init__(self, sources: Sequence[Sequence[VideoRecord]]):
        """Takes the sources, in order."""
        self.sources = tuple(sources)
        self._ends = list(itertools.accumulate(map(len, self.sources)))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> VideoRecord:
        source, own = self.locate(index)
        return source[own]

    def __repr__(self) -> str:
        return " + ".join(map(repr, self.sources))

    def locate(self, index: int) -> tuple[Sequence[VideoRecord], int]:
        """The source that has a record, and the record's number there.

        Raises:
            IndexError: when there is no such record.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {self!r}, which has {len(self)}")
        which = bisect.bisect_right(self._ends, index)
        source = self.sources[which]
        return source, index - self._ends[which] + len(source)
