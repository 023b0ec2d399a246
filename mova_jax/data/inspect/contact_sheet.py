"""A contact sheet: one image of a data set, with a strip of frames for each video.

    strip = Strip("a.mp4", "12.0 s, 12 frames", "A cat sits.", ((0.0, jpeg), (4.0, jpeg)))
    save_sheet(draw_sheet("clips", [Section("train", [strip])]), "sheet.png")

Title, note and the beginning of the caption are to the left of a strip, the time is below each
frame. The font is Pillow's own, so that the sheet is the same on every machine.
"""

import bisect
import functools
import os
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from mova_jax.data.images import decode_image
from mova_jax.data.inspect.checks import frame_fault
from mova_jax.utils.atomic import replacing

COLUMNS = 6  # frames of a strip
MARGIN, GAP = 28, 8
TEXT_WIDTH = 368
BOX = (192, 108)  # of a frame: (width, height)
HEADER, SECTION, STRIP = 76, 58, 160  # heights of title, section heading and strip
WIDTH = 2 * MARGIN + TEXT_WIDTH + 3 * GAP + COLUMNS * (BOX[0] + GAP) - GAP

_CAPTION_LINES, _CAPTION_STEP = 5, 18
_PAPER, _TILE, _RULE = "#ffffff", "#f1f2f4", "#e1e3e6"
_INK, _GREY, _DIM, _ALARM = "#16181d", "#3d424b", "#6c727d", "#b3261e"
# The most frequent characters of captions that the font lacks.
_TYPED = str.maketrans(
    {"’": "'", "‘": "'", "“": '"', "”": '"', "–": "-", "—": "-", "×": "x", "ß": "ss"}
)


class Strip(NamedTuple):
    """A video on the sheet.

    Attributes:
        title: one line, cut when too long.
        note: one line in small print.
        caption: cut after five lines.
        size: (height, width) that every frame must have, pixels.
        frames: (seconds, JPEG) of at most `COLUMNS` frames.
    """

    title: str
    note: str
    caption: str
    size: tuple[int, int]
    frames: tuple[tuple[float, bytes], ...]


class Section(NamedTuple):
    """Strips under a heading."""

    heading: str
    strips: Sequence[Strip]


def draw_sheet(title: str, note: str, sections: Sequence[Section]) -> Image.Image:
    """Draws the sheet, `WIDTH` pixels wide and as high as necessary.

    Args:
        title: of the sheet.
        note: in small print below the title.
        sections: from top to bottom; damaged frames are marked.
    """
    strips = sum(len(section.strips) for section in sections)
    height = HEADER + SECTION * len(sections) + STRIP * strips + MARGIN
    sheet = Image.new("RGB", (WIDTH, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    width = WIDTH - 2 * MARGIN
    _write(draw, (MARGIN, 20), title, 24, _INK, width)
    _write(draw, (MARGIN, 52), note, 14, _DIM, width)
    top = HEADER
    for section in sections:
        _write(draw, (MARGIN, top + 22), section.heading, 18, _INK, width)
        top += SECTION
        for strip in section.strips:
            _draw_strip(sheet, draw, top, strip)
            top += STRIP
    return sheet


def save_sheet(sheet: Image.Image, path: str | os.PathLike) -> None:
    """Writes the sheet as PNG.

    Raises:
        OSError: when it cannot be written; an older file then stays as it was.
    """
    with replacing(path) as aside:
        sheet.save(aside, format="PNG")


def frame_box(top: int, column: int) -> tuple[int, int, int, int]:
    """The box (left, top, right, bottom) of a frame, for a strip that begins at `top`."""
    left = MARGIN + TEXT_WIDTH + 3 * GAP + column * (BOX[0] + GAP)
    return left, top + 14, left + BOX[0], top + 14 + BOX[1]


def wrap(text: str, size: int, width: int, lines: int) -> list[str]:
    """Breaks a text into lines of at most `width` pixels, at spaces where possible.

    Args:
        text: without line breaks.
        size: of the font.
        width: pixels.
        lines: maximum; the last one ends in an ellipsis when text is left over.
    """

    def fits(text: str, ending: str = "") -> int:
        """The number of characters that fit into a line."""
        measure = lambda end: _font(size).getlength(text[:end] + ending)  # noqa: E731
        return bisect.bisect_right(range(1, min(len(text), width) + 1), width, key=measure)

    out: list[str] = []
    while text and len(out) < lines:
        end = max(1, fits(text))
        if end < len(text) and (space := text.rfind(" ", 0, end + 1)) > 0:
            end = space
        out.append(text[:end].rstrip())
        text = text[end:].lstrip()
    if text:
        out[-1] = out[-1][: fits(out[-1], "…")].rstrip() + "…"
    return out


def _draw_strip(sheet: Image.Image, draw: ImageDraw.ImageDraw, top: int, strip: Strip) -> None:
    draw.line((MARGIN, top, WIDTH - MARGIN - 1, top), _RULE)
    _write(draw, (MARGIN, top + 13), strip.title, 16, _INK, TEXT_WIDTH)
    _write(draw, (MARGIN, top + 36), strip.note, 13, _DIM, TEXT_WIDTH)
    place = (MARGIN, top + 62)
    _write(draw, place, strip.caption, 14, _GREY, TEXT_WIDTH, _CAPTION_LINES)
    for column, (seconds, jpeg) in enumerate(strip.frames[:COLUMNS]):
        left, upper, right, lower = box = frame_box(top, column)
        draw.rectangle((left, upper, right - 1, lower - 1), _TILE)
        middle = (left + right) // 2
        if frame_fault(jpeg, strip.size):
            place = (middle, (upper + lower) // 2)
            draw.text(place, "damaged", _ALARM, _font(14), anchor="mm")
        else:
            _paste(sheet, box, jpeg)
        draw.text((middle, lower + 5), f"{seconds:.1f} s", _DIM, _font(12), anchor="mt")


def _paste(sheet: Image.Image, box: tuple[int, int, int, int], jpeg: bytes) -> None:
    """Draws a frame in the middle of its box, as large as the box allows."""
    image = Image.fromarray(decode_image(jpeg))
    scale = min(BOX[0] / image.width, BOX[1] / image.height)
    size = [max(1, round(side * scale)) for side in image.size]
    image = image.resize(size, Image.Resampling.LANCZOS)
    left = box[0] + (BOX[0] - image.width) // 2
    sheet.paste(image, (left, box[1] + (BOX[1] - image.height) // 2))


def _write(draw, place, text: str, size: int, ink: str, width: int, lines: int = 1) -> None:
    """Draws a text, cut to its width and number of lines."""
    for row, line in enumerate(wrap(_drawable(text), size, width, lines)):
        draw.text((place[0], place[1] + row * _CAPTION_STEP), line, ink, _font(size))


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _drawable(text: str) -> str:
    """The text with plain letters where the font has no others (é is drawn as e)."""
    text = unicodedata.normalize("NFKD", text.translate(_TYPED).replace("…", "\0"))
    plain = "".join(letter for letter in text if not unicodedata.combining(letter))
    return plain.replace("\0", "…")
