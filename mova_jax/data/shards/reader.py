"""Reads the shards of a split at random, without TensorFlow.

source = open_split("SHARDS", "train")
len(source), source[0].captions
"""

import bisect
import itertools
import operator
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from mova_jax.data.shards.manifest import ShardError, ShardInfo, SplitInfo, read_manifest
from mova_jax.data.shards.records import VideoRecord, parse


class SplitSource(Sequence):
    """The records of a split at random: `len(source)`, `source[i]`.

    A Grain data source: it can be pickled, and its only state is open files.
    """

    def __init__(self, folder: Path, split: str, info: SplitInfo):
        """Wraps shards that were checked; use `open_split`."""
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        self._folder, self._split, self._info = folder, split, info
        # With the range in brackets ArrayRecord does not open every file to count its records.
        self._source = ArrayRecordDataSource(
            [f"{folder / shard.file}[0:{shard.records}]" for shard in info.shards]
        )

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index) -> VideoRecord:
        """Reads record `index`.

        Raises:
            IndexError: when there is no such record.
            ShardError: when it is damaged; names shard and record.
        """
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of split {self._split!r}, which has {len(self)}")
        try:
            return parse(self._source[index])
        except (RuntimeError, ValueError) as error:
            shard, position = self._locate(index)
            raise ShardError(
                f"Record {position} of shard {self._folder / shard.file} cannot be read "
                f"({error}); copy the shard again (sha256 {shard.sha256}) or make it again."
            ) from error

    def __repr__(self) -> str:
        return f"SplitSource({str(self._folder)!r}, {self._split!r})"

    def _locate(self, index: int) -> tuple[ShardInfo, int]:
        shards = self._info.shards
        starts = [0, *itertools.accumulate(shard.records for shard in shards)]
        which = bisect.bisect_right(starts, index) - 1
        return shards[which], index - starts[which]


def open_split(folder: str | os.PathLike, split: str) -> SplitSource:
    """Opens a split after a cheap check that its shards are whole (nothing is decoded).

    Raises:
        ShardError: when the folder, the split or a shard is missing, of another schema version,
            or cut short.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if split not in manifest.splits:
        there = ", ".join(sorted(manifest.splits)) or "none"
        raise ShardError(f"There is no split {split!r} in {folder}; the splits are: {there}.")
    info = manifest.splits[split]
    for shard in info.shards:
        _check_shard(folder / shard.file, shard)
    return SplitSource(folder, split, info)


def _check_shard(path: Path, shard: ShardInfo) -> None:
    from array_record.python.array_record_module import ArrayRecordReader

    again = "copy it again or make it again with python -m mova_jax.prepare"
    if not path.exists():
        raise ShardError(f"Shard {path} is in the manifest but not in the folder; {again}.")
    size = path.stat().st_size
    if size != shard.bytes:
        state = "truncated" if size < shard.bytes else "not the one of its manifest"
        raise ShardError(
            f"Shard {path} has {size} bytes, the manifest says {shard.bytes}: it is {state}; "
            f"{again}."
        )
    reader = ArrayRecordReader(str(path))
    records = reader.num_records() if reader.ok() else 0
    reader.close()
    if records != shard.records:
        raise ShardError(
            f"Shard {path} holds {records} readable records, the manifest says "
            f"{shard.records}; {again}."
        )


def read_shard(path: Path) -> Iterator[bytes]:
    """The serialized records of one file, in order.

    Raises:
        RuntimeError: when it is damaged.
    """
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(str(path), "readahead_buffer_size:0,max_parallelism:0")
    if not reader.ok():
        raise RuntimeError(f"{path} is damaged")
    try:
        for position in range(reader.num_records()):
            yield reader.read([position])[0]
    finally:
        reader.close()
