"""The concepts of Storyboard videos, the splits, and the statistics of each domain.

Three domains: `story` (shapes in colourful places; the only one in training), `surveillance`
(fixed camera, small movers, little colour, long emptiness) and `science` (a dish or an arena, slow
processes).
"""

import dataclasses

SPLITS = ("train", "validation", "test", "ood_time", "ood_domain", "confusable")

COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
SUBJECTS = tuple("circle square triangle star cross ring heart arrow fish crescent".split())
PLACES = tuple(
    "meadow,beach,night sky,desert,brick wall,sea,snow,checkered floor,forest,city".split(",")
)
MOTIONS = ("left", "right", "up", "down")
ACTIONS = (*MOTIONS, "grow", "shrink", "spin", "blink", "bounce", "change", "meet")
DISTRACTOR_SHAPES = ("hexagon", "bar", "drop", "bowtie")
DISTRACTOR_COLOURS = ("black", "grey", "brown", "olive", "beige", "slate")


@dataclasses.dataclass(frozen=True)
class Style:
    """The statistics of a kind of video. Pairs are inclusive ranges, in frames or 1/64 sides."""

    domain: str = "story"
    subjects: tuple[str, ...] = SUBJECTS
    colours: tuple[str, ...] = COLOURS
    actions: tuple[str, ...] = ACTIONS
    places: tuple[str, ...] = PLACES
    frames: tuple[int, int] = (16, 48)
    events: tuple[int, int] = (2, 5)
    durations: tuple[tuple[int, int], ...] = ((4, 10),)  # one of these ranges for each event
    gaps: tuple[int, int] = (1, 5)
    edges: tuple[int, int] = (0, 4)  # before the first event, and after the last
    radius: tuple[float, float] = (10.0, 13.0)
    distractor_radius: tuple[float, float] = (4.0, 5.0)
    motions_first: float = 1.0  # > 0: moving events tend to come before the others, < 0: after
    fixed_camera: bool = False  # one place for the whole video


STORY = Style()
OOD_TIME = Style(
    frames=(60, 120),
    events=(2, 4),
    durations=((4, 5), (12, 20)),
    gaps=(10, 30),
    edges=(5, 20),
    motions_first=-1.0,
)
SURVEILLANCE = Style(
    domain="surveillance",
    subjects=("square", "circle", "triangle", "cross", "ring"),
    colours=("red", "yellow", "green", "blue", "pink"),
    actions=(*MOTIONS, "return", "meet"),
    places=("car park", "corridor", "yard", "gate"),
    frames=(60, 120),
    events=(2, 4),
    durations=((5, 10),),
    gaps=(10, 30),
    edges=(5, 20),
    radius=(5.0, 6.0),
    distractor_radius=(1.2, 1.8),
    motions_first=0.0,
    fixed_camera=True,
)
SCIENCE = Style(
    domain="science",
    subjects=("circle", "ring", "blob", "star", "crescent"),
    colours=("purple", "pink", "green", "blue", "orange"),
    actions=(*MOTIONS, "grow", "shrink", "divide", "change", "meet"),
    places=("dish", "arena"),
    frames=(48, 120),
    events=(2, 3),
    durations=((14, 28),),
    gaps=(4, 14),
    edges=(2, 10),
    radius=(6.5, 8.0),
    distractor_radius=(1.2, 2.0),
    motions_first=0.0,
    fixed_camera=True,
)
# Every subject is seen, in one colour, for as long as its event lasts: see groups.py.
CONFUSABLE = Style(
    actions=tuple(action for action in ACTIONS if action not in ("blink", "change")),
    events=(3, 5),
    durations=((4, 8),),
    motions_first=0.0,
)


def style_of(split: str, index: int) -> Style:
    """The style of video `index` of a split: `ood_domain` alternates between its two domains."""
    if split == "ood_domain":
        return (SURVEILLANCE, SCIENCE)[index % 2]
    return {"ood_time": OOD_TIME, "confusable": CONFUSABLE}.get(split, STORY)
