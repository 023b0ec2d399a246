"""The split `confusable`, measured by oracles that know the truth of every frame."""

import collections
import dataclasses
import itertools
import json

import numpy as np
import pytest

from mova_jax.data.storyboard.concepts import CONFUSABLE
from mova_jax.data.storyboard.generate import make_record
from mova_jax.data.storyboard.groups import GROUP_SIZE, ORDERS, draw_group

GROUPS = 6
TYPES = ("subject", "colour", "action", "place")


@pytest.fixture(scope="module")
def groups():
    """The truths of GROUPS groups of videos, group by group."""
    records = [make_record(0, "confusable", i, size=16) for i in range(GROUPS * GROUP_SIZE)]
    truths = [json.loads(record.truth) for record in records]
    return [truths[i : i + GROUP_SIZE] for i in range(0, len(truths), GROUP_SIZE)]


def things(event: dict) -> list[dict]:
    """What an event shows: its subject, and the other one of a `meet`."""
    subject, colour = event["other"] or (None, None)
    return [event] + ([event | {"subject": subject, "colour": colour}] if subject else [])


def frames_of(truth: dict) -> list[list[dict]]:
    """The visible subjects of every frame, each with the frame's place."""
    return [[s | {"place": f["place"]} for s in f["subjects"]] for f in truth["frames"]]


def seconds_of_concepts(truth: dict) -> collections.Counter:
    """How long each concept is seen: the sum over time of known concept vectors, type by type."""
    seen = collections.Counter(("place", frame["place"]) for frame in truth["frames"])
    for kind in ("subject", "colour", "action"):
        seen.update((kind, thing[kind]) for frame in frames_of(truth) for thing in frame)
    return seen


def pooled(caption: dict, video: dict) -> float:
    """The words of the caption as a bag against the concepts of the video, pooled over time."""
    words = {
        (kind, thing[kind]) for e in caption["events"] for thing in things(e) for kind in TYPES
    }
    return sum(seconds for word, seconds in seconds_of_concepts(video).items() if word in words)


def shows(frame: list[dict], event: dict, kinds) -> bool:
    """Whether a frame shows what the sentence of an event says, by these types of concepts."""
    seen = [[thing[kind] for kind in kinds] for thing in frame]
    return all([thing[kind] for kind in kinds] in seen for thing in things(event))


def found_somewhere(caption: dict, video: dict, kinds=TYPES) -> int:
    """The sentences that find a frame."""
    frames = frames_of(video)
    return sum(any(shows(f, event, kinds) for f in frames) for event in caption["events"])


def found_in_order(caption: dict, video: dict, kinds=TYPES) -> int:
    """The sentences that find a frame after the one of the sentence before."""
    frames, found = iter(frames_of(video)), 0
    for event in caption["events"]:
        found += any(shows(frame, event, kinds) for frame in frames)
    return found


def within_group(groups, score) -> tuple[float, float]:
    """R@1 among the videos of a group, and among its captions; a tie is found by chance."""
    rates = []
    for group in groups:
        scores = np.array([[score(caption, video) for video in group] for caption in group])
        for s in (scores, scores.T):
            best = s == s.max(1, keepdims=True)
            rates.append((np.diag(best) / best.sum(1)).mean())
    return float(np.mean(rates[::2])), float(np.mean(rates[1::2]))


def test_a_pool_over_time_is_at_chance(groups):
    assert within_group(groups, pooled) == (1 / 16, 1 / 16)
    for group in groups:  # and so is any other score of what is seen how long
        assert all(seconds_of_concepts(t) == seconds_of_concepts(group[0]) for t in group)


@pytest.mark.parametrize("kinds", [TYPES, ("subject", "colour", "place")])
def test_sentences_that_find_their_frames_are_right_for_one_order_of_four(groups, kinds):
    """Also for one who sees single frames, in which most actions do not show."""

    def score(caption, video):
        return found_somewhere(caption, video, kinds)

    assert within_group(groups, score) == (1 / 4, 1 / 4)


@pytest.mark.parametrize("kinds", [TYPES, ("subject", "colour", "place")])
def test_sentences_that_find_their_frames_in_order_are_always_right(groups, kinds):
    def score(caption, video):
        return found_in_order(caption, video, kinds)

    assert within_group(groups, score) == (1, 1)


def test_the_orders_of_a_binding_have_the_same_frames(groups):
    """Empty ones too; distractors, which no caption names, are each video's own."""

    def bag(truth):
        return sorted(f"{frame['place']} {without_number(frame)}" for frame in truth["frames"])

    def without_number(frame):
        return [{k: v for k, v in s.items() if k != "event"} for s in frame["subjects"]]

    for group in groups:
        bags = [bag(truth) for truth in group]
        for one, two in itertools.combinations(range(GROUP_SIZE), 2):
            assert (bags[one] == bags[two]) == (one // ORDERS == two // ORDERS)


def test_remarks_do_not_tell_the_videos_of_a_group_apart():
    """They speak of times and sides: a group shares its timeline, a side goes with its action."""
    for seed in range(10):
        plans = draw_group(np.random.default_rng(seed), CONFUSABLE)
        spans = [[(e.start, e.end) for e in plan.events] for plan in plans]
        assert all(one == spans[0] for one in spans)
        assert len({end - start for start, end in spans[0]}) == 1
        assert all(event.named for plan in plans for event in plan.events)
        untimed = [{dataclasses.replace(e, start=0, end=0) for e in p.events} for p in plans]
        for one, two in itertools.combinations(range(GROUP_SIZE), 2):
            same_binding = one // ORDERS == two // ORDERS
            assert (untimed[one] == untimed[two]) == same_binding
        sides = [sorted((e.action, e.x, e.y, e.other or ()) for e in p.events) for p in plans]
        assert all(side == sides[0] for side in sides)


def test_a_group_begins_at_every_sixteenth_video_and_groups_differ(groups):
    seconds = [seconds_of_concepts(group[0]) for group in groups]
    assert all(one != two for one, two in itertools.combinations(seconds, 2))
    again = json.loads(make_record(0, "confusable", GROUP_SIZE + 3, size=16).truth)
    assert again == groups[1][3]
    other_seed = json.loads(make_record(1, "confusable", 0, size=16).truth)
    assert seconds_of_concepts(other_seed) != seconds[0]
