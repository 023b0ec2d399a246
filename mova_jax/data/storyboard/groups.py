"""Groups of Storyboard videos that hold the same things: the split `confusable`.

    plans = draw_group(rng, style)      # 16 videos: 4 bindings x 4 orders

All videos of a group have the same subjects, colours, actions and places, on the same timeline. A
*binding* says which subject has which colour, does what, and where; an *order* puts the events of a
binding on the timeline. Three properties follow, whatever the drawing, and the tests hold them:

- How long each subject, colour, action and place is seen is the same in all 16 videos. For this all
  events of a group last equally long, none of them blinks or changes its colour half-way, and empty
  frames show places that depend on the position in time alone.
- The four orders of a binding have the same frames, in another order.
- Each video has its own sequence of sentences. All events are named, and a remark on time (how
  long, after what pause, whether the video goes on) depends on the position in time alone.
"""

import dataclasses
import itertools

import numpy as np

from mova_jax.data.storyboard.concepts import Style
from mova_jax.data.storyboard.plan import (
    HELD_OUT_CLASS,
    ROUND,
    Event,
    Plan,
    combinations_fit,
    draw_position,
    draw_timeline,
    pick,
)

BINDINGS = ORDERS = 4
GROUP_SIZE = BINDINGS * ORDERS

_WANTED = HELD_OUT_CLASS["confusable"]
_TRIES = 300  # at bindings of the same things, before other things are drawn


def draw_group(rng: np.random.Generator, style: Style) -> tuple[Plan, ...]:
    """Draws the videos of a group, without distractors; those of one binding follow each other."""
    seconds = int(rng.integers(style.durations[0][0], style.durations[0][1] + 1))
    spans, frames = draw_timeline(rng, dataclasses.replace(style, durations=((seconds, seconds),)))
    places = _draw_empty_places(rng, style, spans, frames)
    every_order = list(itertools.permutations(range(len(spans))))
    orders = [every_order[i] for i in rng.permutation(len(every_order))[:ORDERS]]
    while not (bindings := _draw_bindings(rng, style, len(spans))):
        pass
    return tuple(
        _on_timeline(style, [events[i] for i in order], spans, places)
        for events in bindings
        for order in orders
    )


def _draw_empty_places(rng, style: Style, spans, frames: int) -> list[str]:
    """The place of every frame of an empty video: before, between and after the events."""
    places = []
    for _, end in [*spans, (0, frames)]:
        places += [pick(rng, style.places)] * (end - len(places))
    return places


def _draw_bindings(rng, style: Style, count: int) -> list[list[Event]]:
    """Things for `count` events and BINDINGS ways to bind them; [] if too few ways were found.

    No two bindings agree in all the colours, all the actions, or all the places of the subjects. As
    in `test`, one event of each video is a combination held out for it, the others are in training.
    """
    subjects, colours, actions, places = (
        rng.permutation(concepts).tolist()
        for concepts in (style.subjects, style.colours, style.actions, style.places)
    )
    other = subjects.pop(), colours.pop()  # of a `meet`
    positions = [draw_position(rng, style, action) for action in actions[:count]]
    radii = rng.uniform(*style.radius, count).tolist()
    found: list[tuple] = []
    bindings: list[list[Event]] = []
    for _ in range(_TRIES):
        binding = tuple(tuple(rng.permutation(count).tolist()) for _ in range(3))
        if any(one == two for earlier in found for one, two in zip(earlier, binding, strict=True)):
            continue
        events = [
            Event(
                *(0, 0),
                subject=subjects[i],
                colour=colours[colour],
                action=actions[action],
                place=places[place],
                named=True,
                x=positions[action][0],  # with the action, for its sentence may say the side
                y=positions[action][1],
                radius=radii[i],
                other=other if actions[action] == "meet" else None,
            )
            for i, (colour, action, place) in enumerate(zip(*binding, strict=True))
        ]
        if _may_be_shown(events):
            found.append(binding)
            bindings.append(events)
            if len(bindings) == BINDINGS:
                return bindings
    return []


def _may_be_shown(events: list[Event]) -> bool:
    """Whether one combination is held out for this split, the rest in training, all visible."""
    held_out = sum(combinations_fit(event, _WANTED) for event in events)
    known = sum(combinations_fit(event, None) for event in events)
    unseen = any(event.action == "spin" and event.subject in ROUND for event in events)
    return (held_out, known, unseen) == (1, len(events) - 1, False)


def _on_timeline(style: Style, events: list[Event], spans, empty: list[str]) -> Plan:
    """The events in this order on the spans [start, end) of the timeline."""
    places = list(empty)
    timed = []
    for event, (start, end) in zip(events, spans, strict=True):
        timed.append(dataclasses.replace(event, start=start, end=end))
        places[start:end] = [event.place] * (end - start)
    return Plan(style.domain, tuple(places), tuple(timed), ())
