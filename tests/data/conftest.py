"""Videos that are made on the fly."""

import fractions

import numpy as np
import pytest


def flat_frames(levels, height=32, width=48):
    """One grey frame for each level, u8[f H W 3]."""
    return [np.full((height, width, 3), level, np.uint8) for level in levels]


@pytest.fixture(scope="session")
def write_video():
    """`write_video(path, frames, times, rate=10, **options)`; times in ticks of 1/rate s.

    `codec`, `pix_fmt`, `format` and the attributes in `encoder` are PyAV's, `options` those of the
    container.
    """

    def write(
        path,
        frames,
        times=None,
        rate=10,
        codec="mpeg4",
        pix_fmt="yuv420p",
        format=None,
        encoder=None,
        **options,
    ):
        import av

        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w", format=format, options=options) as container:
            stream = container.add_stream(codec, rate=rate)
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt = pix_fmt
            stream.bit_rate = 2_000_000
            for name, value in (encoder or {}).items():
                setattr(stream.codec_context, name, value)
            for i, image in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts = i if times is None else times[i]
                frame.time_base = fractions.Fraction(1, rate)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    return write


@pytest.fixture(scope="session")
def numbered():
    """`numbered(n)`: n frames that show their number in black and white squares."""
    return lambda n: [_squares(i) for i in range(n)]


def _squares(number):
    bits = [230 if number >> k & 1 else 20 for k in range(8)]
    squares = np.kron(np.array(bits, np.uint8).reshape(2, 4), np.ones((16, 16), np.uint8))
    return np.repeat(squares[..., None], 3, axis=2)


def numbers_of(frames):
    """The numbers that `numbered` frames u8[f H W 3] show."""
    levels = np.asarray(frames)[:, :32, :64].reshape(-1, 2, 16, 4, 16, 3).mean((2, 4, 5))
    return ((levels.reshape(-1, 8) > 128) * 2 ** np.arange(8)).sum(1).tolist()


@pytest.fixture(scope="session")
def ramp():
    """`ramp(n)`: n grey frames, frame i of level 8 i."""
    return lambda n: flat_frames([8 * i % 256 for i in range(n)])
