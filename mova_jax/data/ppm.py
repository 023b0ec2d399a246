"""Frames that are stored as they are: a PPM, which is pixels behind a header that says their size.

data = encode_ppm(image)                 # P6, width and height, 255, a line each; then RGB
ppm_pixels(data)                         # the same image, where it lies in the bytes
"""

import re

import numpy as np

_HEADER = re.compile(rb"P6\n([1-9]\d{0,5}) ([1-9]\d{0,5})\n255\n")


def encode_ppm(image: np.ndarray) -> bytes:
    """u8[H W 3] RGB as it is, behind the header of a PPM, so that the bytes say what they are."""
    height, width = image.shape[:2]
    return b"P6\n%d %d\n255\n" % (width, height) + image.tobytes()


def is_ppm(data: bytes) -> bool:
    """Whether a stored frame is raw; a JPEG starts with FF D8."""
    return data.startswith(b"P6")


def has_our_header(data: bytes) -> bool:
    """Whether an image begins as those of `encode_ppm`; a PPM may be written in other ways."""
    return _HEADER.match(data) is not None


def ppm_size(data: bytes) -> tuple[int, int, int]:
    """Height and width of a frame of `encode_ppm`, and where in its bytes the pixels begin.

    Raises:
        ValueError: when the data are not such a frame, or not a whole one.
    """
    found = _HEADER.match(data)
    height, width = (int(found[2]), int(found[1])) if found else (0, 0)
    if not found or len(data) != found.end() + 3 * height * width:
        raise ValueError(
            f"{len(data)} bytes are not a whole PPM of 8-bit colours; they begin with {data[:24]!r}"
        )
    return height, width, found.end()


def ppm_pixels(data: bytes) -> np.ndarray:
    """The pixels of a frame of `encode_ppm`, u8[H W 3] RGB: a view that is read only.

    Raises:
        ValueError: when the data are not such a frame, or not a whole one.
    """
    height, width, start = ppm_size(data)
    return np.frombuffer(data, np.uint8, offset=start).reshape(height, width, 3)
