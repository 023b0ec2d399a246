"""Reads every record of a split and reports faults of shards and records without stopping.

    faults = []
    for shard, position, record in read_records(folder, manifest.splits["train"], faults):
        faults += [Fault(shard, position, reason) for reason in record_faults(record)]

Shards may come from a stranger: nothing here trusts their contents or prints them unchanged.
"""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mova_jax.data.images import decode_image, image_size, is_ppm
from mova_jax.data.shards import ShardInfo, SplitInfo, VideoRecord, parse

# Times are stored as float32; the clocks they come from are finer.
_TOLERANCE = 1e-3


class Fault(NamedTuple):
    """A fault: its file or split, the number of the record in it or None, and the reason."""

    place: str
    record: int | None
    reason: str

    def __str__(self) -> str:
        record = "" if self.record is None else f", record {self.record}"
        return plain(f"{self.place}{record}: {self.reason}", 400)


def plain(text: str, limit: int = 200) -> str:
    """A text of unknown origin as one line of printable characters, cut at `limit` of them."""
    text = text[: 8 * limit]  # a caption may have megabytes
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"


def read_records(
    folder: Path, info: SplitInfo, faults: list[Fault], hashes: bool = False
) -> Iterator[tuple[str, int, VideoRecord]]:
    """Reads a split from its first to its last record, past all that is damaged.

    Args:
        folder: of the shards.
        info: of the split, from the manifest.
        faults: collects damaged shards and records that cannot be read.
        hashes: whether to check the sha256 of each shard too.

    Yields:
        Name of the shard, number of the record in it, the record.
    """
    for shard in info.shards:
        yield from _read_shard(folder / shard.file, shard, faults, hashes)


def _read_shard(path: Path, shard: ShardInfo, faults: list[Fault], hashes: bool):
    from array_record.python.array_record_module import ArrayRecordReader

    def wrong(reason: str, record: int | None = None) -> None:
        faults.append(Fault(shard.file, record, reason))

    try:
        for reason in _file_faults(path, shard, hashes):
            wrong(reason)
        if not path.is_file():
            return
        # Each record by itself, so that a damaged one does not affect the next.
        reader = ArrayRecordReader(str(path), "readahead_buffer_size:0,max_parallelism:0")
        if not reader.ok():
            wrong(
                f"cannot be opened, so none of its {shard.records} records was checked; it is "
                "truncated or damaged, copy it again"
            )
            return
        records = reader.num_records()
    except (OSError, RuntimeError) as error:
        wrong(f"cannot be read ({error})")
        return
    if records != shard.records:
        wrong(f"holds {records} records, the manifest says {shard.records}")
    for position in range(records):
        try:
            record = parse(reader.read([position])[0])
        except (RuntimeError, ValueError, IndexError) as error:
            wrong(f"cannot be read ({plain(str(error), 160)})", position)
        else:
            yield shard.file, position, record


def _file_faults(path: Path, shard: ShardInfo, hashes: bool) -> Iterator[str]:
    if not path.is_file():
        yield "is in the manifest, but no such file is in the folder"
        return
    size = path.stat().st_size
    if size != shard.bytes:
        yield f"has {size:,} bytes, the manifest says {shard.bytes:,}"
    elif hashes:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if digest != shard.sha256:
            yield f"has the sha256 {digest}, the manifest says {shard.sha256}"


def record_faults(record: VideoRecord, run: Callable = map) -> list[str]:
    """Checks a record, and decodes all of its frames.

    Args:
        record: to be checked.
        run: `map`, or that of an executor whose threads decode.

    Returns:
        A reason for each kind of fault; empty when there is none.
    """
    reasons = [] if record.id.strip() else ["has no id"]
    reasons += _frame_faults(record, run)
    reasons += _time_faults(record)
    if not record.captions:
        reasons.append("has no caption")
    empty = [i for i, caption in enumerate(record.captions) if not caption.text.strip()]
    if empty:
        reasons.append(f"sentence {empty[0]} of its {len(record.captions)} is empty")
    if not all(text.strip() for text in record.alternatives):
        reasons.append("one of its alternative captions is empty")
    return reasons


def _frame_faults(record: VideoRecord, run: Callable) -> list[str]:
    if not record.frames:
        return ["has no frames"]
    different = list(dict.fromkeys(record.frames))  # a still image is stored many times
    size = (record.height, record.width)
    found = run(lambda data: frame_fault(data, size), different)
    reasons = dict(zip(different, found, strict=True))
    bad = [(i, reasons[data]) for i, data in enumerate(record.frames) if reasons[data]]
    if not bad:
        return []
    first, reason = bad[0]
    return [f"{len(bad)} of {len(record.frames)} frames are damaged, first frame {first}: {reason}"]


def frame_fault(data: bytes, size: tuple[int, int]) -> str:
    """The reason why a frame is not a complete JPEG or PPM of (height, width) pixels, or ''."""
    kind = "PPM" if is_ppm(data) else "JPEG"
    try:
        height, width = image_size(data)
        if (height, width) != size:
            return f"is {width} x {height} pixels, its record says {size[1]} x {size[0]}"
        decode_image(data)
    except ValueError as error:
        return f"not a whole {kind} of {len(data)} bytes ({error})"
    return ""


def _time_faults(record: VideoRecord) -> list[str]:
    times, duration = record.timestamps, record.duration
    reasons = []
    if len(times) != len(record.frames):
        reasons.append(f"has {len(record.frames)} frames, but {len(times)} timestamps")
    if not (np.isfinite(times).all() and (np.diff(times) > 0).all() and (times >= 0).all()):
        reasons.append("its timestamps do not ascend from 0 or later")
    if not (np.isfinite(duration) and duration >= 0):
        return [*reasons, f"its duration is {duration} s"]
    end = duration * (1 + 1e-6) + _TOLERANCE
    if len(times) and times[-1] > end:
        reasons.append(f"its last frame is at {times[-1]:g} s, its duration is {duration:g} s")
    windows = [
        (i, window)
        for i, caption in enumerate(record.captions)
        for window in ((caption.start, caption.end), *caption.others)
        if window != (-1.0, -1.0)
    ]
    for i, (start, stop) in windows:
        if not 0 <= start < stop <= end:
            reasons.append(f"sentence {i} is from {start:g} to {stop:g} s of {duration:g} s")
            break
    return reasons


def count_faults(split: str, info: SplitInfo, counted: tuple[int, int, int]) -> list[Fault]:
    """Compares the counts of the manifest with the (videos, frames, captions) that were read."""
    records = sum(shard.records for shard in info.shards)
    pairs = [("videos", info.videos, records)]
    # Unreadable records are reported already; their frames and captions are not missing as well.
    if counted[0] == records:
        pairs += [("frames", info.frames, counted[1]), ("captions", info.captions, counted[2])]
    return [
        Fault(f"split {split}", None, f"the manifest says {said:,} {what}, not {there:,}")
        for what, said, there in pairs
        if said != there
    ]
