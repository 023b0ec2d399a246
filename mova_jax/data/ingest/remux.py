"""Moves the streams of a video into a container that browsers play, without encoding them again.

    path = remux("holiday.mkv", "cache/holiday", most_bytes=2**30)    # cache/holiday.mp4

H.264, HEVC and AV1 go to MP4, VP8 and VP9 to WebM. Sound that such a file cannot hold is left out.
Packets are copied one by one, so memory does not grow with the length but for their index.
"""

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from mova_jax.data.ingest.media_file import DecodeError, open_media, video_stream
from mova_jax.utils.atomic import replacing

# Codecs of picture and sound that browsers expect in a container.
_CONTAINERS = {
    "mp4": ({"h264", "hevc", "av1"}, {"aac", "mp3", "opus", "flac"}),
    "webm": ({"vp8", "vp9"}, {"opus", "vorbis"}),
}


def remux(source: str | os.PathLike, target: str | os.PathLike, most_bytes: int) -> Path:
    """Copies the picture and the sound of a video to a file that browsers can play.

    The clock of the new file starts at 0 where that of the old one starts.

    Args:
        source: the video.
        target: path of the new file, to which `.mp4` or `.webm` is added.
        most_bytes: of the new file.

    Returns:
        The path of the new file, which is there whole or not at all.

    Raises:
        DecodeError: the source is no video, has a codec that would have to be encoded again, has
            broken time stamps, or is too large.
        OSError: the folder of the new file cannot be written.
    """
    import av

    try:
        with open_media(source) as container:
            kind, streams = _choice(container)
            path = Path(f"{target}.{kind}")
            with replacing(path) as aside, av.open(str(aside), "w", format=kind) as output:
                copies = {s.index: output.add_stream_from_template(s) for s in streams}
                size = 0
                for packet in _packets(container, streams):
                    size += packet.size
                    if size > most_bytes:
                        raise DecodeError(f"over {most_bytes:,} bytes, too large to be repackaged")
                    packet.stream = copies[packet.stream.index]
                    output.mux(packet)
                if not size:
                    raise DecodeError("it has no packets")
            return path
    except (av.error.FFmpegError, ValueError) as error:
        raise DecodeError(f"it cannot be repackaged ({error})") from error


def _choice(container) -> tuple[str, list[Any]]:
    """The kind of container that holds the picture, and the streams that go there."""
    picture = video_stream(container)
    codec = picture.codec_context.name
    for kind, (pictures, sounds) in _CONTAINERS.items():
        if codec in pictures:
            if container.format.name == "avi" and picture.codec_context.has_b_frames:
                raise DecodeError("AVI does not say when frames that are out of order are shown")
            sound = (s for s in container.streams.audio if s.codec_context.name in sounds)
            return kind, [picture, *list(sound)[:1]]
    raise DecodeError(f"its codec {codec} would have to be encoded again")


def _packets(container, streams: list[Any]) -> Iterator[Any]:
    """The packets of some streams, with times from the start of the file."""
    import av

    begin = Fraction(container.start_time or 0, av.time_base)
    for packet in container.demux(*streams):
        if not packet.size or packet.dts is packet.pts is None:
            continue  # the end of a stream; or a packet that nobody can place
        shift = round(begin / packet.time_base)
        if packet.dts is not None:  # Matroska leaves it out where it would be before the start
            packet.dts -= shift
        packet.pts = packet.dts if packet.pts is None else packet.pts - shift
        yield packet
