"""Moves a video into a container that browsers play, without encoding its picture again.

    found = remux("holiday.mkv", "cache/holiday", most_bytes=2**30)    # .path: cache/holiday.mp4

H.264, HEVC and AV1 go to MP4, VP8 and VP9 to WebM. Sound that such a file cannot hold is encoded as
AAC or Opus where it has at most an hour, which takes a core about a minute, and left out otherwise.
Packets are copied one by one, so memory does not grow with the length but for their index.
"""

import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from mova_jax.data.ingest.media_file import DecodeError, open_media, video_stream
from mova_jax.utils.atomic import replacing

MOST_SOUND = 3600  # seconds that are encoded
MOST_FRAMES = 100_000  # that are decoded to know their order: an hour, about a minute of a core


class _Container(NamedTuple):
    """What browsers expect in a container: codecs, and the encoder for other sound."""

    pictures: set[str]
    sounds: set[str]
    encoder: str


_CONTAINERS = {
    "mp4": _Container({"h264", "hevc", "av1"}, {"aac", "mp3", "opus", "flac"}, "aac"),
    "webm": _Container({"vp8", "vp9"}, {"opus", "vorbis"}, "libopus"),
}


class Remuxed(NamedTuple):
    """A file that browsers can play."""

    path: Path
    silence: str  # why the sound of the video was left out; '' when nothing was


class _SoundError(Exception):
    """Sound that is not encoded; the message, in ASCII, says why."""


def remux(source: str | os.PathLike, target: str | os.PathLike, most_bytes: int) -> Remuxed:
    """Copies the picture and the sound of a video to a file that browsers can play.

    The clock of the new file starts at 0 where that of the old one starts.

    Args:
        source: the video.
        target: path of the new file, to which `.mp4` or `.webm` is added.
        most_bytes: of the new file.

    Returns:
        The new file, which is there whole or not at all.

    Raises:
        DecodeError: the source is no video, has a codec that would have to be encoded again, has
            broken time stamps, or is too large.
        OSError: the folder of the new file cannot be written.
    """
    try:
        return Remuxed(_remux(source, target, most_bytes, with_encoder=True), "")
    except _SoundError as error:
        return Remuxed(_remux(source, target, most_bytes, with_encoder=False), str(error))


def _remux(source, target, most_bytes: int, with_encoder: bool) -> Path:
    import av

    try:
        with open_media(source) as container:
            picture = video_stream(container)
            kind = _kind_of(picture.codec_context.name)
            path = Path(f"{target}.{kind}")
            with replacing(path) as aside, av.open(str(aside), "w", format=kind) as output:
                size = 0
                for packet in _packets(container, output, picture, kind, with_encoder):
                    size += packet.size
                    if size > most_bytes:
                        raise DecodeError(f"over {most_bytes:,} bytes, too large to be repackaged")
                    output.mux(packet)
                if not size:
                    raise DecodeError("it has no packets")
            return path
    except (av.error.FFmpegError, ValueError) as error:
        raise DecodeError(f"it cannot be repackaged ({error})") from error


def _kind_of(codec: str) -> str:
    """The kind of container that holds a picture."""
    for kind, known in _CONTAINERS.items():
        if codec in known.pictures:
            return kind
    raise DecodeError(f"its codec {codec} would have to be encoded again")


def _packets(container, output, picture, kind: str, with_encoder: bool) -> Iterator[Any]:
    """The packets of picture and sound for the new file, with times from the start of the old."""
    import av

    begin = Fraction(container.start_time or 0, av.time_base)
    copies = {picture.index: output.add_stream_from_template(picture)}
    if picture.codec_context.name == "hevc":
        copies[picture.index].codec_context.codec_tag = "hvc1"  # Safari plays no hev1
    sounds, encoder = container.streams.audio, None
    copied = next((s for s in sounds if s.codec_context.name in _CONTAINERS[kind].sounds), None)
    if copied:
        copies[copied.index] = output.add_stream_from_template(copied)
    elif sounds and with_encoder:
        encoder = _SoundEncoder(container.streams.best("audio") or sounds[0], output, kind, begin)
    # FFmpeg knows no order of display in AVI, where the decoder reorders frames.
    unordered = container.format.name == "avi" and picture.codec_context.has_b_frames
    display = _display_times(container.name) if unordered else None
    encoded = [encoder.source] if encoder else []
    for packet in container.demux(*(s for s in container.streams if s.index in copies), *encoded):
        if encoder and packet.stream == encoder.source:
            yield from encoder.encode(packet)
        elif packet.size and not packet.dts is packet.pts is None:  # else nobody can place it
            if display and packet.stream == picture:
                packet.dts, packet.pts = next(display)
            shift = round(begin / packet.time_base)
            if packet.dts is not None:  # Matroska leaves it out where it would be before the start
                packet.dts -= shift
            packet.pts = packet.dts if packet.pts is None else packet.pts - shift
            packet.stream = copies[packet.stream.index]
            yield packet


class _SoundEncoder:
    """Encodes a stream of sound, packet by packet."""

    def __init__(self, source, output, kind: str, begin: Fraction):
        """Adds the stream to the output; `begin` is the start of the file in seconds."""
        self.source, self._begin = source, begin
        self._name = source.codec_context.name
        if (source.duration or 0) * source.time_base > MOST_SOUND:
            raise self._too_long()
        encoder = _CONTAINERS[kind].encoder
        self._stream = output.add_stream(encoder, rate=48000, layout="stereo")

    def encode(self, packet) -> Iterator[Any]:
        """The packets for a packet of the source; for its last, empty one all that are left."""
        import av

        try:
            for frame in packet.decode():
                if frame.time - self._begin > MOST_SOUND:
                    raise self._too_long()
                frame.pts -= round(self._begin / frame.time_base)
                yield from self._stream.encode(frame)
            if not packet.size:
                yield from self._stream.encode(None)
        except (av.error.FFmpegError, ValueError, TypeError) as error:
            raise _SoundError(f"its sound ({self._name}) cannot be decoded") from error

    def _too_long(self) -> _SoundError:
        return _SoundError(
            f"its sound ({self._name}) would have to be encoded, and is longer than "
            f"{MOST_SOUND // 60} minutes"
        )


def _display_times(source: str) -> Iterator[tuple[int, int]]:
    """Times of decoding and of display of each packet of an AVI, found by decoding it.

    Raises:
        DecodeError: it is too long for that, or a frame is missing.
    """
    times, order = [], []
    with open_media(source) as container:
        picture = video_stream(container)
        picture.thread_type = "AUTO"
        for packet in container.demux(picture):
            if packet.size:
                packet.pts = len(times)  # the decoder hands it on to the frame
                times.append(packet.dts)
            order += [frame.pts for frame in packet.decode()]
            if len(times) > MOST_FRAMES:
                raise DecodeError(
                    f"an AVI of over {MOST_FRAMES:,} frames that does not say their order"
                )
    if sorted(order) != list(range(len(times))) or None in times:
        raise DecodeError("an AVI with damaged frames that does not say their order")
    shown = dict(zip(order, times, strict=True))
    late = max(time - shown[number] for number, time in enumerate(times))
    return ((time - late, shown[number]) for number, time in enumerate(times))
