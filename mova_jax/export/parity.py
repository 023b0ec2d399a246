"""Parity: the same inputs through two models, and how far their outputs are apart.

    rows = compare(open_model("runs/base"), open_model("out/pytorch"))     # export/backends.py

Outputs: `zv[b f d]` frames, `video[b d]`, `y[c l w]` token states, `zt[c d]` captions,
`logits[b c]` scaled cosines of first frames and captions, `global`, `modular` and `blend` scores
`[b c]`, the `timeline[b f]` of each video with its caption,
`scale` and `modular scale`, `soft text mask` and `soft video mask` `[b f d]` (the sigmoids). Hard
masks are compared where the soft ones are not within 1e-6 (in logits) of the threshold.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from mova_jax.weights.files import WeightsError

Outputs = dict[str, np.ndarray]
HARD_MASKS = ("text mask", "video mask")
ORDER = (
    *("zv", "video", "y", "zt", "scale", "logits", "global"),
    *("soft text mask", "soft video mask", *HARD_MASKS),
    *("modular scale", "modular", "blend", "timeline"),
)
# The slope of the sigmoid at the threshold is a quarter.
_AT_THRESHOLD = 1e-6 / 4


class Inputs(NamedTuple):
    """What goes through both models: videos and captions, as many of each."""

    frames: np.ndarray  # u8[b f H W 3]
    frame_mask: np.ndarray  # bool[b f]
    tokens: np.ndarray  # i32[b l]; start-of-text is not needed, end-of-text ends each caption
    token_mask: np.ndarray  # bool[b l]


class Sizes(NamedTuple):
    """What inputs have to look like."""

    image_size: int
    context: int  # tokens
    vocab_size: int
    end: int  # id of end-of-text

    def agree(self, other: "Sizes") -> bool:
        """Whether the same inputs go into both; a text encoder alone takes any frames."""
        images = self.image_size == other.image_size or not (self.image_size and other.image_size)
        return images and self[1:] == other[1:]


@dataclasses.dataclass(frozen=True)
class Backend:
    """A model that can be compared.

    Attributes:
        name: how it was opened, for people.
        sizes: of its inputs.
        run: inputs to named outputs.
        whole: it gives every output there is of its model; others give some.
    """

    name: str
    sizes: Sizes
    run: Callable[[Inputs], Outputs]
    whole: bool = False


class Row(NamedTuple):
    """How far an output of the second model is from that of the first."""

    output: str
    absolute: float  # largest difference
    relative: float  # the same, against the largest value of the first
    cosine: float  # of both as one vector

    def within(self, tolerance: float) -> bool:
        """Whether it agrees; what is not a number never does."""
        return self.relative <= tolerance


def draw_inputs(sizes: Sizes, *, videos: int = 4, frames: int = 3, seed: int = 0) -> Inputs:
    """Random frames, and random captions of all lengths up to the longest.

    Args:
        sizes: of the models.
        videos: and captions (b).
        frames: of a video; the last video has one less (f).
        seed: of the drawing.
    """
    rng = np.random.default_rng(seed)
    shape = (videos, frames, max(sizes.image_size, 1), max(sizes.image_size, 1), 3)
    lengths = np.linspace(2, sizes.context, videos).astype(int)
    token_mask = np.arange(sizes.context) < lengths[:, None]
    # Libraries look for the first end-of-text, so it stands nowhere else.
    words = rng.integers(0, sizes.vocab_size - 1, token_mask.shape, dtype=np.int32)
    words += words >= sizes.end
    last = np.arange(sizes.context) == lengths[:, None] - 1
    frame_mask = np.ones((videos, frames), bool)
    frame_mask[-1, -1] = frames == 1
    return Inputs(
        frames=rng.integers(0, 256, shape, dtype=np.uint8),
        frame_mask=frame_mask,
        tokens=np.where(last | ~token_mask, np.int32(sizes.end), words),
        token_mask=token_mask,
    )


def compare(first: Backend, second: Backend, inputs: Inputs | None = None) -> list[Row]:
    """Runs both models and compares what both give.

    Args:
        first: its values are the measure.
        second: of inputs of the same sizes.
        inputs: None draws them.

    Raises:
        WeightsError: the models take other inputs, or have no output in common.
    """
    if not first.sizes.agree(second.sizes):
        raise WeightsError(
            [f"{first.name} takes {first.sizes}, {second.name} takes {second.sizes}: not the same"]
        )
    sizes = first.sizes if first.sizes.image_size else second.sizes
    inputs = inputs or draw_inputs(sizes)
    one, two = first.run(inputs), second.run(inputs)
    alone = sorted(one.keys() ^ two.keys())
    if first.whole and second.whole and alone:
        raise WeightsError([f"{name} is an output of one of the two only" for name in alone])
    common = sorted(one.keys() & two.keys(), key=_place)
    if not common:
        raise WeightsError([f"{first.name} and {second.name} have no output in common"])
    return [_row(name, one, two) for name in common]


def _place(name: str) -> tuple[int, str]:
    """Outputs in the order in which a model makes them, the terms of the loss at the end."""
    return (ORDER.index(name) if name in ORDER else len(ORDER), name)


def _row(name: str, one: Mapping[str, np.ndarray], two: Mapping[str, np.ndarray]) -> Row:
    a, b = (np.asarray(outputs[name], np.float64) for outputs in (one, two))
    if a.shape != b.shape:
        return Row(f"{name} {a.shape} {b.shape}", np.inf, np.inf, 0.0)
    if name in HARD_MASKS:
        sure = np.abs(one[f"soft {name}"] - 0.5) > _AT_THRESHOLD
        a, b = a[sure], b[sure]
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return Row(name, np.inf, np.inf, 0.0)
    absolute = float(np.abs(a - b).max(initial=0.0))
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    cosine = float((a * b).sum()) / lengths if lengths else float(not absolute)
    return Row(name, absolute, absolute / max(float(np.abs(a).max(initial=0.0)), 1e-30), cosine)


def table(rows: list[Row], tolerance: float) -> str:
    """The comparison as text, a line an output."""
    lines = [f"{'output':<20}{'largest difference':>20}{'relative':>12}{'cosine':>14}"]
    for row in rows:
        verdict = "" if row.within(tolerance) else f"   above {tolerance:g}"
        lines.append(
            f"{row.output:<20}{row.absolute:>20.3g}{row.relative:>12.2e}{row.cosine:>14.9f}{verdict}"
        )
    return "\n".join(lines)
