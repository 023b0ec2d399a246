"""Renames our parameters to those of the PyTorch model (`torch_model.py`), and back, bit for bit.

In: our arrays by name (`mova_jax.utils.trees.parameter_names`), or PyTorch's state dict as NumPy
arrays. Out: the other one. Needs no PyTorch.

    tensors = to_torch(params)                      # "vision.blocks.0.mlp.up.weight": [4w w], ...
    params, problems = from_torch(tensors, shapes)  # "vision/blocks/blocks/mlp/up/kernel": [r w 4w]

PyTorch has a dot where our names have a slash, `weight [out in]` in place of `kernel` (with all
output axes as one, and all input axes), and each of our r stacked blocks by itself.
"""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from mova_jax.weights.files import WeightsError

Shape = tuple[int, ...]

# (our name, PyTorch's, inputs). `inputs`: the number of leading axes of a kernel that are its
# input; 0 for a vector over all output axes; None for an array that stays as it is. Axes are those
# of one block. The first rule that matches the whole name counts.
RULES: tuple[tuple[str, str, int | None], ...] = (
    # Output maps of attention take heads and the width of one: [n e w].
    (r"(.+/(?:attention|tokens|readers/\d+)/out)/kernel", r"\1/weight", 2),
    (r"(.+)/kernel", r"\1/weight", 1),
    (r"(.+)/scale", r"\1/weight", 0),
    (r"(.+)/bias", r"\1/bias", 0),
    (r"(text/token_embedding)", r"\1/weight", None),
    (r"((?:vision|text|head|tmn)/positions|text/positions_frozen)", r"\1", None),
    (r"(vision/class_embedding|logit_scale|modular_logit_scale|log_sharpness)", r"\1", None),
)
_STACKED = re.compile(r"(.*blocks)/blocks/")
# A decoder block's attention over frames is what other blocks call `attention`.
_OVER_FRAMES = re.compile(r"(tmn/blocks/\d+)/(norm_)?frames/")


class _Place(NamedTuple):
    """Where a parameter of ours is in the PyTorch model."""

    names: tuple[str, ...]  # one, or one per block
    shape: Shape  # ours, of one block
    inputs: int | None  # as in `RULES`
    stacked: bool

    @property
    def torch_shape(self) -> Shape:
        """Shape of each tensor."""
        if self.inputs is None:
            return self.shape
        if not self.inputs:
            return (math.prod(self.shape),)
        return math.prod(self.shape[self.inputs :]), math.prod(self.shape[: self.inputs])


def to_torch(params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """PyTorch's state dict, as copies.

    Args:
        params: our arrays by name.

    Raises:
        WeightsError: with every name that has no place in the PyTorch model.
    """
    tensors, problems = {}, []
    for name, array in params.items():
        place = _place(name, np.shape(array), problems)
        if place is None:
            continue
        for torch_name, one in zip(place.names, array if place.stacked else [array], strict=True):
            if place.inputs:  # [in... out...] -> [in out] -> [out in]
                one = np.reshape(one, place.torch_shape[::-1]).T
            tensors[torch_name] = np.array(np.reshape(one, place.torch_shape), order="C")
    if problems:
        raise WeightsError(problems)
    return tensors


def from_torch(
    tensors: Mapping[str, np.ndarray], like: Mapping[str, Shape]
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Our arrays from PyTorch's state dict, as float32 copies.

    Args:
        tensors: PyTorch's arrays by name.
        like: shapes of our parameters by name.

    Returns:
        The arrays whose tensors are there and fit, and a line for every tensor that is missing, not
        expected, or of another shape.
    """
    params, problems, used = {}, [], set()
    for name, shape in like.items():
        place = _place(name, shape, problems)
        if place is None:
            continue
        used |= set(place.names)
        faults = [_fault(tensors, torch_name, place.torch_shape) for torch_name in place.names]
        if any(faults):
            problems += filter(None, faults)
            continue
        parts = [np.asarray(tensors[torch_name], np.float32) for torch_name in place.names]
        parts = [np.reshape(one.T if place.inputs else one, place.shape) for one in parts]
        params[name] = np.stack(parts) if place.stacked else np.array(parts[0], order="C")
    return params, problems + [f"{name}: not expected" for name in sorted(set(tensors) - used)]


def _place(name: str, shape: Shape, problems: list[str]) -> _Place | None:
    """The place of a parameter; where there is none, None and one more line in `problems`."""
    # The braces become the number of the block.
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
        torch_name = match.expand(replacement).replace("/", ".")
        names = tuple(torch_name.format(i) for i in range(shape[0] if stacked else 1))
        return _Place(names, tuple(shape[stacked:]), inputs, bool(stacked))
    problems.append(f"{name}: has no place in the PyTorch model (RULES in weights/torch_names.py)")
    return None


def _fault(tensors: Mapping[str, np.ndarray], name: str, shape: Shape) -> str | None:
    """The problem with a tensor, None where there is none."""
    if name not in tensors:
        return f"{name}: missing"
    got = tuple(np.shape(tensors[name]))
    return None if got == shape else f"{name}: got shape {list(got)}, expected {list(shape)}"
