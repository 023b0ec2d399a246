"""What is said about a Storyboard video: one sentence for each named event.

`sentences(rng, plan)` gives the full wording, 10 to 31 words a sentence, so 20 to 155 a video;
`short_captions(rng, plan)` the short ones. Every sentence names subject, colour, action and place
from a closed vocabulary with one or two synonyms a concept. Whatever else it says (how fast, how
long, where in the picture, what came before) is true of the video. Distractors are never named.
"""

import dataclasses

import numpy as np

from mova_jax.data.storyboard_plan import MOTIONS, Event, Plan, pick

SENTENCE_WORDS = (10, 31)

# Finite verb and participle, said of one subject; `meet` is said of two.
Phrases = tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Lexicon:
    """The words of a domain."""

    subjects: dict[str, tuple[str, ...]]
    places: dict[str, tuple[tuple[str, str], ...]]  # (where, the place as a noun)
    scenery: dict[str, tuple[str, ...]]  # follows the place
    actions: dict[str, Phrases]
    picture: str  # what one looks at
    size: str = ""  # of the subjects, said now and then


_ACTIONS: dict[str, Phrases] = {
    "left": (
        ("moves to the left", "moving to the left"),
        ("travels left", "travelling left"),
        ("slides from right to left", "sliding from right to left"),
    ),
    "right": (
        ("moves to the right", "moving to the right"),
        ("travels right", "travelling right"),
        ("slides from left to right", "sliding from left to right"),
    ),
    "up": (
        ("moves up", "moving up"),
        ("rises to the top", "rising to the top"),
        ("travels upwards", "travelling upwards"),
    ),
    "down": (
        ("moves down", "moving down"),
        ("sinks to the bottom", "sinking to the bottom"),
        ("travels downwards", "travelling downwards"),
    ),
    "grow": (
        ("grows", "growing"),
        ("gets bigger", "getting bigger"),
        ("becomes larger and larger", "becoming larger and larger"),
    ),
    "shrink": (
        ("shrinks", "shrinking"),
        ("gets smaller", "getting smaller"),
        ("becomes smaller and smaller", "becoming smaller and smaller"),
    ),
    "spin": (
        ("spins", "spinning"),
        ("turns around itself", "turning around itself"),
        ("rotates in place", "rotating in place"),
    ),
    "blink": (
        ("blinks", "blinking"),
        ("flashes on and off", "flashing on and off"),
        ("keeps blinking", "blinking on and off"),
    ),
    "bounce": (
        ("bounces up and down", "bouncing up and down"),
        ("jumps up and down", "jumping up and down"),
        ("keeps bouncing", "bouncing again and again"),
    ),
    "change": (
        ("turns {new}", "turning {new}"),
        ("changes its colour to {new}", "changing its colour to {new}"),
        ("becomes {new}", "becoming {new}"),
    ),
    "meet": (
        ("meet", "meeting"),
        ("move towards each other and meet", "moving towards each other until they meet"),
        ("come together in the middle", "coming together in the middle"),
    ),
}

STORY = Lexicon(
    subjects={
        "circle": ("circle", "disc"),
        "square": ("square", "box"),
        "triangle": ("triangle",),
        "star": ("star",),
        "cross": ("cross", "plus sign"),
        "ring": ("ring", "hoop"),
        "heart": ("heart",),
        "arrow": ("arrow",),
        "fish": ("fish",),
        "crescent": ("crescent", "moon"),
    },
    places={
        "meadow": (("in the meadow", "a meadow"), ("on the grass", "a grassy field")),
        "beach": (("on the beach", "a beach"), ("at the shore", "the shore")),
        "night sky": (("in the night sky", "the night sky"), ("at night", "a dark night")),
        "desert": (("in the desert", "a desert"), ("over the dunes", "the dunes")),
        "brick wall": (("in front of a brick wall", "a brick wall"), ("at the wall", "a wall")),
        "sea": (("in the sea", "the sea"), ("on the ocean", "the ocean")),
        "snow": (("in the snow", "a snowy hill"), ("on the snow", "the snow")),
        "checkered floor": (
            ("on the checkered floor", "a checkered floor"),
            ("on the tiles", "a floor of tiles"),
        ),
        "forest": (("in the forest", "a forest"), ("in the woods", "the woods")),
        "city": (("in the city", "a city"), ("in front of tall houses", "a city street")),
    },
    scenery={
        "meadow": ("under a pale sky", "where short blades grow"),
        "beach": ("with water behind", "where the sand begins"),
        "night sky": ("among tiny lights", "with small lights all over"),
        "desert": ("with dry hills", "where there is only sand"),
        "brick wall": ("built in rows", "with bright lines between the bricks"),
        "sea": ("with gentle waves", "where the waves roll"),
        "snow": ("under a cold sky", "where flakes are falling"),
        "checkered floor": ("with light and dark fields", "made of dark and light tiles"),
        "forest": ("between dark trunks", "where the trees stand close"),
        "city": ("with lit windows", "above the road"),
    },
    actions=_ACTIONS,
    picture="picture",
    size="big",
)

SURVEILLANCE = Lexicon(
    subjects={
        "square": ("square cart",),
        "circle": ("ball shaped like a circle",),
        "triangle": ("triangle sign",),
        "cross": ("drone shaped like a cross",),
        "ring": ("tyre shaped like a ring",),
    },
    places={
        "car park": (("in the car park", "the car park"),),
        "corridor": (("in the corridor", "the corridor"),),
        "yard": (("in the grey yard", "the grey yard"),),
        "gate": (("in front of the gate", "the gate"),),
    },
    scenery={
        "car park": ("between the white lines",),
        "corridor": ("between the two walls",),
        "yard": ("on the floor of tiles",),
        "gate": ("below the fence",),
    },
    actions={
        **{
            motion: (
                *_ACTIONS[motion][:1],
                (f"passes the camera going {way}", f"passing the camera going {way}"),
            )
            for motion, way in zip(MOTIONS, ("left", "right", "up", "down"), strict=True)
        },
        "return": (
            ("moves to the right and returns to the left", "going right and coming back"),
            ("crosses to the right and comes back", "crossing to the right and coming back"),
        ),
        "meet": _ACTIONS["meet"],
    },
    picture="camera view",
    size="small",
)

SCIENCE = Lexicon(
    subjects={
        "circle": ("cell", "cell shaped like a circle"),
        "ring": ("ring cell", "cell shaped like a ring"),
        "blob": ("blob", "soft blob"),
        "star": ("star cell", "cell shaped like a star"),
        "crescent": ("crescent cell", "cell shaped like a crescent"),
    },
    places={
        "dish": (("in the round dish", "the round dish"), ("in the dish", "the dish")),
        "arena": (("in the square arena", "the square arena"), ("in the arena", "the arena")),
    },
    scenery={
        "dish": ("under the microscope",),
        "arena": ("above the fine grid",),
    },
    actions={
        **{
            motion: (
                (f"drifts {way}", f"drifting {way}"),
                (f"moves {way} bit by bit", f"moving {way} bit by bit"),
            )
            for motion, way in zip(MOTIONS, ("left", "right", "up", "down"), strict=True)
        },
        "grow": _ACTIONS["grow"][:2],
        "shrink": _ACTIONS["shrink"][:2],
        "divide": (
            ("divides into two", "dividing into two"),
            ("splits into two equal parts", "splitting into two equal parts"),
        ),
        "change": _ACTIONS["change"],
        "meet": (*_ACTIONS["meet"][:2], ("drift together and touch", "drifting together")),
    },
    picture="image",
)

LEXICONS = {"story": STORY, "surveillance": SURVEILLANCE, "science": SCIENCE}

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
    """What a sentence may say of when its event is."""

    first: bool  # nothing is named before it
    last: bool  # nothing happens after it
    pause: int  # empty seconds just before it


def sentences(rng: np.random.Generator, plan: Plan) -> list[tuple[Event, str]]:
    """The named events in time order, each with its full sentence."""
    wanted = int(rng.integers(SENTENCE_WORDS[0], 27))  # some captions are terse, some are rich
    ends = [0] + [event.end for event in plan.events]
    named = [event for event in plan.events if event.named]
    told = []
    for event, before in zip(plan.events, ends, strict=False):
        if event.named:
            last = event is plan.events[-1]
            setting = _Setting(event is named[0], last, event.start - before)
            told.append((event, _sentence(rng, plan.domain, event, setting, wanted)))
    return told


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
    """When it is, in relation to the rest."""
    if setting.first:
        options = ["at first,", "in the beginning,", "to begin with,", "first,"]
    elif setting.last:
        options = ["finally,", "at the end,", "near the end,", "in the last part,"]
    else:
        options = ["then", "next,", "after that,", "later,", "afterwards,", "some time later,"]
    if setting.pause >= 4:
        options += ["after a long pause,", "after an empty moment,"]
    elif setting.pause <= 1 and not setting.first:
        options += ["shortly after,", "right after that,"]
    return pick(rng, options)


def _details(rng, lexicon: Lexicon, event: Event) -> list[str]:
    """True remarks that may follow a sentence, in the order in which they would."""
    seconds = event.end - event.start
    details = []
    if event.action in (*MOTIONS, "meet", "return"):
        details.append("quickly" if seconds <= 5 else "slowly" if seconds >= 8 else "steadily")
    elif event.action not in ("divide", "return"):
        side = "left side" if event.x < 26 else "right side" if event.x > 38 else "middle"
        details.append(f"{'in' if side == 'middle' else 'on'} the {side} of the {lexicon.picture}")
    length = _COUNTS[seconds] if seconds < len(_COUNTS) else "more than twenty"
    details.append(f"for {pick(rng, ('about ', ''))}{length} seconds")
    they = "they are" if event.other else "it is"
    details.append(
        pick(
            rng,
            (
                ", while the camera does not move",
                f", and then {they} gone",
                ", before the scene is empty again",
                f", and {they} easy to see",
            ),
        )
    )
    return details


def _sentence(rng, domain: str, event: Event, setting: _Setting, wanted: int) -> str:
    """A sentence of about `wanted` words, always within SENTENCE_WORDS."""
    lexicon = LEXICONS[domain]
    where, noun = pick(rng, lexicon.places[event.place])
    vp, ving = _action(rng, lexicon, event)
    size = lexicon.size if rng.random() < 0.3 else ""
    main = pick(rng, _TEMPLATES)
    words = {
        "np": _noun_phrase(rng, lexicon, event, size=size),
        "vp": vp,
        "ving": ving,
        "be": "are" if event.other else "is",
        "appear": "appear" if event.other else "appears",
        "picture": lexicon.picture,
    }
    details = _details(rng, lexicon, event)
    optional = {"time": _time(rng, setting), "scenery": pick(rng, lexicon.scenery[event.place])}
    optional |= {str(i): detail for i, detail in enumerate(details)}

    def say(chosen: list[str]) -> str:
        scenery = " " + optional["scenery"] if "scenery" in chosen else ""
        text = main.format(
            t=optional["time"] if "time" in chosen else "",
            at=where + scenery,
            noun=noun + scenery,
            **words,
        )
        return _finish(" ".join([text] + [optional[str(i)] for i in range(3) if str(i) in chosen]))

    names = list(optional)
    order = [names[i] for i in rng.permutation(len(names))]
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
