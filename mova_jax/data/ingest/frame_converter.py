"""Decoded frames to RGB arrays: upright, in square pixels, in the requested size.

    convert = FrameConverter(short_side=224, pixel_aspect=16 / 11, matrix=None)
    convert(frame)          # u8[H W 3]
    convert.warnings()      # about the frames so far

Pixels are made square before a picture is turned: the aspect is that of the stored pixels.
"""

import warnings

import numpy as np

Matrix = tuple[int, int, int, int]  # (a, b, c, d) of _upright
_EXIF: dict[int, Matrix] = {  # the orientations of EXIF
    1: (1, 0, 0, 1), 2: (-1, 0, 0, 1), 3: (-1, 0, 0, -1), 4: (1, 0, 0, -1),
    5: (0, 1, 1, 0), 6: (0, 1, -1, 0), 7: (0, -1, -1, 0), 8: (0, -1, 1, 0),
}  # fmt: skip
_HDR = {16: "HDR (PQ)", 18: "HDR (HLG)"}  # by transfer characteristic, ITU-T H.273


class FrameConverter:
    """Converts frames to RGB arrays, all with the size and the turn of the first frame.

    Alpha is dropped. High dynamic range is not tone-mapped, which gives a warning.
    """

    def __init__(self, short_side: int, pixel_aspect: float, matrix: Matrix | None):
        """Takes what all frames share.

        Args:
            short_side: pixels of the smaller side; smaller frames keep their size, 0 keeps all.
            pixel_aspect: width of a stored pixel divided by its height, before any turn.
            matrix: how frames are turned; None takes the matrix of the first frame.
        """
        self._short_side, self._matrix = short_side, matrix
        # Other values are a damaged header, and would need much memory.
        self._pixel_aspect = pixel_aspect if 0.1 <= pixel_aspect <= 10 else 1.0
        self._size: tuple[int, int] | None = None
        self._stored: set[tuple[int, int]] = set()
        self._transfers: set[int] = set()

    def __call__(self, frame) -> np.ndarray:
        """Converts one frame to u8[H W 3], contiguous and upright."""
        if self._matrix is None:
            self._matrix = _display_matrix(frame)
        if self._size is None:
            width, height = frame.width * self._pixel_aspect, frame.height
            scale = min(1.0, self._short_side / min(width, height)) if self._short_side else 1.0
            self._size = max(1, round(width * scale)), max(1, round(height * scale))
        self._stored.add((frame.width, frame.height))
        self._transfers.add(frame.color_trc)
        width, height = self._size
        small = frame.reformat(width, height, format="rgb24", interpolation="BICUBIC")
        return np.ascontiguousarray(_upright(small.to_ndarray(), *self._matrix))

    def warnings(self) -> list[str]:
        """Warnings about the frames so far."""
        notes = [
            f"its colours are {name} and were not brought to the usual range"
            for transfer, name in _HDR.items()
            if transfer in self._transfers
        ]
        if len(self._stored) > 1:
            notes.append("its pictures change their size, and have that of the first here")
        return notes


def _upright(image: np.ndarray, a: int, b: int, c: int, d: int) -> np.ndarray:
    """Turns and mirrors u8[H W 3], so that the pixel at (x, y) moves to (a x + c y, b x + d y)."""
    if abs(b) > abs(a):
        image, a, d = image.swapaxes(0, 1), c, b
    return image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def _display_matrix(frame) -> Matrix:
    try:
        data = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV shows no side data where it does not know one of them
        return [_EXIF[1], _EXIF[8], _EXIF[3], _EXIF[6]][round(frame.rotation / 90) % 4]
    if data is None:
        return _EXIF[1]
    values = np.frombuffer(bytes(data), np.int32)
    return tuple(int(values[i]) for i in (0, 1, 3, 4))


def read_picture(path: str, max_pixels: int) -> np.ndarray:
    """Reads a picture with Pillow, upright, u8[H W 3] RGB.

    Raises:
        ValueError: it has more pixels.
        Exception: any of Pillow's, for a file that it does not know or that is damaged.
    """
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        if image.width * image.height > max_pixels:
            raise ValueError(f"{image.width} x {image.height} pixels are more than {max_pixels:,}")
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def too_large(path: str, max_pixels: int) -> str:
    """Why FFmpeg refuses a picture of too many pixels; '' for all else that it cannot decode."""
    from PIL import Image

    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore")  # Pillow has limits of its own
            if image.width * image.height > max_pixels:
                return f"{image.width} x {image.height} pixels are too many to decode"
    except Image.DecompressionBombError:
        return "it has too many pixels to decode"
    except Exception:  # it raises many kinds for files that it does not know
        pass
    return ""


def exif_matrix(path: str) -> Matrix | None:
    """The turn or mirror that the EXIF of an image asks for; None where it cannot be read."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return _EXIF.get(image.getexif().get(0x112), _EXIF[1])
    except Exception:  # Pillow raises many kinds for files that it does not know
        return None
