"""Takes tensors of another layout one by one, and reports what happened to each.

In: arrays by their names, a table of `clip_names.py`. Out: arrays by our names. Problems are
collected in the report, so that one error can list all of them.
"""

import collections
import dataclasses
import re
from collections.abc import Mapping

import numpy as np

from mova_jax.weights import clip_names
from mova_jax.weights.clip_names import Shape

# Buffers of these models that say nothing that the shapes do not say.
HARMLESS = re.compile(r"(.*\.)?(position_ids|attn_mask|input_resolution|context_length|vocab_size)")


@dataclasses.dataclass
class Report:
    """The report of a conversion."""

    layout: str
    changes: list[str] = dataclasses.field(default_factory=list)  # one line each, for people
    ignored: list[str] = dataclasses.field(default_factory=list)  # their names that are not needed
    initial: list[str] = dataclasses.field(default_factory=list)  # our names without a tensor
    problems: list[str] = dataclasses.field(default_factory=list)  # refused by `strict`

    def lines(self) -> list[str]:
        """The report as text, one line per item."""
        lines = [f"layout: {self.layout}", *self.changes]
        if self.initial:
            # By module: a mask network has dozens of parameters.
            modules = collections.Counter(name.split("/")[0] for name in self.initial)
            counted = [f"{name} ({count})" for name, count in modules.items()]
            lines.append(f"parameters that keep their initial values: {', '.join(counted)}")
        return lines + [f"problem: {problem}" for problem in self.problems]


class TensorReader:
    """Tensors that are taken one by one; problems go to the report."""

    def __init__(self, tensors: Mapping[str, np.ndarray], report: Report):
        """Starts with all tensors of a file, by their names."""
        self.remaining = dict(tensors)
        self.report = report

    def take(self, name: str, shape: Shape, ours: str) -> np.ndarray | None:
        """A tensor as float32; None where it is missing or wrong.

        Args:
            name: of the tensor.
            shape: expected; -1 matches any length.
            ours: the parameter that it is for, for the report.
        """
        value = self.remaining.pop(name, None)
        if value is None:
            self.report.problems.append(f"missing {name} {_text(shape)}, for {ours}")
            return None
        if shape == () and value.shape == (1,):  # open_clip can give its scale an axis
            value = value.reshape(())
        fits = len(shape) == value.ndim and all(
            wanted in (-1, length) for wanted, length in zip(shape, value.shape, strict=True)
        )
        if not fits or not np.issubdtype(value.dtype, np.floating):
            self.report.problems.append(
                f"{name}: got {_text(value.shape)} of {value.dtype}, expected {_text(shape)} of "
                f"floats for {ours}"
            )
            return None
        return value.astype(np.float32, copy=False)

    def take_table(
        self, table: clip_names.Table, like: Mapping[str, Shape]
    ) -> dict[str, np.ndarray]:
        """All parameters that a table names, except those with a missing or wrong tensor.

        Args:
            table: of the layout.
            like: shapes of our parameters by name.
        """
        params: dict[str, np.ndarray] = {}
        incomplete = set()
        for ours, index, theirs, kind in clip_names.parameter_slices(table, like):
            shape = clip_names.slice_shape(like[ours], index)
            value = self.take(theirs, kind.shape(shape), ours)
            if value is None:
                incomplete.add(ours)
                continue
            if ours not in params:
                params[ours] = np.empty(like[ours], np.float32)
            params[ours][index] = kind.ours(value, shape)
        return {name: value for name, value in params.items() if name not in incomplete}

    def ignore(self, prefix: str) -> None:
        """Leaves out all tensors whose names start with the prefix."""
        names = sorted(name for name in self.remaining if name.startswith(prefix))
        self.report.ignored += names
        for name in names:
            del self.remaining[name]

    def finish(self) -> None:
        """Reports the remaining tensors as ignored or as unexpected."""
        for name in sorted(self.remaining):
            if HARMLESS.fullmatch(name):
                self.report.ignored.append(name)
            else:
                shape = _text(self.remaining[name].shape)
                self.report.problems.append(f"unexpected {name} {shape}")


def _text(shape: Shape) -> str:
    """`[768, 3, 16, 16]`."""
    return f"[{', '.join('any' if length < 0 else str(length) for length in shape)}]"
