"""Long Storyboard videos: the same few named events in an ever larger haystack.

    folder = ensure_long("data/long-10m", seed=0, minutes=10, domain="story", videos=64, every=2)

A long video has 3 to 6 named events of 4 to 20 seconds, so that its caption stays one paragraph
whatever its length. The rest are unnamed events and emptiness. Video `index` has the same named
events, in the same order, in every duration; only the remarks of its caption on time (what came
before, a pause) may differ. So two durations can be compared caption by caption, and nothing but
the length of the video can explain a difference.

Unnamed events show no subject in a colour that a named event of their video shows; over the videos
of a long gallery each of them may look like a named event of another video. Out of domain the
videos are surveillance (even index) and science (odd index), mostly empty.
"""

import dataclasses
import functools
import os
import zlib
from pathlib import Path

import numpy as np

from mova_jax.data.images import encode_jpeg
from mova_jax.data.shards import Caption, Manifest, VideoRecord, write_manifest, write_split
from mova_jax.data.storyboard.captions import sentences, short_captions
from mova_jax.data.storyboard.concepts import SCIENCE, STORY, SURVEILLANCE, Style
from mova_jax.data.storyboard.folder import LICENCE, NAME, draw, drawing_pool, ensure_folder
from mova_jax.data.storyboard.plan import (
    HELD_OUT_CLASS,
    Event,
    Plan,
    draw_actions,
    draw_distractors,
    draw_event,
    draw_places,
    pick,
    truth,
)
from mova_jax.data.storyboard.scenes import render
from mova_jax.utils.progress_bar import bar_of

SPLIT = "test"  # of the folder, and the class of combinations that its videos may show
VERSION = 1  # of the videos; a cache of another version is replaced
NAMED_SECONDS = 42  # at most, all named events together: what a video of one minute has room for

_CHUNK = 2  # videos a task


@dataclasses.dataclass(frozen=True)
class LongStyle:
    """The statistics of the long videos of a domain."""

    style: Style  # its `events`, `durations` (seconds) and actions are those of named events
    busy: float  # share of the time outside of named events in which unnamed ones happen


def _long(style: Style, busy: float) -> LongStyle:
    # Where only every second frame is stored, these two may look like standing still, or be
    # invisible in all of them.
    actions = tuple(a for a in style.actions if a not in ("blink", "bounce"))
    style = dataclasses.replace(style, actions=actions, events=(3, 6), durations=((4, 8), (10, 20)))
    return LongStyle(style, busy)


# Surveillance and science have few subjects and colours. In half an hour that is busier, most
# captions would be true of several videos.
DOMAINS: dict[str, tuple[LongStyle, ...]] = {
    "story": (_long(STORY, 0.4),),
    "ood_domain": (_long(SURVEILLANCE, 0.12), _long(SCIENCE, 0.12)),
}


def make_long_record(
    seed: int, domain: str, index: int, seconds: int, every: int = 1, size: int = 64
) -> VideoRecord:
    """Makes one long video.

    Args:
        seed: not negative.
        domain: one of DOMAINS.
        index: of the video.
        seconds: of the video, at least 60.
        every: stores the frames at 0, every, 2 every ... seconds, the same as are at these times
            in a video with every second. Only these are drawn.
        size: pixels a side.

    Returns:
        The record; its bytes depend on the arguments only. `truth` has the events, without frames.

    Raises:
        ValueError: no such domain, or less than a minute.
    """
    _check(domain, seconds, every)
    long = DOMAINS[domain][index % len(DOMAINS[domain])]
    name = zlib.crc32(f"long {domain}".encode())
    needles, words = _generators([seed, name, index])
    hay, pictures = _generators([seed, name, index, seconds])
    plan = _draw_plan(needles, hay, domain, long, seconds)
    frames = render(pictures, plan, size, every)
    timed = sentences(words, plan)
    return VideoRecord(
        id=f"{domain}-{index:06d}",
        frames=tuple(encode_jpeg(frame, subsampling="444") for frame in frames),
        height=size,
        width=size,
        timestamps=np.arange(0, seconds, every, dtype=np.float32),
        duration=float(seconds),
        captions=tuple(
            Caption(text, float(event.start), float(event.end)) for event, text in timed
        ),
        alternatives=short_captions(words, plan),
        source=f"{NAME} {plan.domain} seed {seed}",
        truth=truth(plan, frames=False),
    )


def _check(domain: str, seconds: float, every: int) -> None:
    if domain not in DOMAINS:
        raise ValueError(f"no domain {domain!r}; long videos have {', '.join(DOMAINS)}")
    if seconds < 60 or every < 1:
        raise ValueError(
            f"got videos of {seconds} s with a frame every {every} s; expected at least 60 s, for "
            "the named events need as much, and a frame every 1 s or more"
        )


def _generators(key: list[int]) -> tuple[np.random.Generator, np.random.Generator]:
    one, two = np.random.SeedSequence(key).spawn(2)
    return np.random.Generator(np.random.Philox(one)), np.random.Generator(np.random.Philox(two))


def _draw_plan(needles, hay, domain: str, long: LongStyle, seconds: int) -> Plan:
    """The plan: named events from `needles`, all else from `hay`."""
    style = long.style
    camera = pick(needles, style.places) if style.fixed_camera else ""
    named = _draw_named(needles, style, camera, held_out=domain == "story")
    free = seconds - sum(event.end for event in named)
    unnamed, busy = [], 0
    while busy + (length := _draw_seconds(hay, style)) <= long.busy * free:
        busy += length
        action = pick(hay, style.actions)
        unnamed.append(draw_event(hay, style, 0, length, action, False, named, camera, None))
    events = _on_timeline(hay, named, unnamed, seconds)
    places = draw_places(hay, style, events, seconds)
    return Plan(style.domain, places, tuple(events), draw_distractors(hay, style, seconds))


def _draw_named(rng, style: Style, camera: str, held_out: bool) -> list[Event]:
    """The named events, each from 0 to its length; one is a held-out combination if wanted."""
    count = int(rng.integers(style.events[0], style.events[1] + 1))
    while sum(lengths := [_draw_seconds(rng, style) for _ in range(count)]) > NAMED_SECONDS:
        pass
    actions = draw_actions(rng, style, count)
    new = int(rng.integers(count)) if held_out else -1
    events: list[Event] = []
    for i, (length, action) in enumerate(zip(lengths, actions, strict=True)):
        wanted = HELD_OUT_CLASS[SPLIT] if i == new else None
        events.append(draw_event(rng, style, 0, length, action, True, events, camera, wanted))
    return events


def _draw_seconds(rng, style: Style) -> int:
    shortest, longest = pick(rng, style.durations)
    return int(rng.integers(shortest, longest + 1))


def _on_timeline(rng, named: list[Event], unnamed: list[Event], seconds: int) -> list[Event]:
    """All events in time order, the named ones in theirs, with a second or more between two."""
    count = len(named) + len(unnamed)
    is_named = np.isin(np.arange(count), rng.choice(count, len(named), replace=False))
    sources = {True: iter(named), False: iter(unnamed)}
    events = [next(sources[bool(flag)]) for flag in is_named]
    spare = seconds - sum(event.end for event in events) - (count - 1)
    shifts = np.sort(rng.integers(0, spare + 1, count)) + np.arange(count)
    placed, before = [], 0
    for event, shift in zip(events, shifts.tolist(), strict=True):
        start, length = before + shift, event.end
        placed.append(dataclasses.replace(event, start=start, end=start + length))
        before += length
    return placed


def ensure_long(
    folder: str | os.PathLike,
    seed: int,
    minutes: float,
    domain: str,
    videos: int,
    every: int = 1,
    workers: int = 2,
    image_size: int = 64,
) -> Path:
    """Makes shards with one split, `test`, of long videos, unless the folder has them already.

    There is no tokenizer in it: these videos are for models that are trained.

    Args:
        folder: of the shards; a Storyboard of other settings in it is replaced.
        seed: not negative.
        minutes: of every video, at least 1.
        domain: one of DOMAINS.
        videos: number of videos.
        every: seconds between two stored frames.
        workers: processes that draw; with 0 or 1 this process draws.
        image_size: pixels a side.

    Raises:
        ValueError: no such domain, or less than a minute.
        ShardError: when the folder holds something else, or cannot be written.
    """
    seconds = round(60 * minutes)
    _check(domain, seconds, every)
    settings = {
        "long_version": VERSION,
        "seed": seed,
        "seconds": seconds,
        "domain": domain,
        "videos": videos,
        "every": every,
        "image_size": image_size,
    }
    return ensure_folder(folder, settings, functools.partial(_write, workers=workers))


def _write(folder: Path, settings: dict, workers: int) -> None:
    videos = settings["videos"]
    tasks = [(settings, start, min(start + _CHUNK, videos)) for start in range(0, videos, _CHUNK)]
    label = f"{settings['domain']}, {settings['seconds'] / 60:g} min"
    with drawing_pool(workers) as pool:
        records = bar_of(label, videos, draw(pool, _make_chunk, tasks))
        split = write_split(folder, SPLIT, records, name=NAME)
    manifest = Manifest(name=NAME, splits={SPLIT: split}, settings=settings, licence=LICENCE)
    write_manifest(folder, manifest)


def _make_chunk(settings: dict, start: int, stop: int) -> list[VideoRecord]:
    names = ("seconds", "every", "image_size")
    rest = [settings[name] for name in names]
    seed, domain = settings["seed"], settings["domain"]
    return [make_long_record(seed, domain, index, *rest) for index in range(start, stop)]
