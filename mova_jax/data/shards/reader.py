"""Frame shards: the one form in which videos and captions are stored and read.

In:  `VideoRecord`s, one a video, from `prepare` (real clips) or from the embedded data.
Out: a folder

    manifest.json                                  what is in it; written last, so it marks the end
    features.json, dataset_info.json               what TFDS has to know, to read it as a data set
    <name>-<split>.array_record-00000-of-00004     ArrayRecord, one tf.train.Example a video

that `open_split` reads at random, without TensorFlow, from any number of processes:

    splits = {"train": write_split(folder, "train", records, name="clips")}
    write_manifest(folder, Manifest(name="clips", splits=splits))
    source = open_split(folder, "train")
    len(source), source[0].captions

Files are written aside and renamed when whole. The same records give the same bytes.
"""

import hashlib
import operator
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from mova_jax.data.shards.manifest import (
    MANIFEST,
    Manifest,
    ShardError,
    ShardInfo,
    SplitInfo,
    read_manifest,
    reraise_as_shard_error,
    write_manifest,
)
from mova_jax.data.shards.records import SCHEMA_VERSION, Caption, VideoRecord, parse, serialize

# The whole of what users of shards need, whichever file it lives in.
__all__ = [
    "MANIFEST",
    "SCHEMA_VERSION",
    "SHARD_BYTES",
    "SHARD_RECORDS",
    "Caption",
    "Manifest",
    "ShardError",
    "ShardInfo",
    "ShardWriter",
    "SplitInfo",
    "SplitSource",
    "VideoRecord",
    "open_split",
    "parse",
    "read_manifest",
    "serialize",
    "whole_chunks",
    "write_manifest",
    "write_split",
]

SHARD_RECORDS = 512
SHARD_BYTES = 128 * 2**20

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_WRITER_OPTIONS = "group_size:1"  # one record a chunk, so that reading one decodes one


# ---------------------------------------------------------------------------------------- writing


class ShardWriter:
    """Writes one split, shard after shard; used as a context manager.

    A shard is closed when it holds `shard_records` records or `shard_bytes` bytes. All shards get
    their names when the block ends without an error; on an error nothing is left behind.

        with ShardWriter(folder, "train", name="clips") as writer:
            writer.write(record)
        writer.info
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        split: str,
        *,
        name: str,
        shard_records: int = SHARD_RECORDS,
        shard_bytes: int = SHARD_BYTES,
    ):
        """Sets up the writer, see the class.

        Raises:
            ValueError: when `name` or `split` is not a lower case identifier.
        """
        self._folder = Path(folder)
        self._stem = stem_of(name, split)
        self._split = split
        self._limits = shard_records, shard_bytes
        self._writer = None
        self._partials: list[Path] = []
        self._records: list[int] = []
        self._bytes = self._frames = self._captions = 0
        self.info: SplitInfo | None = None

    def __enter__(self) -> "ShardWriter":
        self._folder.mkdir(parents=True, exist_ok=True)
        for stale in self._folder.glob(f"{self._stem}-*.partial"):
            stale.unlink()
        return self

    def write(self, record: VideoRecord) -> None:
        """Appends a record.

        Raises:
            ShardError: when it cannot be stored (no space left, for one).
            ValueError: when the record is not valid, see `serialize`.
        """
        data = serialize(record)
        with self._clear_errors():
            if self._writer is None:
                self._open()
            self._writer.write(data)
            self._records[-1] += 1
            self._bytes += len(data)
            if self._records[-1] >= self._limits[0] or self._bytes >= self._limits[1]:
                self._close()
        self._frames += len(record.frames)
        self._captions += len(record.captions)

    def __exit__(self, kind, error, trace) -> None:
        try:
            if kind is None:
                with self._clear_errors():
                    self._finish()
        finally:
            self._abandon()

    def _open(self) -> None:
        from array_record.python.array_record_module import ArrayRecordWriter

        partial = self._folder / f"{self._stem}-{len(self._partials):05d}.partial"
        self._partials.append(partial)
        self._records.append(0)
        self._bytes = 0
        self._writer = ArrayRecordWriter(str(partial), _WRITER_OPTIONS)

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _finish(self) -> None:
        self._close()
        if not self._partials:
            raise ShardError(f"Split {self._split!r} has no records; leave it out.")
        shards = []
        for index, (partial, records) in enumerate(zip(self._partials, self._records, strict=True)):
            file = shard_file(self._stem, index, len(self._partials))
            shards.append(_describe(partial, file, records))
        for partial, shard in zip(self._partials, shards, strict=True):
            partial.rename(self._folder / shard.file)
        self.info = SplitInfo(sum(self._records), self._frames, self._captions, tuple(shards))

    def _abandon(self) -> None:
        """Removes what did not become a shard."""
        try:
            self._close()
        except (OSError, RuntimeError):
            pass  # the file is going anyway, and the first error is the one to report
        for partial in self._partials:
            partial.unlink(missing_ok=True)

    def _clear_errors(self):
        return reraise_as_shard_error(
            f"Split {self._split!r} could not be written to {self._folder}"
        )


def stem_of(name: str, split: str) -> str:
    """What the shards of a split are called, before their number.

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
    """Writes serialized records to one file, which is as `ShardWriter` makes it.

    Raises:
        RuntimeError, OSError: when they cannot be stored; what was written stays.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    count = 0
    writer = ArrayRecordWriter(str(path), _WRITER_OPTIONS)
    try:
        for record in records:
            writer.write(record)
            count += 1
    finally:
        writer.close()
    return _describe(path, path.name, count)


def _describe(path: Path, file: str, records: int) -> ShardInfo:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return ShardInfo(file, records, path.stat().st_size, digest)


def write_split(
    folder: str | os.PathLike,
    split: str,
    records: Iterable[VideoRecord],
    *,
    name: str,
    shard_records: int = SHARD_RECORDS,
    shard_bytes: int = SHARD_BYTES,
) -> SplitInfo:
    """Writes the records of one split, in their order.

    Args:
        folder: of the data set, made when absent.
        split: its name.
        records: consumed one at a time.
        name: of the data set.
        shard_records: records a shard at most.
        shard_bytes: a shard is closed after the record with which it reaches this size.

    Returns:
        What goes into the manifest.

    Raises:
        ShardError: when the shards cannot be stored or there are no records.
        ValueError: on a name or a record that is not valid.
    """
    limits = {"shard_records": shard_records, "shard_bytes": shard_bytes}
    with ShardWriter(folder, split, name=name, **limits) as writer:
        for record in records:
            writer.write(record)
    return writer.info


# ---------------------------------------------------------------------------------------- reading


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


class SplitSource(Sequence):
    """The records of a split at random: `len(source)`, `source[i]`.

    A Grain data source: it can be pickled, and keeps no state but open files.
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
                f"({error}); copy the shard anew (sha256 {shard.sha256}) or make it again."
            ) from error

    def __repr__(self) -> str:
        return f"SplitSource({str(self._folder)!r}, {self._split!r})"

    def _locate(self, index: int) -> tuple[ShardInfo, int]:
        for shard in self._info.shards:
            if index < shard.records:
                return shard, index
            index -= shard.records
        raise IndexError(index)


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

    again = "copy it anew or make it again with python -m mova_jax.prepare"
    if not path.exists():
        raise ShardError(f"Shard {path} is in the manifest but not in the folder; {again}.")
    size = path.stat().st_size
    if size != shard.bytes:
        intact = min(whole_chunks(path), shard.records)
        what = (
            f"record {intact} of {shard.records} is the first that cannot be read"
            if intact < shard.records
            else f"all {shard.records} records are there, but the index at its end is damaged"
        )
        raise ShardError(
            f"Shard {path} has {size} bytes, the manifest says {shard.bytes}: {what}; {again}."
        )
    reader = ArrayRecordReader(str(path))
    records = reader.num_records() if reader.ok() else 0
    reader.close()
    if records != shard.records:
        raise ShardError(
            f"Shard {path} holds {records} readable records, the manifest says "
            f"{shard.records}; {again}."
        )


def whole_chunks(path: Path) -> int:
    """Counts the record chunks that lie wholly in a file, by walking the Riegeli chunk headers.

    ArrayRecord cannot open a file without its end. With one record a chunk, this is the number of
    the first lost record. Every 64 KiB of the file start with a 24-byte block header, which may
    fall inside a chunk; a chunk starts with 40 bytes: its hash, data size, data hash, type, record
    count and decoded size (github.com/google/riegeli, doc/riegeli_records_file_format.md).
    """
    block, block_header, chunk_header = 65536, 24, 40
    data = path.read_bytes()

    def end_of(begin: int, length: int) -> int:
        """The position after `length` bytes from `begin`, block headers stepped over."""
        while length > 0:
            begin += block_header if begin % block == 0 else 0
            step = min(length, block - begin % block)
            begin, length = begin + step, length - step
        return begin

    def read(begin: int, length: int) -> bytes:
        out = b""
        while len(out) < length and begin < len(data):
            begin += block_header if begin % block == 0 else 0
            step = min(length - len(out), block - begin % block)
            out, begin = out + data[begin : begin + step], begin + step
        return out

    position = whole = 0
    while len(header := read(position, chunk_header)) == chunk_header:
        size, kind = int.from_bytes(header[8:16], "little"), header[24:25]
        position = end_of(position, chunk_header + size)
        if position > len(data):
            break
        whole += kind in (b"r", b"t")
    return whole
