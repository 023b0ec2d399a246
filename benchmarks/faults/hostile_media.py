"""Pictures, videos and records that claim to be larger than any machine."""

import io
import shutil
import struct
import zlib
from pathlib import Path

import av
import numpy as np
from PIL import Image

from benchmarks.faults.materials import write_video
from mova_jax.data.shards import (
    Caption,
    Manifest,
    VideoRecord,
    open_split,
    read_manifest,
    write_manifest,
    write_split,
)


def jpeg_bytes(side: int = 65_500) -> bytes:
    """A JPEG whose header claims a side that its data do not have (65,535 is the most)."""
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(stream, "JPEG")
    data = bytearray(stream.getvalue())
    place = data.find(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", side, side)
    return bytes(data)


def jpeg_claiming(path: Path) -> None:
    """Writes `jpeg_bytes`."""
    path.write_bytes(jpeg_bytes())


def png_claiming(path: Path, side: int = 100_000) -> None:
    """Writes a whole PNG of this side in black and white: 1.25 GB that pack to about 1 MB."""
    rows = zlib.compressobj(9)
    row = bytes(1 + side // 8)
    data = b"".join(rows.compress(row * 100) for _ in range(side // 100)) + rows.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
            for name, body in chunks
        )
    )


def mp4_claiming(path: Path, frames: int = 10**9) -> None:
    """Writes a video whose tables claim so many frames and seconds; it has 16."""
    write_video(path, 0)
    data = bytearray(path.read_bytes())
    # Places in their boxes: the number of samples, and two durations.
    for box, offset in {b"stts": 16, b"mdhd": 24, b"mvhd": 24}.items():
        place = data.find(box) - 4 + offset
        data[place : place + 4] = struct.pack(">I", frames)
    path.write_bytes(data)


def mkv_far_apart(path: Path, seconds: int = 10**9) -> None:
    """Writes three frames as Matroska, the last of them so many seconds after the others."""
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("mpeg4", rate=1)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        packets = []
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
            packets += stream.encode(frame)
        for packet in packets + stream.encode():
            if packet.pts == 2:
                packet.pts = packet.dts = int(seconds / packet.time_base)
            container.mux(packet)


def playlist(path: Path) -> None:
    """Writes a list of other files with the name of a video."""
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n/etc/passwd\n#EXT-X-ENDLIST\n")


def write_shards(folder: Path, like: Path, caption: str = "A cat.", frame: bytes = b"") -> None:
    """Copies shards, with one hostile record more in the split for training."""
    shutil.copytree(like, folder)
    manifest = read_manifest(like)
    records = list(open_split(like, "train"))
    for shard in manifest.splits["train"].shards:
        (folder / shard.file).unlink()
    first = records[0]
    frames = (frame or first.frames[0],) * len(first.frames)
    hostile = VideoRecord(
        id="hostile",
        frames=frames,
        height=first.height,
        width=first.width,
        timestamps=first.timestamps,
        duration=first.duration,
        captions=(Caption("A cat."),),
    )
    object.__setattr__(hostile, "captions", (Caption(caption),))  # past the check of its length
    info = write_split(folder, "train", [*records, hostile], name=manifest.name)
    splits = manifest.splits | {"train": info}
    write_manifest(folder, Manifest(manifest.name, splits, settings=manifest.settings))
