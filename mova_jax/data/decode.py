"""Video files to frames at a steady rate, and frames to bytes and back. The only video library.

In:  a path of anything FFmpeg decodes (an image counts as a video of one frame).
Out: what is on the screen at 0, 1/fps, 2/fps ... seconds, as uint8 RGB, upright, in square pixels:

    video = decode_video("clip.mp4", fps=1.0, short_side=224)
    video.frames, video.timestamps, video.duration, video.warnings

The time of a frame is its own time stamp; what headers say of rate and duration is not relied on.
"""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import simplejpeg

MAX_FRAMES = 100_000
JPEG_QUALITY = 90

_PPM = re.compile(rb"P6\n([1-9]\d{0,5}) ([1-9]\d{0,5})\n255\n")

# Forms that name other files, which may lie anywhere.
_PLAYLISTS = {"hls", "concat", "dash", "applehttp"}


class DecodeError(Exception):
    """A video or an image that cannot be decoded; the message is the reason."""


class Video(NamedTuple):
    """Frames u8[f H W 3], their times f32[f] and the duration, seconds; what was not in order."""

    frames: np.ndarray
    timestamps: np.ndarray
    duration: float
    warnings: tuple[str, ...]


class _Span(NamedTuple):
    """A decoded frame, and from when to when it is on the screen (seconds)."""

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
        fps: frames a second; a frame shown longer than 1/fps is repeated.
        short_side: pixels of the smaller side; smaller videos keep their size, 0 keeps all.
        start: of the cut, seconds; time stamps count from here.
        end: of the cut, seconds.

    Returns:
        At least one frame. A damaged file gives what can be decoded, and a warning.

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

    Frame k belongs to time k / fps. The same array comes twice in a row where a frame is repeated.
    `duration` and `warnings` are known after the last frame.
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

        self._check_file()
        try:
            # Only files: a playlist in disguise must not reach out to the network.
            with av.open(str(self._path), options={"protocol_whitelist": "file"}) as container:
                if playlist := _PLAYLISTS & set(container.format.name.split(",")):
                    raise DecodeError(f"a list of other files ({', '.join(playlist)}), not a video")
                yield from self._sample(container)
        except av.error.FFmpegError as error:
            raise DecodeError(f"not a video that can be decoded ({error.strerror})") from error

    def _check_file(self) -> None:
        if not self._path.is_file():
            raise DecodeError("no such file")
        if not self._path.stat().st_size:
            raise DecodeError("the file is empty")

    def _sample(self, container) -> Iterator[np.ndarray]:
        """The image on the screen at each multiple of 1/fps within the cut."""
        stream = _video_stream(container)
        convert = _Converter(self._short_side, float(stream.sample_aspect_ratio or 1))
        still = container.format.name.endswith("_pipe")  # an image, shown for as long as one likes
        count, reached = 0, None
        for span in self._spans(container, stream):
            image, reached = None, span.end
            while self._start + count / self._fps < min(span.end, self._end):
                if count == MAX_FRAMES:
                    raise DecodeError(
                        f"more than {MAX_FRAMES} frames at {self._fps} a second; the time stamps "
                        "are broken, or fewer frames a second are needed"
                    )
                image = convert(span.frame) if image is None else image
                yield image
                count += 1
                if still:
                    break
            self.duration = min(span.end, self._end) - self._start
            if span.end >= self._end:
                return
        if not count:
            raise DecodeError(
                "no frame could be decoded"
                if reached is None
                else f"it ends before the cut starts ({self._start} s)"
            )

    def _spans(self, container, stream) -> Iterator[_Span]:
        """Decoded frames with the time each is shown; the first is shown from 0 or earlier."""
        stream.thread_count = 1  # videos are decoded in parallel, not their frames
        damaged = 0
        step = 1 / float(stream.average_rate or 25)
        zero = None if stream.start_time is None else float(stream.start_time * stream.time_base)
        if self._start and zero is not None:
            container.seek(int((zero + self._start) / stream.time_base), stream=stream)
        before, time = None, 0.0
        for frame in _decoded(container, stream):
            if frame is None:
                damaged += 1
                continue
            stamp = frame.pts if frame.pts is not None else frame.dts
            if stamp is None:
                now = time + step if before is not None else (zero or 0.0)
            else:
                now = float(stamp * frame.time_base)
            zero = now if zero is None else zero
            if before is not None:
                now = max(now, time)
                yield _Span(before, time - zero, now - zero)
            before, time = frame, now
        if before is not None:
            last = float(before.duration * before.time_base) if before.duration else step
            yield _Span(before, time - zero, time + last - zero)
            self._note_damage(stream, damaged, time + last - zero)

    def _note_damage(self, stream, damaged: int, end: float) -> None:
        if damaged:
            self.warnings.append(f"{damaged} damaged packets were skipped")
        claimed = float((stream.duration or 0) * stream.time_base)
        if claimed > 1.1 * end + 0.5:
            self.warnings.append(f"only {end:.1f} s of the {claimed:.1f} s it claims were decoded")


def _video_stream(container):
    from av.stream import Disposition

    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:  # the cover of an audio file
            return stream
    raise DecodeError("no video stream")


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


class _Converter:
    """Frames to RGB arrays; all get the size of the first, whatever the stream does later."""

    def __init__(self, short_side: int, pixel_aspect: float):
        self._short_side, self._pixel_aspect = short_side, pixel_aspect
        self._size: tuple[int, int] | None = None

    def __call__(self, frame) -> np.ndarray:
        """One frame as u8[H W 3], contiguous, upright."""
        if self._size is None:
            width, height = frame.width * self._pixel_aspect, frame.height
            scale = min(1.0, self._short_side / min(width, height)) if self._short_side else 1.0
            self._size = max(1, round(width * scale)), max(1, round(height * scale))
        width, height = self._size
        small = frame.reformat(width, height, format="rgb24", interpolation="BICUBIC")
        quarters = round(frame.rotation / 90) % 4
        return np.ascontiguousarray(np.rot90(small.to_ndarray(), quarters))


# ------------------------------------------------------------------------------------- frames


def encode_jpeg(image: np.ndarray, quality: int = JPEG_QUALITY, subsampling: str = "420") -> bytes:
    """Encodes u8[H W 3] RGB; colour at half the resolution ('420'), as videos have it anyway."""
    return simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality, "RGB", subsampling)


def decode_jpeg(data: bytes) -> np.ndarray:
    """Decodes a JPEG to u8[H W 3] RGB.

    Raises:
        DecodeError: when the data are cut short or not a JPEG.
    """
    try:
        return simplejpeg.decode_jpeg(data, "RGB")
    except ValueError as error:
        raise DecodeError(f"{len(data)} bytes are not a whole JPEG image ({error})") from error


def encode_ppm(image: np.ndarray) -> bytes:
    """u8[H W 3] RGB as it is, behind the header of a PPM, so that the bytes say what they are."""
    height, width = image.shape[:2]
    return b"P6\n%d %d\n255\n" % (width, height) + image.tobytes()


def is_ppm(data: bytes) -> bool:
    """Whether a stored frame is raw; a JPEG starts with FF D8."""
    return data.startswith(b"P6")


def ppm_size(data: bytes) -> tuple[int, int, int]:
    """Height and width of a frame of `encode_ppm`, and where in its bytes the pixels begin.

    Raises:
        DecodeError: when the data are not such a frame, or not a whole one.
    """
    found = _PPM.match(data)
    height, width = (int(found[2]), int(found[1])) if found else (0, 0)
    if not found or len(data) != found.end() + 3 * height * width:
        raise DecodeError(f"{len(data)} bytes are not a whole PPM of 8-bit colours")
    return height, width, found.end()


def decode_image(data: bytes) -> np.ndarray:
    """A stored frame, of either codec, to u8[H W 3] RGB; of a raw one a view that is read only.

    Raises:
        DecodeError: when the data are cut short or no frame.
    """
    if not is_ppm(data):
        return decode_jpeg(data)
    height, width, start = ppm_size(data)
    return np.frombuffer(data, np.uint8, offset=start).reshape(height, width, 3)


# How frames are stored; the first bytes of a frame say which it is.
CODECS = {"jpeg": encode_jpeg, "raw": encode_ppm}
