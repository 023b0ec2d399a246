"""The plan of a Storyboard video: its timeline, before anything is drawn or captioned.

`draw_plan(rng, split, style)` draws a `Plan`: events on a timeline with gaps, the place shown in
every frame, and distractors. `scenes.py` renders it, `captions.py` describes it, and `truth` writes
it as JSON. Lengths are in units of 1/64 of the picture's side; one frame is one second.
"""

import dataclasses
import itertools
import json

import numpy as np

from mova_jax.data.storyboard.concepts import (
    COLOURS,
    DISTRACTOR_COLOURS,
    DISTRACTOR_SHAPES,
    MOTIONS,
    PLACES,
    SUBJECTS,
    Style,
)

# Rotation of these is invisible.
ROUND = ("circle", "ring", "blob")
# Triples (subject, colour, place) of these classes are never shown in training.
HELD_OUT_CLASS = {"validation": 0, "test": 1, "confusable": 1}


@dataclasses.dataclass(frozen=True)
class Event:
    """A subject doing one thing in one place, in the frames start..end-1."""

    start: int
    end: int
    subject: str
    colour: str
    action: str
    place: str
    named: bool  # whether the caption speaks of it
    x: float  # resting centre
    y: float
    radius: float
    new_colour: str = ""  # at the end of a `change`
    other: tuple[str, str] | None = None  # (subject, colour) of the second one of a `meet`

    @property
    def looks(self) -> set[tuple[str, str]]:
        """Every (subject, colour) that is seen while it lasts."""
        pairs = {(self.subject, self.colour)}
        if self.new_colour:
            pairs.add((self.subject, self.new_colour))
        if self.other:
            pairs.add(self.other)
        return pairs


@dataclasses.dataclass(frozen=True)
class Distractor:
    """A small shape that no caption names, on a straight path in the frames start..end-1."""

    start: int
    end: int
    shape: str
    colour: str
    radius: float
    begin: tuple[float, float]
    finish: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Plan:
    """A whole video: `places` names the place of every frame."""

    domain: str
    places: tuple[str, ...]
    events: tuple[Event, ...]
    distractors: tuple[Distractor, ...]


def held_out_class(subject: str, colour: str, place: str) -> int:
    """The class, of ten, of a (subject, colour, place): 0 is held out for validation, 1 for test.

    Every (subject, colour) has one place of each class. So each concept and each pair of concepts
    is in training, and only the combination of all three is new.
    """
    return (SUBJECTS.index(subject) + 3 * COLOURS.index(colour) + 7 * PLACES.index(place)) % 10


def pick(rng: np.random.Generator, options):
    """One of `options`, all equally likely."""
    return options[int(rng.random() * len(options))]


def draw_plan(rng: np.random.Generator, split: str, style: Style) -> Plan:
    """Draws a video of `style`; `split` decides which combinations it may show."""
    spans, frames = draw_timeline(rng, style)
    named = _draw_named(rng, len(spans))
    actions = draw_actions(rng, style, len(spans))
    held_out = pick(rng, np.flatnonzero(named)) if split in HELD_OUT_CLASS else -1
    camera = pick(rng, style.places) if style.fixed_camera else ""
    events: list[Event] = []
    for i, (start, end) in enumerate(spans):
        wanted = HELD_OUT_CLASS[split] if i == held_out else None
        events.append(
            draw_event(rng, style, start, end, actions[i], named[i], events, camera, wanted)
        )
    places = draw_places(rng, style, events, frames)
    return Plan(style.domain, places, tuple(events), draw_distractors(rng, style, frames))


def draw_timeline(rng, style: Style) -> tuple[list[tuple[int, int]], int]:
    """Spans [start, end) of the events, and the number of frames."""
    low, high = style.frames
    count = int(rng.integers(style.events[0], style.events[1] + 1))
    while True:
        cursor = int(rng.integers(style.edges[0], style.edges[1] + 1))
        spans = []
        for i in range(count):
            if i:
                cursor += int(rng.integers(style.gaps[0], style.gaps[1] + 1))
            shortest, longest = pick(rng, style.durations)
            end = cursor + int(rng.integers(shortest, longest + 1))
            spans.append((cursor, end))
            cursor = end
        frames = cursor + int(rng.integers(style.edges[0], style.edges[1] + 1))
        if low <= frames <= high:
            return spans, frames


def _draw_named(rng, count: int) -> list[bool]:
    """Whether the caption names each event: at least two, and in a third of the videos not all."""
    named = [True] * count
    if count > 2 and rng.random() < 0.45:
        named[int(rng.integers(count))] = False
        if count == 5 and rng.random() < 0.3:
            named[int(rng.integers(count))] = False
    return named


def draw_actions(rng, style: Style, count: int) -> list[str]:
    """The actions of a video in time order."""
    actions = [pick(rng, style.actions) for _ in range(count)]
    keys = [rng.normal() - style.motions_first * (action in MOTIONS) for action in actions]
    return [actions[i] for i in np.argsort(keys)]


def draw_event(rng, style, start, end, action, named, earlier, camera, wanted) -> Event:
    """An event that cannot be confused with an `earlier` one of the same video.

    `wanted` is the held-out class of its triple, None for a training triple.
    """
    radius = float(rng.uniform(*style.radius))
    x, y = draw_position(rng, style, action)
    while True:
        subject, colour = pick(rng, style.subjects), pick(rng, style.colours)
        new_colour = pick(rng, style.colours) if action == "change" else ""
        other = None
        if action == "meet":
            other = pick(rng, style.subjects), pick(rng, style.colours)
            if other[0] == subject or other[1] == colour:
                continue
        place = camera or pick(rng, style.places)
        event = Event(
            start, end, subject, colour, action, place, named, x, y, radius, new_colour, other
        )
        if (action == "spin" and subject in ROUND) or new_colour == colour:
            continue
        if any(event.looks & other_event.looks for other_event in earlier):
            continue
        if not camera and earlier and place == earlier[-1].place and rng.random() < 0.8:
            continue
        if style.domain == "story" and not combinations_fit(event, wanted):
            continue
        return event


def combinations_fit(event: Event, wanted: int | None) -> bool:
    """Whether the subject's triple has the class `wanted` and all others are training triples."""
    main = held_out_class(event.subject, event.colour, event.place)
    held_out = HELD_OUT_CLASS.values()
    if main in held_out if wanted is None else main != wanted:
        return False
    rest = event.looks - {(event.subject, event.colour)}
    return all(held_out_class(*pair, event.place) not in held_out for pair in rest)


def draw_position(rng, style: Style, action: str) -> tuple[float, float]:
    """The centre at rest: left, middle or right of the picture, inside a dish if there is one."""
    reach = 11.0 if style.domain == "science" else 14.0
    if action == "divide":  # needs room on both sides
        return 32.0, 32.0 + float(rng.uniform(-8, 8))
    x = 32.0 + pick(rng, (-reach, 0.0, reach)) + float(rng.uniform(-2, 2))
    return x, 32.0 + float(rng.uniform(-8, 8))


def draw_places(rng, style: Style, events: list[Event], frames: int) -> tuple[str, ...]:
    """The place of every frame: an event's own; within a gap a cut, or a third place."""
    places = [""] * frames
    for event in events:
        places[event.start : event.end] = [event.place] * (event.end - event.start)
    bounds = [(0, events[0].start, events[0].place, events[0].place)]
    for one, two in itertools.pairwise(events):
        bounds.append((one.end, two.start, one.place, two.place))
    bounds.append((events[-1].end, frames, events[-1].place, events[-1].place))
    for start, end, before, after in bounds:
        if end - start >= 2 and not style.fixed_camera and rng.random() < 0.3:
            before = after = pick(rng, style.places)
        cut = int(rng.integers(start, end + 1))
        places[start:end] = [before] * (cut - start) + [after] * (end - cut)
    return tuple(places)


def draw_distractors(rng, style: Style, frames: int) -> tuple[Distractor, ...]:
    """Draws one to two distractors for ten frames, anywhere on the timeline."""
    inner = 18.0 if style.domain == "science" else 6.0
    distractors = []
    for _ in range(int(rng.integers(frames // 10, frames // 5 + 1))):
        length = int(rng.integers(4, 13))
        start = int(rng.integers(-3, frames - 1))
        begin = rng.uniform(inner, 64 - inner, 2)
        finish = np.clip(begin + rng.uniform(-20, 20, 2), inner, 64 - inner)
        looks = pick(rng, DISTRACTOR_SHAPES), pick(rng, DISTRACTOR_COLOURS)
        radius = float(rng.uniform(*style.distractor_radius))
        path = tuple(begin.tolist()), tuple(finish.tolist())
        end = min(start + length, frames)
        distractors.append(Distractor(max(start, 0), end, *looks, radius, *path))
    return tuple(distractors)


def visible(event: Event) -> np.ndarray:
    """bool[end - start], the frames of an event in which its subject is visible."""
    seconds = np.arange(event.end - event.start)
    return seconds % 2 == 0 if event.action == "blink" else seconds >= 0


def changed(event: Event) -> np.ndarray:
    """bool[end - start], the frames of a `change` that show its new colour."""
    seconds = np.arange(event.end - event.start)
    return (2 * seconds >= len(seconds)) & bool(event.new_colour)


def truth(plan: Plan, frames: bool = True) -> str:
    """The plan as JSON: `domain`, `events` (in time order), and for every second its `place`, its
    visible `subjects` (by event) and the number of `distractors`; these only if wanted."""
    keys = ("start", "end", "subject", "colour", "action", "place", "named", "new_colour", "other")
    events = [{key: getattr(event, key) for key in keys} for event in plan.events]
    record = {"domain": plan.domain, "events": events}
    if frames:
        record["frames"] = _frames_truth(plan)
    return json.dumps(record, separators=(",", ":"))


def _frames_truth(plan: Plan) -> list[dict]:
    frames = [{"place": place, "subjects": [], "distractors": 0} for place in plan.places]
    for distractor in plan.distractors:
        for frame in frames[distractor.start : distractor.end]:
            frame["distractors"] += 1
    for i, event in enumerate(plan.events):
        for j in np.flatnonzero(visible(event)):
            colour = event.new_colour if changed(event)[j] else event.colour
            looks = [(event.subject, colour)] + ([event.other] if event.other else [])
            about = {"action": event.action, "named": event.named}
            frames[event.start + j]["subjects"] += [
                {"event": i, "subject": subject, "colour": colour, **about}
                for subject, colour in looks
            ]
    return frames


def unnamed_events(truth: str) -> list[tuple[float, float]]:
    """Start and end, in seconds, of the events that no caption names, from the JSON of `truth`."""
    events = json.loads(truth)["events"]
    return [(event["start"], event["end"]) for event in events if not event["named"]]
