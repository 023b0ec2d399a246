"""The places of Storyboard videos, painted with plain colours.

`PAINTERS[place](rng, size).rgb` is a picture float32[size size 3] in 0..255; `rng` decides details
such as the place of a brick or the curve of a hill. Coordinates are in 1/64 of the picture's side,
y downwards.
"""

import functools

import numpy as np

SIDE = 64.0  # units a picture is wide and high


@functools.lru_cache(maxsize=4)
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """x, y float32[H W] of the pixel centres."""
    centres = (np.arange(size, dtype=np.float32) + 0.5) * (SIDE / size)
    return np.meshgrid(centres, centres)


class _Canvas:
    """A picture that places are painted on, layer over layer."""

    def __init__(self, size: int, rgb: tuple[int, int, int]):
        self.x, self.y = _grid(size)
        self.rgb = np.empty((size, size, 3), np.float32)
        self.rgb[:] = rgb

    def paint(self, where: np.ndarray, rgb: tuple[int, int, int]) -> None:
        self.rgb[where] = rgb

    def dots(self, rng, count: int, radius: float, rgb, top=0.0) -> None:
        """Round specks below the line y = `top`."""
        cx, cy = rng.uniform(0, SIDE, count), rng.uniform(top, SIDE, count)
        dx, dy = self.x[0, :, None] - cx, self.y[:, :1] - cy
        near = dx**2 + (dy**2)[:, None] < radius**2
        self.paint(near.any(-1), rgb)


def _meadow(rng, size):
    c = _Canvas(size, (205, 226, 238))
    hill = 17 + 2.5 * np.sin(c.x / 9 + rng.uniform(0, 6))
    c.paint(c.y > hill, (164, 204, 122))
    blades = np.sin(c.x * 1.3 + 2.5 * np.sin(c.y * 0.55 + rng.uniform(0, 6))) > 0.75
    c.paint(blades & (c.y > hill + 2), (134, 178, 96))
    return c


def _beach(rng, size):
    c = _Canvas(size, (214, 232, 242))
    c.paint(c.y > 12, (112, 164, 190))
    shore = 26 + 2 * np.sin(c.x / 7 + rng.uniform(0, 6))
    c.paint(c.y > shore - 2, (240, 244, 244))
    c.paint(c.y > shore, (233, 215, 170))
    c.dots(rng, 14, 0.8, (205, 184, 138), top=30)
    return c


def _night_sky(rng, size):
    c = _Canvas(size, (22, 24, 54))
    c.dots(rng, 22, 0.9, (205, 205, 215))
    return c


def _desert(rng, size):
    c = _Canvas(size, (246, 226, 196))
    phase = rng.uniform(0, 6)
    c.paint(c.y > 24 + 8 * np.sin(c.x / 11 + phase), (222, 176, 122))
    c.paint(c.y > 42 + 6 * np.sin(c.x / 8 + 2 * phase), (200, 150, 98))
    return c


def _brick_wall(rng, size, brick=(160, 98, 84), mortar=(208, 196, 186)):
    c = _Canvas(size, brick)
    y = c.y + rng.uniform(0, 8)
    row = np.floor(y / 8)
    c.paint((y % 8 < 1.6) | ((c.x + 8 * (row % 2) + rng.uniform(0, 4)) % 16 < 1.6), mortar)
    return c


def _sea(rng, size):
    c = _Canvas(size, (82, 132, 172))
    phase = rng.uniform(0, 6)
    crest = (c.y + 2 * np.sin(c.x / 4 + phase + 0.15 * c.y)) % 10
    c.paint(crest < 2.2, (150, 188, 212))
    c.paint(crest > 8, (62, 106, 148))
    return c


def _snow(rng, size):
    c = _Canvas(size, (188, 204, 222))
    c.paint(c.y > 22 + 5 * np.sin(c.x / 12 + rng.uniform(0, 6)), (240, 244, 250))
    c.dots(rng, 22, 1.1, (252, 253, 255))
    c.dots(rng, 6, 1.0, (206, 216, 230), top=30)
    return c


def _checkered_floor(rng, size, dark=(112, 112, 118), light=(192, 192, 196)):
    c = _Canvas(size, light)
    dx, dy = rng.uniform(0, 10, 2)
    c.paint((np.floor((c.x + dx) / 10) + np.floor((c.y + dy) / 10)) % 2 < 1, dark)
    return c


def _forest(rng, size):
    c = _Canvas(size, (78, 98, 78))
    x = c.x + rng.uniform(0, 16)
    trunk = x % 16
    c.paint((trunk < 5) & (c.y < 56), (82, 62, 48))
    c.paint((trunk < 1.5) & (c.y < 56), (108, 84, 64))
    c.paint(c.y > 54 + np.sin(c.x), (54, 70, 54))
    return c


def _city(rng, size):
    c = _Canvas(size, (196, 190, 202))
    tops = rng.uniform(8, 30, 6)
    x = np.minimum(c.x + rng.uniform(0, 2), SIDE - 0.01)
    column = np.minimum((x // 11).astype(int), 5)
    house = c.y > tops[column]
    c.paint(house, (104, 106, 122))
    c.paint(house & (x % 11 < 1), (72, 74, 90))
    lit = (x % 11 > 2.5) & (x % 5.5 < 4) & (x % 5.5 > 1.5) & (c.y % 7 < 3.2)
    c.paint(lit & (c.y > tops[column] + 3) & (c.y < 54), (226, 218, 184))
    c.paint(c.y > 56, (84, 84, 90))
    return c


def _car_park(rng, size):
    c = _Canvas(size, (118, 120, 122))
    lines = (c.x + rng.uniform(0, 13)) % 13 < 1.2
    c.paint(lines & ((c.y < 20) | (c.y > 44)), (190, 190, 190))
    return c


def _corridor(rng, size):
    c = _Canvas(size, (150, 150, 148))
    middle = 32 + rng.uniform(-4, 4)
    c.paint(np.abs(c.x - middle) < 6 + 0.45 * c.y, (112, 112, 112))
    c.paint(np.abs(np.abs(c.x - middle) - 6 - 0.45 * c.y) < 0.9, (82, 82, 82))
    c.paint((c.y < 9) & (np.abs(c.x - middle) < 8), (176, 178, 178))
    return c


def _yard(rng, size):
    return _checkered_floor(rng, size, dark=(128, 128, 126), light=(142, 142, 140))


def _gate(rng, size):
    c = _Canvas(size, (136, 138, 138))
    c.paint(c.y < 22, (164, 166, 168))
    c.paint(((c.x + rng.uniform(0, 6)) % 6 < 1.3) & (c.y > 8) & (c.y < 22), (92, 92, 94))
    c.paint(np.abs(c.y - 9) < 1, (92, 92, 94))
    return c


def _dish(rng, size):
    c = _Canvas(size, (62, 64, 70))
    far = np.hypot(c.x - 32, c.y - 32)
    c.paint(far < 30, (168, 172, 176))
    c.paint(far < 28, (222, 224, 220))
    c.dots(rng, 5, 0.7, (200, 204, 198), top=20)
    return c


def _arena(rng, size):
    c = _Canvas(size, (226, 222, 212))
    c.paint(np.abs(np.maximum(np.abs(c.x - 32), np.abs(c.y - 32)) - 28) < 1.5, (96, 92, 88))
    dx, dy = rng.uniform(0, 8, 2)
    c.paint(((c.x + dx) % 8 < 0.9) | ((c.y + dy) % 8 < 0.9), (206, 202, 192))
    c.paint(np.abs(np.maximum(np.abs(c.x - 32), np.abs(c.y - 32)) - 28) < 1.5, (96, 92, 88))
    return c


PAINTERS = {
    "meadow": _meadow,
    "beach": _beach,
    "night sky": _night_sky,
    "desert": _desert,
    "brick wall": _brick_wall,
    "sea": _sea,
    "snow": _snow,
    "checkered floor": _checkered_floor,
    "forest": _forest,
    "city": _city,
    "car park": _car_park,
    "corridor": _corridor,
    "yard": _yard,
    "gate": _gate,
    "dish": _dish,
    "arena": _arena,
}
