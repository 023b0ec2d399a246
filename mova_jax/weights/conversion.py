"""Tensors being taken from another layout, and the report of what happened to them.

In: arrays by their names, a table of `clip.py`. Out: arrays by our names; problems are gathered in
the report, so that all of them can be said at once.
"""

import collections
import dataclasses
import re
from collections.abc import Mapping

import numpy as np

from mova_jax.weights import clip_names
from mova_jax.weights.clip_names import Shape

# Buffers of these models that say nothing the shapes do not say.
HARMLESS = re.compile(r"(.*\.)?(position_ids|attn_mask|input_resolution|context_length|vocab_size)")


@dataclasses.dataclass
class Report:
    """What happened to weights that were read."""

    layout: str
    changed: list[str] = dataclasses.field(default_factory=list)  # one line each, for people
    ignored: list[str] = dataclasses.field(default_factory=list)  # their names that are not needed
    kept: list[str] = dataclasses.field(default_factory=list)  # our names with their initial values
    problems: list[str] = dataclasses.field(default_factory=list)  # what `strict` refuses

    def lines(self) -> list[str]:
        """The report as text, a line for each thing."""
        lines = [f"layout: {self.layout}", *self.changed]
        if self.kept:
            # By module: a mask network has dozens of parameters.
            modules = collections.Counter(name.split("/")[0] for name in self.kept)
            counted = [f"{name} ({count})" for name, count in modules.items()]
            lines.append(f"parameters that keep their initial values: {', '.join(counted)}")
        return lines + [f"problem: {problem}" for problem in self.problems]


class TensorReader:
    """Tensors that are taken one by one; what is wrong with them goes to the report."""

    def __init__(self, tensors: Mapping[str, np.ndarray], report: Report):
        """Begins with all tensors by their names."""
        self.left = dict(tensors)
        self.report = report

    def take(self, name: str, shape: Shape, ours: str) -> np.ndarray | None:
        """A tensor as float32, None where it is missing or wrong.

        Args:
            name: of theirs.
            shape: expected; -1 stands for any length.
            ours: what it is for, for the report.
        """
        value = self.left.pop(name, None)
        if value is None:
            self.report.problems.append(f"missing {name} {_text(shape)}, for {ours}")
            return None
        if shape == () and value.shape == (1,):  # open_clip can keep its scale so
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

    def copy(self, table: clip_names.Table, like: Mapping[str, Shape]) -> dict[str, np.ndarray]:
        """All parameters of ours that a table names; one of which a part is wrong is left out.

        Args:
            table: of the layout.
            like: shapes of our parameters by name.
        """
        ours: dict[str, np.ndarray] = {}
        broken = set()
        for piece in clip_names.pieces(table, like):
            shape = clip_names.part_shape(like[piece.ours], piece.index)
            value = self.take(piece.theirs, piece.kind.shape(shape), piece.ours)
            if value is None:
                broken.add(piece.ours)
                continue
            if piece.ours not in ours:
                ours[piece.ours] = np.empty(like[piece.ours], np.float32)
            ours[piece.ours][piece.index] = piece.kind.ours(value, shape)
        return {name: value for name, value in ours.items() if name not in broken}

    def drop(self, prefix: str) -> None:
        """Leaves out all tensors whose names begin so, as not needed."""
        names = sorted(name for name in self.left if name.startswith(prefix))
        self.report.ignored += names
        for name in names:
            del self.left[name]

    def finish(self) -> None:
        """Whatever was not taken is harmless or unexpected."""
        for name in sorted(self.left):
            if HARMLESS.fullmatch(name):
                self.report.ignored.append(name)
            else:
                shape = _text(self.left[name].shape)
                self.report.problems.append(f"unexpected {name} {shape}")


def _text(shape: Shape) -> str:
    """`[768, 3, 16, 16]`."""
    return f"[{', '.join('any' if length < 0 else str(length) for length in shape)}]"
