"""The closed vocabulary of Storyboard's captions: one or two synonyms a concept, by domain."""

import dataclasses

from mova_jax.data.storyboard.concepts import MOTIONS

# Finite verb and participle, for one subject; those of `meet` for two.
Phrases = tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Lexicon:
    """The words of a domain."""

    subjects: dict[str, tuple[str, ...]]
    places: dict[str, tuple[tuple[str, str], ...]]  # (where, the place as a noun)
    scenery: dict[str, tuple[str, ...]]  # goes after the place
    actions: dict[str, Phrases]
    picture: str  # the word for the picture
    size: str = ""  # of the subjects, in some of the sentences


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
        "snow": ("under a cold sky", "where white flakes lie about"),
        "checkered floor": ("with light and dark fields", "laid out in light and dark grey"),
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
