"""Decodes video files to frames at a steady rate.

In:  the path of anything that FFmpeg decodes (an image is a video of one frame).
Out: the frames on the screen at 0, 1/fps, 2/fps ... seconds, uint8 RGB, upright, in square pixels:

    video = decode_video("clip.mp4", fps=1.0, short_side=224)
    video.frames, video.timestamps, video.duration, video.warnings

The time of a frame is its own time stamp; rate and duration in the header are not trusted.
"""

import itertools
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mova_jax.data.ingest import media_file
from mova_jax.data.ingest.frame_converter import (
    FrameConverter,
    exif_matrix,
    read_picture,
    too_large,
)
from mova_jax.data.ingest.media_file import DecodeError, is_cut_short, open_media, video_stream

MAX_FRAMES = 100_000

# Containers round times, some to milliseconds: a frame counts this many seconds before its time.
_SLACK = 6e-4
# Seconds from the start of the sound to that of the picture that are worth a warning.
_LATE = 0.5
# A step back by more seconds is the start of another recording, not a badly ordered frame.
_JUMP = 1.0
# Not every file can find the last key frame before a cut: tried are these seconds before the cut,
# and at last the start of the file (None).
_BACK = (0.0, 10.0, None)


class Video(NamedTuple):
    """Frames u8[f H W 3], their times f32[f] and the duration in seconds, and warnings."""

    frames: np.ndarray
    timestamps: np.ndarray
    duration: float
    warnings: tuple[str, ...]


class _Span(NamedTuple):
    """A decoded frame, and when it appears on the screen and is replaced (seconds)."""

    frame: Any
    start: float
    end: float


def decode_video(
    path: str | os.PathLike,
    fps: float = 1.0,
    short_side: int = 224,
    *,
    start: float = 0.0,
    end: float = math.inf,
) -> Video:
    """Decodes a video, or a cut of it, at a steady rate.

    Args:
        path: the file.
        fps: frames a second; a frame that is shown longer than 1/fps is repeated.
        short_side: pixels of the smaller side; smaller videos keep their size, 0 keeps all.
        start: of the cut, seconds; time stamps count from here.
        end: of the cut, seconds.

    Returns:
        At least one frame. A damaged file gives the frames that can be decoded, and a warning.

    Raises:
        DecodeError: no such file, an empty one, not a video, no video stream, no frame decoded.
        ValueError: fps or the cut is not positive.
    """
    stream = VideoReader(path, fps, short_side, start=start, end=end)
    frames = list(stream)
    timestamps = np.arange(len(frames), dtype=np.float32) / np.float32(fps)
    return Video(np.stack(frames), timestamps, stream.duration, tuple(stream.warnings))


class VideoReader:
    """`decode_video` frame by frame, for videos that do not fit in memory.

    Frame k belongs to time k / fps. A repeated frame is the same array again. `duration` and
    `warnings` are known after the last frame.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        fps: float,
        short_side: int,
        *,
        start: float = 0.0,
        end: float = math.inf,
    ):
        """Takes the arguments of `decode_video`; nothing is opened yet."""
        if not (fps > 0 and math.isfinite(fps)) or short_side < 0:
            raise ValueError(f"fps must be positive, short_side not negative: {fps}, {short_side}")
        if not 0 <= start < end:
            raise ValueError(f"A cut must have 0 <= start < end, got {start} to {end} s.")
        self._path = Path(path).absolute()
        self._fps, self._short_side = fps, short_side
        self._start, self._end = start, end
        self.duration = 0.0
        self.warnings: list[str] = []

    def __iter__(self) -> Iterator[np.ndarray]:
        import av

        try:
            for back in _BACK if self._start else (None,):
                with open_media(self._path) as container:
                    frames = _frames_of(container)
                    spans = self._spans(frames, back)
                    first = next(spans, None)
                    if back is None or (first and first.start <= self._start + _SLACK):
                        yield from self._sample(frames, first, spans)
                        return
        except av.error.FFmpegError as error:
            what = "its end is missing" if is_cut_short(self._path) else error.strerror
            what = too_large(str(self._path), media_file.MAX_PIXELS) or what
            raise DecodeError(f"not a video that can be decoded ({what})") from error

    def _spans(self, frames: "_Frames | _Tiles", back: float | None) -> Iterator[_Span]:
        """Frames with their times, from `back` seconds before the cut, or from the start (None)."""
        timed = iter(frames)
        if back is not None:
            next(timed, None)  # the first frame sets the clock
            if not frames.seek(self._start - back):
                return
            # Frames before the first key frame may refer to frames that were not decoded.
            timed = itertools.dropwhile(lambda pair: not pair[0].key_frame, frames)
        before, time = None, 0.0
        for frame, now in timed:
            if before is not None:
                now = max(now, time)
                yield _Span(before, time, now)
            before, time = frame, now
        if before is not None:
            last = float(before.duration * before.time_base) if before.duration else frames.step
            yield _Span(before, time, time + max(last, 2 * _SLACK))

    def _sample(
        self, frames: "_Frames | _Tiles", first: _Span | None, spans
    ) -> Iterator[np.ndarray]:
        """Yields the image on the screen at each multiple of 1/fps within the cut."""
        if first is None:
            large = too_large(str(self._path), media_file.MAX_PIXELS)
            raise DecodeError(large or "no frame could be decoded")
        convert = FrameConverter(self._short_side, frames.pixel_aspect, frames.matrix)
        if first.start > max(_LATE, self._start):
            late = f"its picture starts {first.start:.1f} s after its sound"
            self.warnings.append(f"{late}; the first frame stands until then")
        count, end = 0, 0.0
        for span in itertools.chain([first], spans):
            image, end = None, min(span.end, self._end)
            if self._start + MAX_FRAMES / self._fps < end - _SLACK and not frames.still:
                raise DecodeError(  # before any frame of a span that may be years long
                    f"more than {MAX_FRAMES} frames at {self._fps} a second; the time stamps "
                    "are broken, or fewer frames a second are needed"
                )
            while self._start + count / self._fps < end - _SLACK:
                image = convert(span.frame) if image is None else image
                yield image
                count += 1
                if frames.still:
                    break
            if end == self._end:
                break
        if not count:
            raise DecodeError(f"it ends before the cut starts ({self._start} s)")
        self.duration = end - self._start
        self.warnings += frames.warnings(None if end == self._end else end) + convert.warnings()


class _Frames:
    """Decoded frames of the film, `video_stream`, in order of presentation, each with its time.

    Times are seconds since the first of the file's streams starts: where the sound starts first,
    the first frame comes later than 0.
    """

    def __init__(self, container):
        self._container = container
        self._stream = stream = video_stream(container)
        stream.codec_context.options = {"max_pixels": str(media_file.MAX_PIXELS)}
        stream.thread_count = 1  # videos are decoded in parallel, not the frames of one
        self.step = 1 / float(stream.average_rate or 25)
        self.pixel_aspect = float(stream.sample_aspect_ratio or 1)
        # AVI stores decoding times only; PyAV's guess of presentation times is wrong for H.264.
        self._is_avi = container.format.name == "avi"
        is_image = container.format.name.endswith("_pipe")
        # An image, which has no duration; AVIF and HEIC are images in the container of MP4.
        self.still = is_image or (stream.frames == 1 and stream.duration is None)
        self.matrix = exif_matrix(container.name) if is_image else None
        self._zero: float | None = None
        self._damaged = self._jumps = 0

    def __iter__(self) -> Iterator[tuple[Any, float]]:
        time, shift = None, 0.0
        for frame in _decoded(self._container, self._stream):
            if frame is None:
                self._damaged += 1
                continue
            stamp = frame.dts if self._is_avi or frame.pts is None else frame.pts
            raw = None if stamp is None else float(stamp * frame.time_base)
            if self._zero is None:
                self._zero = self._clock(raw)
            elif raw is None and time is None:
                raw = math.inf  # unknown after a seek: too late, so that the next seek goes further
            if raw is not None:
                now = raw - self._zero + shift
            else:
                now = 0.0 if time is None else time + self.step
            if time is not None and now < time - _JUMP:  # another recording was appended
                self._jumps += 1
                shift += time + self.step - now
                now = time + self.step
            time = now
            yield frame, now

    def _clock(self, first: float | None) -> float:
        """The time stamp (seconds) at which the clock of the file starts."""
        start = self._stream.start_time
        if start is None or (self._is_avi and not self._damaged):
            return first or 0.0
        start = float(start * self._stream.time_base)
        together = self._container.start_time
        return start if together is None else min(start, together / 1e6)

    def seek(self, time: float) -> bool:
        """Seeks to a key frame, usually one before `time`; False when the file cannot seek."""
        import av

        if self._container.format.name == "mpeg":  # its times are wrong for a while after a seek
            return False
        try:
            ticks = int((self._zero + max(0.0, time)) / self._stream.time_base)
            self._container.seek(ticks, stream=self._stream)
        except (av.error.FFmpegError, TypeError):  # TypeError: no frame was decoded
            return False
        return True

    def warnings(self, end: float | None) -> list[str]:
        """Warnings about the frames up to `end` seconds (None where a cut ends before the file)."""
        notes = []
        if self._damaged:
            notes.append(f"{self._damaged} damaged packets were skipped")
        if self._jumps:
            notes.append(f"its clock jumps back {self._jumps} times; the parts follow each other")
        claimed = float((self._stream.duration or 0) * self._stream.time_base)
        if end is not None and claimed > 1.1 * end + 0.5:
            notes.append(f"only {end:.1f} s of the {claimed:.1f} s it claims were decoded")
        return notes


class _Tiles:
    """A picture of tiles (AVIF, HEIC) as the one frame of a `_Frames`.

    FFmpeg gives each tile as a stream, and PyAV does not say where on the picture it is.
    """

    pixel_aspect, matrix, still, step = 1.0, (1, 0, 0, 1), True, 1 / 25

    def __init__(self, path: str, tiles: int):
        self._path, self._tiles = path, tiles

    def __iter__(self) -> Iterator[tuple[Any, float]]:
        import av

        try:
            image = read_picture(self._path, media_file.MAX_PIXELS)
        except Exception as error:  # Pillow raises many kinds, and may know AVIF or not
            what = f"a picture of {self._tiles} tiles, which cannot be put together"
            raise DecodeError(f"{what}: save it as JPEG or PNG ({error})") from error
        yield av.VideoFrame.from_ndarray(image, format="rgb24"), 0.0

    def seek(self, time: float) -> bool:
        return False

    def warnings(self, end: float | None) -> list[str]:
        return []


def _frames_of(container) -> _Frames | _Tiles:
    from av.stream import Disposition

    streams = container.streams.video
    tiles = sum(bool(stream.disposition & Disposition.dependent) for stream in streams)
    if tiles and not any(stream.disposition & Disposition.default for stream in streams):
        return _Tiles(container.name, tiles)
    return _Frames(container)


def _decoded(container, stream) -> Iterator[Any]:
    """Frames in order of presentation; None for each packet that cannot be decoded."""
    import av

    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
            if packet is None:
                return
            yield from packet.decode()
        except av.error.InvalidDataError:
            yield None
        except IndexError:  # a packet of a stream that the header does not have
            packets = container.demux(stream)
        except av.error.EOFError:  # the decoder was flushed before the IndexError
            return
