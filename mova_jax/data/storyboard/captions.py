"""The captions of a Storyboard video: one sentence for each named event.

`sentences(rng, plan)` gives the full captions, 10 to 31 words a sentence, so 20 to 155 a video;
`short_captions(rng, plan)` the short ones. Every sentence names subject, colour, action and place
from a closed vocabulary with one or two synonyms a concept. Its remarks (how fast, how long, where
in the picture, what came before) are true of the video. Distractors are never named.
"""

import dataclasses

import numpy as np

from mova_jax.data.storyboard.concepts import MOTIONS
from mova_jax.data.storyboard.plan import Event, Plan, pick
from mova_jax.data.storyboard.words import LEXICONS, Lexicon

SENTENCE_WORDS = (10, 31)

_COUNTS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
).split()

# {t} time, {np} subject, {vp}/{ving} action, {at} place, {noun} the place as a noun.
_TEMPLATES = (
    "{t} {np} {vp} {at}",
    "{t} {np} {vp} {at}",
    "{t} {at} {np} {vp}",
    "{t} there {be} {np} {at} that {vp}",
    "{t} we see {np} {at} {ving}",
    "{t} {np} can be seen {at}, {ving}",
    "{t} {np} {appear} {at} and {vp}",
    "{t} the {picture} shows {noun}, where {np} {vp}",
)


@dataclasses.dataclass(frozen=True)
class _Setting:
    """Facts about the time of an event, for the remarks of its sentence."""

    first: bool  # nothing is named before it
    opening: bool  # nothing happens before it
    last: bool  # nothing happens after it
    pause: int  # empty seconds just before it
    leaves: bool  # the video goes on after it


def sentences(rng: np.random.Generator, plan: Plan) -> list[tuple[Event, str]]:
    """The named events in time order, each with its full sentence."""
    wanted = int(rng.integers(SENTENCE_WORDS[0], 27))  # some captions are terse, others long
    ends = [0] + [event.end for event in plan.events]
    named = [event for event in plan.events if event.named]
    timed = []
    for event, before in zip(plan.events, ends, strict=False):
        if event.named:
            setting = _Setting(
                first=event is named[0],
                opening=event is plan.events[0],
                last=event is plan.events[-1],
                pause=event.start - before,
                leaves=event.end < len(plan.places),
            )
            timed.append((event, _sentence(rng, plan.domain, event, setting, wanted)))
    return timed


def short_captions(rng: np.random.Generator, plan: Plan) -> tuple[str, str]:
    """Two short captions of the whole video: plain sentences, and catchwords."""
    lexicon = LEXICONS[plan.domain]
    plain, terse = [], []
    for event in plan.events:
        if event.named:
            vp, _ = _action(rng, lexicon, event)
            _, ving = _action(rng, lexicon, event)
            where = pick(rng, lexicon.places[event.place])[0]
            plain.append(_finish(f"{_noun_phrase(rng, lexicon, event)} {vp} {where}"))
            bare = _noun_phrase(rng, lexicon, event, articles=False)
            terse.append(_finish(f"{bare} {ving}, {pick(rng, lexicon.places[event.place])[0]}"))
    return " ".join(plain), " ".join(terse)


def _finish(words: str) -> str:
    """One space between words, a capital letter and a full stop."""
    text = " ".join(words.split()).replace(" ,", ",")
    return text[0].upper() + text[1:] + "."


def _looks(rng, lexicon: Lexicon, subject: str, colour: str, article: bool, size: str = "") -> str:
    words = [size, colour, pick(rng, lexicon.subjects[subject])]
    text = " ".join(word for word in words if word)
    if not article:
        return text
    return ("an " if text[0] in "aeiou" else "a ") + text


def _noun_phrase(rng, lexicon: Lexicon, event: Event, articles=True, size: str = "") -> str:
    text = _looks(rng, lexicon, event.subject, event.colour, articles, size)
    if event.other:
        text += " and " + _looks(rng, lexicon, *event.other, articles, size)
    return text


def _action(rng, lexicon: Lexicon, event: Event) -> tuple[str, str]:
    """The action as a finite verb and as a participle."""
    finite, participle = pick(rng, lexicon.actions[event.action])
    return finite.format(new=event.new_colour), participle.format(new=event.new_colour)


def _time(rng, setting: _Setting) -> str:
    """The time of an event, in relation to the others."""
    if setting.first:
        options = ["to begin with,", "first,"]
        if setting.opening:
            options += ["at first,", "in the beginning,"]
    elif setting.last:
        options = ["finally,", "at the end,", "near the end,", "in the last part,"]
    else:
        options = ["then", "next,", "after that,", "later,", "afterwards,", "some time later,"]
    if setting.pause >= 4:
        options += ["after a long pause,", "after a quiet moment,"]
    elif setting.pause <= 1 and not setting.first:
        options += ["shortly after,", "right after that,"]
    return pick(rng, options)


def _remarks(rng, lexicon: Lexicon, event: Event, setting: _Setting) -> dict[str, str]:
    """Further true remarks, by the part of the sentence that they belong to."""
    seconds = event.end - event.start
    remarks = {
        "time": _time(rng, setting),
        "scenery": " " + pick(rng, lexicon.scenery[event.place]),
    }
    if event.action in (*MOTIONS, "meet", "return"):
        remarks["manner"] = (
            " quickly" if seconds <= 5 else " slowly" if seconds >= 8 else " steadily"
        )
    elif event.action != "divide":
        side = "on the left side" if event.x < 26 else "on the right side" if event.x > 38 else ""
        remarks["side"] = f" {side or 'in the middle'} of the {lexicon.picture}"
    if seconds < len(_COUNTS):
        length = pick(rng, ("about ", "")) + _COUNTS[seconds]
    else:
        length = "more than twenty"
    # An action that ends takes "in", one that could go on takes "for".
    lasts = "in" if event.action in ("change", "divide", "meet", "return") else "for"
    remarks["length"] = f" {lasts} {length} seconds"
    they, disappear = ("they are", "they disappear") if event.other else ("it is", "it disappears")
    endings = [", while the camera does not move", f", and {they} easy to see"]
    if setting.leaves and event.action != "divide":
        endings += [f", and then {they} gone", f", before {disappear}"]
    remarks["ending"] = pick(rng, endings)
    return remarks


def _sentence(rng, domain: str, event: Event, setting: _Setting, wanted: int) -> str:
    """A sentence of about `wanted` words, always within SENTENCE_WORDS."""
    lexicon = LEXICONS[domain]
    where, noun = pick(rng, lexicon.places[event.place])
    vp, ving = _action(rng, lexicon, event)
    size = lexicon.size if rng.random() < 0.3 else ""
    template = pick(rng, _TEMPLATES)
    subject = _noun_phrase(rng, lexicon, event, size=size)
    remarks = _remarks(rng, lexicon, event, setting)

    def say(chosen: list[str]) -> str:
        said = {key: remark if key in chosen else "" for key, remark in remarks.items()}
        how = said.get("manner", "") + said["length"]
        main = template.format(
            t=said["time"],
            np=subject + said.get("side", ""),
            vp=vp + how,
            ving=ving + how,
            at=where + said["scenery"],
            noun=noun + said["scenery"],
            be="are" if event.other else "is",
            appear="appear" if event.other else "appears",
            picture=lexicon.picture,
        )
        return _finish(main + said["ending"])

    order = [list(remarks)[i] for i in rng.permutation(len(remarks))]
    if rng.random() < 0.6:  # most sentences say when, whatever their length
        order.remove("time")
        order.insert(0, "time")
    chosen: list[str] = []
    for name in order:
        if len(say(chosen).split()) >= wanted:
            break
        if len(say([*chosen, name]).split()) <= SENTENCE_WORDS[1]:
            chosen.append(name)
    return say(chosen)
