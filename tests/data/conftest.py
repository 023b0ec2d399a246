"""Videos that are made on the fly."""

import fractions

import numpy as np
import pytest


def flat_frames(levels, height=32, width=48):
    """One grey frame for each level, u8[f H W 3]."""
    return [np.full((height, width, 3), level, np.uint8) for level in levels]


@pytest.fixture(scope="session")
def write_video():
    """`write_video(path, frames, times, rate=10, **options)`; times in ticks of 1/rate s."""

    def write(path, frames, times=None, rate=10, **options):
        import av

        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w", options=options) as container:
            stream = container.add_stream("mpeg4", rate=rate)
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt = "yuv420p"
            stream.bit_rate = 2_000_000
            for i, image in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts = i if times is None else times[i]
                frame.time_base = fractions.Fraction(1, rate)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    return write


@pytest.fixture(scope="session")
def ramp():
    """`ramp(n)`: n grey frames, frame i of level 8 i."""
    return lambda n: flat_frames([8 * i % 256 for i in range(n)])
