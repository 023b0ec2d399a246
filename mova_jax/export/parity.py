"""Runs two models on the same inputs and compares their outputs.

    differences = compare(open_model("runs/base"), open_model("out/pytorch"))   # export/backends.py

Outputs: `zv[b f d]` frames, `video[b d]`, `y[c l w]` token states, `zt[c d]` captions,
`logits[b c]` scaled cosines of first frames and captions, `global`, `modular` and `blend` scores
`[b c]`, the `timeline[b f]` of each video with its caption, of a model that scores captions by
parts `part zt[c p d]` and `timeline[b p f]`,
`scale`, `modular scale` and `sharpness`, `soft text mask` and `soft video mask` `[b f d]` or
`[b p f d]` (the sigmoids). Hard masks are compared where the soft ones are not within 1e-6 (in
logits) of the threshold.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from mova_jax.data.tokenizer import PART_TOKENS
from mova_jax.weights.files import WeightsError

Outputs = dict[str, np.ndarray]
HARD_MASKS = ("text mask", "video mask")
# In the order in which a model computes them.
OUTPUTS = (
    *("zv", "video", "y", "zt", "part zt", "scale", "logits", "global"),
    *("soft text mask", "soft video mask", *HARD_MASKS),
    *("modular scale", "sharpness", "modular", "blend", "timeline"),
)
_PARTS = 3  # of a caption, at most
# The slope of the sigmoid at the threshold is a quarter.
_AT_THRESHOLD = 1e-6 / 4


class Inputs(NamedTuple):
    """Inputs of both models: the same number of videos and captions."""

    frames: np.ndarray  # u8[b f H W 3]
    frame_mask: np.ndarray  # bool[b f]
    tokens: np.ndarray  # i32[b l]; start-of-text is not needed, end-of-text ends each caption
    token_mask: np.ndarray  # bool[b l]
    part_tokens: np.ndarray  # i32[b p t]; a model that does not divide captions ignores them
    part_token_mask: np.ndarray  # bool[b p t], all False for a part that pads


class Sizes(NamedTuple):
    """Sizes that inputs must have."""

    image_size: int
    context: int  # tokens
    vocab_size: int
    end: int  # id of end-of-text

    def agree(self, other: "Sizes") -> bool:
        """Whether two models take the same inputs; a text encoder (image size 0) has no frames."""
        images = self.image_size == other.image_size or not (self.image_size and other.image_size)
        return images and self[1:] == other[1:]


@dataclasses.dataclass(frozen=True)
class Backend:
    """A model in some library that can be compared with others.

    Attributes:
        name: folder and library, for people.
        sizes: of its inputs.
        run: inputs to named outputs.
        complete: whether it gives every output of its model, or some of them.
    """

    name: str
    sizes: Sizes
    run: Callable[[Inputs], Outputs]
    complete: bool = False


class Difference(NamedTuple):
    """The difference of one output between two models."""

    output: str
    absolute: float  # largest difference
    relative: float  # the same, divided by the largest value of the first model; NaN gives inf
    cosine: float  # of the two outputs as vectors


def draw_inputs(sizes: Sizes, *, videos: int = 4, frames: int = 3, seed: int = 0) -> Inputs:
    """Random frames, random captions of all lengths up to the longest, and random parts of them.

    Args:
        sizes: of the models.
        videos: number of videos and of captions (b).
        frames: of a video (f); the last video has one less.
        seed: of the random numbers.
    """
    rng = np.random.default_rng(seed)
    shape = (videos, frames, max(sizes.image_size, 1), max(sizes.image_size, 1), 3)
    tokens, token_mask = _draw_texts(rng, sizes, np.linspace(2, sizes.context, videos))
    frame_mask = np.ones((videos, frames), bool)
    frame_mask[-1, -1] = frames == 1
    pixels = rng.integers(0, 256, shape, dtype=np.uint8)
    # The last caption has all parts, the one before one part less, ... and then all again.
    lengths = np.linspace(2, min(sizes.context, PART_TOKENS), videos * _PARTS)
    there = np.arange(_PARTS) < _PARTS - np.arange(videos)[::-1, None] % _PARTS
    parts = _draw_texts(rng, sizes, np.where(there, lengths.reshape(videos, _PARTS), 0))
    return Inputs(pixels, frame_mask, tokens, token_mask, *parts)


def _draw_texts(rng: np.random.Generator, sizes: Sizes, lengths: np.ndarray):
    """Tokens and mask `[... l]` of random texts; one of length 0 pads."""
    lengths = lengths.astype(int)[..., None]
    token_mask = np.arange(lengths.max()) < lengths
    # Libraries look for the first end-of-text, so no other token may be one.
    words = rng.integers(0, sizes.vocab_size - 1, token_mask.shape, dtype=np.int32)
    words += words >= sizes.end
    last = np.arange(lengths.max()) == lengths - 1
    return np.where(last | ~token_mask, np.int32(sizes.end), words), token_mask


def compare(
    first: Backend, second: Backend, *, videos: int = 4, frames: int = 3, seed: int = 0
) -> list[Difference]:
    """Runs both models on random inputs and compares the outputs that both have.

    Args:
        first: relative differences are relative to its values.
        second: takes inputs of the same sizes.
        videos: number of videos and of captions.
        frames: of a video.
        seed: of the random inputs.

    Raises:
        WeightsError: the models take different inputs, or have no output in common.
    """
    if not first.sizes.agree(second.sizes):
        raise WeightsError(
            [f"{first.name} takes {first.sizes}, {second.name} takes {second.sizes}: not the same"]
        )
    sizes = first.sizes if first.sizes.image_size else second.sizes
    inputs = draw_inputs(sizes, videos=videos, frames=frames, seed=seed)
    one, two = first.run(inputs), second.run(inputs)
    alone = sorted(one.keys() ^ two.keys())
    if first.complete and second.complete and alone:
        raise WeightsError([f"{name} is an output of one of the two only" for name in alone])
    common = sorted(one.keys() & two.keys(), key=OUTPUTS.index)
    if not common:
        raise WeightsError([f"{first.name} and {second.name} have no output in common"])
    return [_difference(name, one, two) for name in common]


def _difference(
    name: str, one: Mapping[str, np.ndarray], two: Mapping[str, np.ndarray]
) -> Difference:
    a, b = (np.asarray(outputs[name], np.float64) for outputs in (one, two))
    if a.shape != b.shape:
        return Difference(f"{name} {a.shape} {b.shape}", np.inf, np.inf, 0.0)
    if name in HARD_MASKS:
        away = np.abs(one[f"soft {name}"] - 0.5) > _AT_THRESHOLD
        a, b = a[away], b[away]
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return Difference(name, np.inf, np.inf, 0.0)
    absolute = float(np.abs(a - b).max(initial=0.0))
    relative = absolute / max(float(np.abs(a).max(initial=0.0)), 1e-30)
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    cosine = float((a * b).sum()) / lengths if lengths else float(not absolute)
    return Difference(name, absolute, relative, cosine)


def table(differences: list[Difference], tolerance: float) -> str:
    """The comparison as text, one line per output."""
    lines = [f"{'output':<20}{'largest difference':>20}{'relative':>12}{'cosine':>14}"]
    for name, absolute, relative, cosine in differences:
        verdict = "" if relative <= tolerance else f"   above {tolerance:g}"
        lines.append(f"{name:<20}{absolute:>20.3g}{relative:>12.2e}{cosine:>14.9f}{verdict}")
    return "\n".join(lines)
