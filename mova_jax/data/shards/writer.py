"""Writes the shards of a split: ArrayRecord files that get their names when all of them are whole.

    info = write_split(folder, "train", records, name="clips")     # goes into the manifest

The same records give the same bytes.
"""

import hashlib
import itertools
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from mova_jax.data.shards.manifest import ShardError, ShardInfo, SplitInfo, reraise_as_shard_error
from mova_jax.data.shards.records import VideoRecord, serialize

SHARD_RECORDS = 512
SHARD_BYTES = 128 * 2**20

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_WRITER_OPTIONS = "group_size:1"  # one record a chunk, so that reading one decodes one


def write_split(
    folder: str | os.PathLike,
    split: str,
    records: Iterable[VideoRecord],
    *,
    name: str,
    shard_records: int = SHARD_RECORDS,
    shard_bytes: int = SHARD_BYTES,
) -> SplitInfo:
    """Writes the records of one split, in their order; on an error nothing is left behind.

    Args:
        folder: of the data set, made when absent.
        split: its name.
        records: consumed one at a time.
        name: of the data set.
        shard_records: records a shard at most.
        shard_bytes: a shard is closed after the record with which it reaches this size.

    Returns:
        The split's entry in the manifest.

    Raises:
        ShardError: when the shards cannot be stored or there are no records.
        ValueError: on a name or a record that is not valid.
    """
    stem, folder = stem_of(name, split), Path(folder)
    frames = captions = 0

    def serialized() -> Iterator[bytes]:
        nonlocal frames, captions
        for record in records:
            frames, captions = frames + len(record.frames), captions + len(record.captions)
            yield serialize(record)

    folder.mkdir(parents=True, exist_ok=True)
    infos = []
    with tempfile.TemporaryDirectory(".partial", f".{stem}.", folder) as partial:
        stream = serialized()
        for first in stream:  # each turn takes the records of one shard from the stream
            shard = _one_shard(first, stream, shard_records, shard_bytes)
            infos.append(write_shard(Path(partial, f"{stem}-{len(infos):05d}"), shard))
        if not infos:
            raise ShardError(f"Split {split!r} has no records; leave it out.")
        shards = []
        for index, info in enumerate(infos):
            file = shard_file(stem, index, len(infos))
            Path(partial, info.file).rename(folder / file)
            shards.append(ShardInfo(file, info.records, info.bytes, info.sha256))
    return SplitInfo(sum(info.records for info in infos), frames, captions, tuple(shards))


def _one_shard(
    first: bytes, rest: Iterator[bytes], max_records: int, max_bytes: int
) -> Iterator[bytes]:
    size = 0
    for count, record in enumerate(itertools.chain([first], rest), 1):
        yield record
        size += len(record)
        if count >= max_records or size >= max_bytes:
            return


def stem_of(name: str, split: str) -> str:
    """The file names of a split's shards, up to their number.

    Raises:
        ValueError: when name or split is not a lower case identifier.
    """
    for what, value in (("name", name), ("split", split)):
        if not _NAME.fullmatch(value):
            raise ValueError(
                f"The {what} of a data set must be lower case letters, digits and "
                f"underscores, starting with a letter; got {value!r}."
            )
    return f"{name}-{split}.array_record"


def shard_file(stem: str, index: int, count: int) -> str:
    """The name of a shard among `count` of them."""
    return f"{stem}-{index:05d}-of-{count:05d}"


def write_shard(path: Path, records: Iterable[bytes]) -> ShardInfo:
    """Writes serialized records to one file.

    Raises:
        ShardError: when they cannot be stored; the file is then not whole.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    failed = f"{path} could not be written"
    count = 0
    with reraise_as_shard_error(failed):
        writer = ArrayRecordWriter(str(path), _WRITER_OPTIONS)
    try:
        for record in records:  # whose own errors are not the file's
            with reraise_as_shard_error(failed):
                writer.write(record)
            count += 1
    finally:
        with reraise_as_shard_error(failed):
            writer.close()
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return ShardInfo(path.name, count, path.stat().st_size, digest)
