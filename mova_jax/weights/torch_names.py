"""Our parameters as those of the PyTorch twin (`torch_model.py`), and back, bit for bit.

In: our flat dict of arrays by name (`mova_jax.training.optim.parameter_names`), or the twin's state
dict as NumPy arrays. Out: the other one. No PyTorch is needed for it.

    tensors = to_torch(params)            # "vision.blocks.0.attention.qkv.weight": [3w w], ...
    params = from_torch(tensors, shapes)  # "vision/blocks/blocks/attention/qkv/kernel": [r w 3 n e]

The twin has a dot where our names have a slash, `weight [out in]` in place of `kernel`, with the
axes of each side laid together, and each of our r stacked blocks by itself.
"""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from mova_jax.weights.files import WeightsError

Shape = tuple[int, ...]

# (our name, the twin's, its axes): how many leading axes of a kernel are its input; 0 for a vector
# over all output axes; None for what the twin keeps as it is. The axes are those of one block. The
# first rule that fits the whole name counts.
RULES: tuple[tuple[str, str, int | None], ...] = (
    # Ways out of attention take heads and the width of one: [n e w].
    (r"(.+/(?:attention|tokens|readers/\d+)/out)/kernel", r"\1/weight", 2),
    (r"(.+)/kernel", r"\1/weight", 1),
    (r"(.+)/scale", r"\1/weight", 0),
    (r"(.+)/bias", r"\1/bias", 0),
    (r"(text/token_embedding)", r"\1/weight", None),
    (r"((?:vision|text|head|tmn)/positions|text/positions_frozen)", r"\1", None),
    (r"(vision/class_embedding|logit_scale|modular_logit_scale)", r"\1", None),
)
_STACKED = re.compile(r"(.*blocks)/blocks/")
# A decoder block's attention over frames is where all other blocks have theirs.
_OVER_FRAMES = re.compile(r"(tmn/blocks/\d+)/(norm_)?frames/")


class _Place(NamedTuple):
    """Where a parameter of ours is in the twin."""

    names: tuple[str, ...]  # one, or one a block
    shape: Shape  # ours, of one block
    inputs: int | None  # as in `RULES`
    stacked: bool

    @property
    def twin_shape(self) -> Shape:
        """Of each name."""
        if self.inputs is None:
            return self.shape
        if not self.inputs:
            return (math.prod(self.shape),)
        return math.prod(self.shape[self.inputs :]), math.prod(self.shape[: self.inputs])


def to_torch(params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The twin's state dict, as copies.

    Args:
        params: our arrays by name.

    Raises:
        WeightsError: with every name that has no place in the twin.
    """
    tensors, problems = {}, []
    for name, array in params.items():
        place = _place(name, np.shape(array), problems)
        if place is None:
            continue
        for twin_name, one in zip(place.names, array if place.stacked else [array], strict=True):
            if place.inputs:  # [in... out...] -> [in out] -> [out in]
                one = np.reshape(one, place.twin_shape[::-1]).T
            tensors[twin_name] = np.array(np.reshape(one, place.twin_shape), order="C")
    if problems:
        raise WeightsError(problems)
    return tensors


def from_torch(
    tensors: Mapping[str, np.ndarray], like: Mapping[str, Shape]
) -> dict[str, np.ndarray]:
    """Our arrays from the twin's state dict, as float32 copies.

    Args:
        tensors: the twin's arrays by name.
        like: the shapes of our parameters by name; all of them are wanted, and nothing else.

    Raises:
        WeightsError: with every tensor that is missing, unexpected, or of another shape.
    """
    params, problems, used = {}, [], set()
    for name, shape in like.items():
        place = _place(name, shape, problems)
        if place is None:
            continue
        used |= set(place.names)
        faults = [_fault(tensors, twin_name, place.twin_shape) for twin_name in place.names]
        if any(faults):
            problems += filter(None, faults)
            continue
        parts = [np.asarray(tensors[twin_name], np.float32) for twin_name in place.names]
        parts = [np.reshape(one.T if place.inputs else one, place.shape) for one in parts]
        params[name] = np.stack(parts) if place.stacked else np.array(parts[0], order="C")
    problems += [f"{name}: not expected" for name in tensors if name not in used]
    if problems:
        raise WeightsError(problems)
    return params


def _place(name: str, shape: Shape, problems: list[str]) -> _Place | None:
    """The place of a parameter; None, and a line more in `problems`, where there is none."""
    # A stack's names get their block's number in place of the braces.
    unstacked, stacked = _STACKED.subn(r"\1/{}/", name, count=1)
    unstacked = _OVER_FRAMES.sub(r"\1/\2attention/", unstacked)
    for pattern, replacement, inputs in RULES:
        match = re.fullmatch(pattern, unstacked)
        if not match:
            continue
        needed = stacked + (inputs + 1 if inputs else 0)
        if len(shape) < needed:
            problems.append(f"{name}: got shape {list(shape)}, expected {needed} axes or more")
            return None
        twin_name = match.expand(replacement).replace("/", ".")
        names = tuple(twin_name.format(i) for i in range(shape[0] if stacked else 1))
        return _Place(names, tuple(shape[stacked:]), inputs, bool(stacked))
    problems.append(f"{name}: has no place in the PyTorch model (RULES in weights/torch_names.py)")
    return None


def _fault(tensors: Mapping[str, np.ndarray], name: str, shape: Shape) -> str | None:
    """What is wrong with a tensor of the twin."""
    if name not in tensors:
        return f"{name}: missing"
    got = tuple(np.shape(tensors[name]))
    return None if got == shape else f"{name}: got shape {list(got)}, expected {list(shape)}"
