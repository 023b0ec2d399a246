"""Counts the FLOPs of a program in its jaxpr, including scans and rematerialisation.

The compiler counts the body of a scan once. Here a scan counts as often as it runs, recomputation
in the backward pass counts again, and dead code is left out. Only matrix products and convolutions
count, at 2 FLOPs for a multiply-add; all other operations are bound by memory and show up in the
bytes.
"""

import collections
import dataclasses
import math
import re
from typing import Any

import jax
from jax.interpreters import partial_eval

# (scopes, part): an operation counts under the first part one of whose scopes is in its name.
PARTS = (
    ("tmn", "tmn"),
    ("cmn", "cmn"),
    ("modular_losses", "modular_losses"),
    ("global_loss", "global_loss"),
    ("global_head", "global_head"),
    ("vision_tower", "vision"),
    ("text_tower", "text"),
    ("optimizer", "optimizer"),
)
# How often the time of a bfloat16 product a float32 product takes, by precision. TPUs multiply
# bfloat16 in several passes. GPUs take TF32 at half the rate unless asked for more, then their
# float32 units (H100 67 of 989 TFLOP/s, A100 19.5 of 312).
TPU_PASSES = {"DEFAULT": 1, "HIGH": 3, "HIGHEST": 6}
GPU_PASSES = {"DEFAULT": 2, "HIGH": 3, "HIGHEST": 16}


@dataclasses.dataclass
class Count:
    """FLOPs of one call, over all devices."""

    flops: dict[str, float]  # by part
    passes: float  # FLOPs of the matrix units, where float32 at high precision costs several
    loops: int  # `while` loops, whose trip count depends on the data
    costs: dict[str, int]  # `TPU_PASSES` or `GPU_PASSES`

    @property
    def total(self) -> float:
        """FLOPs of all parts."""
        return sum(self.flops.values())


def part_of(names: str) -> str:
    """The part of the method that an operation belongs to, by its named scopes."""
    for scopes, part in PARTS:
        if re.search(rf"\b({scopes})\b", names):
            return part
    return "other"


def count(
    traced: jax.stages.Traced, trips: float = 1.0, costs: dict[str, int] = TPU_PASSES
) -> Count:
    """Counts the FLOPs of a traced function.

    Args:
        traced: `jax.jit(f).trace(...)`.
        trips: how often the body of each `while` loop counts.
        costs: passes of a float32 product, by its precision.
    """
    closed = traced.jaxpr
    jaxpr, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    found = Count(collections.defaultdict(float), 0.0, 0, costs)
    _walk(jaxpr, "", 1.0, found, trips)
    found.flops = dict(found.flops)
    return found


def _walk(jaxpr: Any, scope: str, times: float, found: Count, trips: float) -> None:
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        names = f"{scope}/{equation.source_info.name_stack}"
        if name in _PRODUCTS:
            flops = times * _PRODUCTS[name](equation)
            found.flops[part_of(names)] += flops
            found.passes += flops * _passes(equation, found.costs)
            continue
        repeats = times
        if name == "scan":
            repeats *= equation.params["length"]
        elif name == "pallas_call":
            repeats *= math.prod(equation.params["grid_mapping"].grid)
        elif name == "while":
            found.loops += 1
            repeats *= trips
        elif name == "shard_map":
            repeats *= _replicas(equation.params)
        elif name == "cond":
            _walk_largest(equation.params["branches"], names, repeats, found, trips)
            continue
        for inner in _jaxprs(equation.params):
            _walk(inner, names, repeats, found, trips)


def _walk_largest(branches, names: str, times: float, found: Count, trips: float) -> None:
    """Counts the most expensive branch of a conditional, since only one runs."""
    counts = []
    for branch in branches:
        counts.append(Count(collections.defaultdict(float), 0.0, 0, found.costs))
        _walk(branch.jaxpr, names, times, counts[-1], trips)
    largest = max(counts, key=lambda c: c.total)
    for part, flops in largest.flops.items():
        found.flops[part] += flops
    found.passes += largest.passes
    found.loops += largest.loops


def _jaxprs(params: dict[str, Any]):
    """The jaxprs among an equation's parameters."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(item, "jaxpr", item)
            if hasattr(inner, "eqns"):
                yield inner


def _replicas(params: dict[str, Any]) -> int:
    """How many devices run the body of a `shard_map`, each on its own part."""
    sizes = dict(params["mesh"].shape)
    return math.prod(sizes[axis] for axis in params.get("newly_manual_axes") or sizes)


def _dot(equation: Any) -> float:
    (contracting, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2.0 * equation.outvars[0].aval.size * math.prod(left[i] for i in contracting)


def _convolution(equation: Any) -> float:
    numbers = equation.params["dimension_numbers"]
    kernel = equation.invars[1].aval
    return 2.0 * equation.outvars[0].aval.size * kernel.size / kernel.shape[numbers.rhs_spec[0]]


def _cudnn(products: int):
    """Attention by cuDNN: so many products of all queries `[b q n e]` with all keys `[b l n e]`."""
    return lambda equation: (
        2.0 * products * equation.invars[0].aval.size * equation.invars[1].aval.shape[1]
    )


_PRODUCTS = {
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    "dot_product_attention_fwd_wrapper": _cudnn(2),
    "dot_product_attention_bwd_wrapper": _cudnn(5),  # the logits once more
}


def _passes(equation: Any, costs: dict[str, int]) -> int:
    """How many bfloat16 products a product takes."""
    if equation.invars[0].aval.dtype != "float32":
        return 1
    precision = equation.params.get("precision")
    both = precision if isinstance(precision, tuple) else (precision,)
    return max(costs[getattr(one, "name", "DEFAULT")] for one in both)
