"""Draws Storyboard videos: shapes, colours, and the movement of events.

`render(rng, plan, size)` draws a `Plan` as frames u8[f H W 3]. A shape is a signed distance (below
0 inside), so that it scales, turns and has soft edges at any size; all frames of its track are
drawn at once, in a window around it. Coordinates are in 1/64 of the picture's side, y downwards.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import numpy as np

from mova_jax.data.storyboard.places import PAINTERS, SIDE
from mova_jax.data.storyboard.plan import Distractor, Event, Plan, changed, visible

OUTLINE = 1.3  # units of dark line around a shape
LINE = (18, 18, 22)

# Distinct from each other, from the distractors and from every place.
RGB = {
    "red": (225, 25, 35),
    "orange": (255, 130, 0),
    "yellow": (255, 230, 20),
    "green": (15, 165, 45),
    "cyan": (0, 220, 225),
    "blue": (30, 55, 240),
    "purple": (135, 35, 195),
    "pink": (255, 120, 200),
}
DISTRACTOR_RGB = {
    "black": (35, 35, 35),
    "grey": (125, 125, 125),
    "brown": (105, 70, 45),
    "olive": (115, 115, 60),
    "beige": (205, 190, 160),
    "slate": (75, 90, 110),
}
# Saturation of the colours: low in front of a surveillance camera, medium in a dish.
SATURATION = {"story": 1.0, "surveillance": 0.6, "science": 0.85}

Shape = Callable[[np.ndarray, np.ndarray], np.ndarray]


def colour(name: str, domain: str) -> np.ndarray:
    """The colour of that name as it looks in a domain, float32[3] in 0..255."""
    rgb = np.asarray(RGB[name], np.float32)
    share = SATURATION[domain]
    return share * rgb + (1 - share) * rgb.mean()


# ------------------------------------------------------------------- shapes in [-1, 1] x [-1, 1]


def _box(x, y, width, height):
    return np.maximum(np.abs(x) - width, np.abs(y) - height)


def _polygon(x, y, sides: int, inner: float):
    """A regular convex polygon with a corner on top; `inner` is the radius of the circle in it."""
    angles = 2 * np.pi * (np.arange(sides) + 0.5) / sides - np.pi / 2
    planes = (x * np.cos(a) + y * np.sin(a) for a in angles)
    return functools.reduce(np.maximum, planes) - inner


def _star(x, y):
    sector = 2 * np.pi / 5
    angle = np.abs((np.arctan2(x, -y) + sector / 2) % sector - sector / 2)
    length = np.hypot(x, y)
    # The edge from the tip (1, 0) to the notch at half a sector.
    notch_x, notch_y = 0.45 * math.cos(sector / 2), 0.45 * math.sin(sector / 2)
    edge = math.hypot(1 - notch_x, notch_y)
    return ((length * np.cos(angle) - 1) * notch_y + length * np.sin(angle) * (1 - notch_x)) / edge


def _heart(x, y):
    x, y = np.abs(x) / 1.55, (0.85 - y) / 1.55
    lobe = np.hypot(x - 0.25, y - 0.75) - math.sqrt(2) / 4
    foot = np.maximum(x + y, 0) / 2
    cusp = np.minimum(np.hypot(x, y - 1), np.hypot(x - foot, y - foot)) * np.sign(x - y)
    return 1.55 * np.where(x + y > 1, lobe, cusp)


def _arrow(x, y):
    shaft = _box(x + 0.4, y, 0.55, 0.25)
    head = np.maximum(-x, (np.abs(y) - 0.85 * (1 - x)) / math.hypot(1, 0.85))
    return np.minimum(shaft, head)


def _fish(x, y):
    body = (np.hypot((x - 0.2) / 0.78, y / 0.55) - 1) * 0.55
    tail = np.maximum(_box(x + 0.65, y, 0.35, 1.0), (np.abs(y) + 0.85 * (x + 0.3)) / 1.3)
    eye = np.hypot(x - 0.55, y + 0.12) - 0.13
    return np.maximum(np.minimum(body, tail), -eye)


SHAPES: dict[str, Shape] = {
    "circle": lambda x, y: np.hypot(x, y) - 0.92,
    "square": lambda x, y: _box(x, y, 0.8, 0.8),
    "triangle": lambda x, y: _polygon(x, y + 0.0, 3, 0.55),
    "star": _star,
    "cross": lambda x, y: np.minimum(_box(x, y, 0.95, 0.3), _box(x, y, 0.3, 0.95)),
    "ring": lambda x, y: np.abs(np.hypot(x, y) - 0.7) - 0.24,
    "heart": _heart,
    "arrow": _arrow,
    "fish": _fish,
    "crescent": lambda x, y: np.maximum(np.hypot(x, y) - 0.95, 0.74 - np.hypot(x - 0.46, y + 0.12)),
    "blob": lambda x, y: np.hypot(x, y) - 0.8 - 0.16 * np.cos(3 * np.arctan2(y, x) + 4 * x),
    "hexagon": lambda x, y: _polygon(x, y, 6, 0.8),
    "bar": lambda x, y: _box(x, y, 1.0, 0.3),
    "drop": lambda x, y: np.maximum(np.hypot(x, y) - 0.9, -0.1 - y),
    "bowtie": lambda x, y: np.maximum(np.abs(y) - np.abs(x) * 0.9, np.abs(x) - 0.9),
}


# ------------------------------------------------------------------------------------- movement


@dataclasses.dataclass(frozen=True)
class Track:
    """A shape over n consecutive frames."""

    start: int
    shape: str
    x: np.ndarray  # float[n], centre
    y: np.ndarray
    radius: np.ndarray
    angle: np.ndarray  # radians, clockwise on the screen
    rgb: np.ndarray  # float[n 3]
    visible: np.ndarray  # bool[n]


def tracks(event: Event, domain: str) -> list[Track]:
    """The one or two tracks that show an event."""
    n = event.end - event.start
    reach = 13.0 if domain == "science" else SIDE / 2 - event.radius - OUTLINE - 1
    p = np.linspace(0, 1, n)
    x, y = np.full(n, event.x), np.full(n, event.y)
    radius, angle = np.full(n, event.radius), np.zeros(n)
    sign = 1 if event.action in ("right", "down") else -1
    match event.action:
        case "left" | "right":
            x = SIDE / 2 + sign * reach * (2 * p - 1)
        case "up" | "down":
            y = SIDE / 2 + sign * reach * (2 * p - 1)
            x = np.clip(x, event.radius + 2, SIDE - event.radius - 2)
        case "return":
            x = SIDE / 2 - reach * np.cos(2 * np.pi * p)
        case "grow":
            radius = event.radius * (0.35 + 0.85 * p)
        case "shrink":
            radius = event.radius * (1.2 - 0.85 * p)
        case "spin":
            angle = np.pi / 6 * np.arange(n)
        case "bounce":
            y = SIDE - event.radius - 4 - (56 - 2 * event.radius) * (np.arange(n) % 2)
    if event.action in ("meet", "divide"):
        return _pair(event, domain, p, y)
    if event.subject == "arrow":  # points where it goes
        angle = angle + {"left": np.pi, "up": -np.pi / 2, "down": np.pi / 2}.get(event.action, 0.0)
    shape = event.subject
    if shape == "fish" and event.action == "left":
        shape = "fish, mirrored"
    rgb = np.where(
        changed(event)[:, None],
        colour(event.new_colour or event.colour, domain),
        colour(event.colour, domain),
    )
    return [Track(event.start, shape, x, y, radius, angle, rgb, visible(event))]


def _pair(event: Event, domain: str, p: np.ndarray, y: np.ndarray) -> list[Track]:
    """Two shapes that close in on the middle for two thirds of the time, or part from it."""
    r = event.radius * 0.8  # leaves them a way to go
    reach = 17.0 if domain == "science" else SIDE / 2 - r - OUTLINE - 1
    touching = r + OUTLINE
    if event.action == "meet":
        gap = touching + (reach - touching) * np.clip(1 - 1.5 * p, 0, 1)
        other = event.other
    else:
        gap = (touching + 2) * np.clip(1.5 * p - 0.25, 0, 1)
        other = event.subject, event.colour
    still, seen = np.zeros_like(p), visible(event)
    pair = []
    for side, (shape, name) in ((-1, (event.subject, event.colour)), (1, other)):
        x, rgb = SIDE / 2 + side * gap, np.tile(colour(name, domain), (len(p), 1))
        pair.append(Track(event.start, shape, x, y, still + r, still, rgb, seen))
    return pair


SHAPES["fish, mirrored"] = lambda x, y: _fish(-x, y)


def _distractor_track(distractor: Distractor) -> Track:
    n = distractor.end - distractor.start
    p = np.linspace(0, 1, n)[:, None]
    path = np.asarray(distractor.begin) * (1 - p) + np.asarray(distractor.finish) * p
    rgb = np.tile(np.asarray(DISTRACTOR_RGB[distractor.colour], np.float32), (n, 1))
    radius = np.full(n, distractor.radius)
    angle = 0.4 * np.arange(n)
    seen = np.ones(n, bool)
    return Track(distractor.start, distractor.shape, *path.T, radius, angle, rgb, seen)


# -------------------------------------------------------------------------------------- drawing


def render(rng: np.random.Generator, plan: Plan, size: int, every: int = 1) -> np.ndarray:
    """Draws a plan.

    Args:
        rng: for details that the plan leaves open (the place of a brick, the curve of a hill).
        plan: the video.
        size: pixels a side.
        every: seconds between two frames. A frame looks the same whatever its neighbours are.

    Returns:
        Frames u8[f H W 3] at 0, every, 2 every ... seconds.
    """
    scale = size / SIDE
    margin = math.ceil(22 * scale)  # shapes may reach over the border by this
    count = len(range(0, len(plan.places), every))
    frames = np.empty((count, size + 2 * margin, size + 2 * margin, 3), np.uint8)
    inside = slice(margin, margin + size)
    before = None
    for t, place in enumerate(plan.places):
        if place != before:
            light = rng.uniform(0.95, 1.0)
            picture = (PAINTERS[place](rng, size).rgb * light).astype(np.uint8)
        if t % every == 0:
            frames[t // every, inside, inside] = picture
        before = place
    for distractor in plan.distractors:
        _draw(frames, _distractor_track(distractor), every, scale, margin, outline=0.5)
    for event in plan.events:
        for track in tracks(event, plan.domain):
            _draw(frames, track, every, scale, margin, outline=OUTLINE)
    return frames[:, inside, inside]


def _draw(
    frames: np.ndarray, track: Track, every: int, scale: float, margin: int, outline: float
) -> None:
    """Draws a track into frames with a margin around the picture, all its frames at once."""
    seconds = track.start + np.arange(len(track.visible))
    shown = np.flatnonzero(track.visible & (seconds % every == 0))
    if not len(shown):
        return
    x = (track.x[shown] * scale + margin).astype(np.float32)
    y = (track.y[shown] * scale + margin).astype(np.float32)
    radius = (track.radius[shown] * scale).astype(np.float32)[:, None, None]
    half = math.ceil(float(radius.max()) * 1.05 + outline * scale + 1)
    window = np.arange(-half, half + 1)
    columns = np.floor(x).astype(int)[:, None] + window
    rows = np.floor(y).astype(int)[:, None] + window
    dx = (columns + np.float32(0.5) - x[:, None]).astype(np.float32)[:, None, :] / radius
    dy = (rows + np.float32(0.5) - y[:, None]).astype(np.float32)[:, :, None] / radius
    if track.angle.any():
        cos = np.cos(track.angle[shown]).astype(np.float32)[:, None, None]
        sin = np.sin(track.angle[shown]).astype(np.float32)[:, None, None]
        dx, dy = cos * dx + sin * dy, cos * dy - sin * dx
    distance = SHAPES[track.shape](dx, dy) * radius
    cover = np.clip(0.5 + outline * scale - distance, 0, 1)[..., None]
    fill = np.clip(0.5 - distance, 0, 1)[..., None]
    rgb = track.rgb[shown].astype(np.float32)[:, None, None, :]
    paint = fill * rgb + (1 - fill) * np.asarray(LINE, np.float32)
    # Slices, frame by frame: arrays of rows and columns as indices are slower.
    at = [
        frames[t, top : top + len(window), left : left + len(window)]
        for t, top, left in zip(seconds[shown] // every, rows[:, 0], columns[:, 0], strict=True)
    ]
    painted = (cover * paint + (1 - cover) * np.stack(at) + 0.5).astype(np.uint8)
    for region, pixels in zip(at, painted, strict=True):
        region[:] = pixels
