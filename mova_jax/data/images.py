"""Stored frames: pixels to JPEG or PPM bytes, and back.

    data = encode_jpeg(image)                  # or encode_ppm(image): the pixels as they are
    image_size(data), decode_image(data)       # (H, W), u8[H W 3]
    decode_frame(data, out=images[0])          # resized and cropped to the size of `out`

The first bytes of a frame say its format. A PPM is `P6`, width and height, 255, a line each, then
RGB. Everything that is wrong with the bytes of a frame is a ValueError.
"""

import re

import numpy as np
import simplejpeg
from PIL import Image

MAX_PIXELS = 2**27  # of a picture (16K is 2**27): a small file can claim pictures of any size

_JPEG = b"\xff\xd8"
_PPM = re.compile(rb"P6\n([1-9]\d{0,5}) ([1-9]\d{0,5})\n255\n")


def encode_jpeg(image: np.ndarray, quality: int = 90, subsampling: str = "420") -> bytes:
    """Encodes u8[H W 3] RGB; colour at half the resolution ('420'), as videos have it anyway."""
    return simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality, "RGB", subsampling)


def encode_ppm(image: np.ndarray) -> bytes:
    """Puts the pixels u8[H W 3] RGB behind the header of a PPM."""
    height, width = image.shape[:2]
    return b"P6\n%d %d\n255\n" % (width, height) + image.tobytes()


# How frames are stored, by the name that `prepare --codec` has for it.
CODECS = {"jpeg": encode_jpeg, "raw": encode_ppm}


def is_ppm(data: bytes) -> bool:
    """Whether a stored frame is a PPM and not a JPEG."""
    return data.startswith(b"P6")


def is_stored_format(data: bytes) -> bool:
    """Whether an image starts like a JPEG or like `encode_ppm`'s output, not like another PPM."""
    return data.startswith(_JPEG) or _PPM.match(data) is not None


def image_size(data: bytes) -> tuple[int, int]:
    """Height and width of a frame; of a JPEG, from its header alone.

    Raises:
        ValueError: the data are not a frame, or one of more than `MAX_PIXELS`.
    """
    if is_ppm(data):
        return _ppm_pixels(data).shape[:2]
    try:
        height, width = simplejpeg.decode_jpeg_header(data)[:2]
    except ValueError as error:
        raise ValueError(f"{len(data)} bytes are not a whole JPEG image ({error})") from error
    if height * width > MAX_PIXELS:
        raise ValueError(f"{width} x {height} pixels are too many to decode")
    return height, width


def decode_image(data: bytes) -> np.ndarray:
    """Decodes a frame to u8[H W 3] RGB; for a PPM this is a read-only view.

    Raises:
        ValueError: the data are cut short, not a frame, or one of more than `MAX_PIXELS`.
    """
    image_size(data)  # before memory is taken for its pixels
    return _ppm_pixels(data) if is_ppm(data) else _decode_jpeg(data)


def decode_frame(data: bytes, out: np.ndarray) -> None:
    """Decodes a frame straight into `out`, resized and cropped only when its size differs.

    Args:
        data: a JPEG or a PPM.
        out: u8[H W 3] RGB with H = W, C-contiguous; overwritten, see `fit_image`.

    Raises:
        ValueError: the data are cut short or not a frame.
    """
    if image_size(data) != out.shape[:2]:
        fit_image(decode_image(data), out)
    elif is_ppm(data):
        out[...] = _ppm_pixels(data)
    else:
        _decode_jpeg(data, out)


def fit_image(image: np.ndarray, out: np.ndarray) -> None:
    """Writes an image into `out`, resized and cropped only when its size differs.

    Resizing brings the short side to the side of `out` (bicubic, antialiased) and keeps the centre
    square, in one pass over the pixels that stay.

    Args:
        image: u8[h w 3] RGB.
        out: u8[H W 3] RGB with H = W; overwritten.
    """
    height, width = image.shape[:2]
    if (height, width) == out.shape[:2]:
        out[...] = image
        return
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    out[...] = Image.fromarray(image).resize(
        out.shape[1::-1],
        Image.Resampling.BICUBIC,
        box=(left, top, left + side, top + side),
    )


def _decode_jpeg(data: bytes, out: np.ndarray | None = None) -> np.ndarray:
    try:
        return simplejpeg.decode_jpeg(data, "RGB", buffer=out)
    except ValueError as error:
        raise ValueError(f"{len(data)} bytes are not a whole JPEG image ({error})") from error


def _ppm_pixels(data: bytes) -> np.ndarray:
    found = _PPM.match(data)
    height, width = (int(found[2]), int(found[1])) if found else (0, 0)
    if not found or len(data) != found.end() + 3 * height * width:
        raise ValueError(
            f"{len(data)} bytes are not a whole PPM of 8-bit colours; they begin with {data[:24]!r}"
        )
    return np.frombuffer(data, np.uint8, offset=found.end()).reshape(height, width, 3)
