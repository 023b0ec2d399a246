"""Logical axes of activations, which `parallel/sharding.py` gives a meaning."""

import contextlib
import contextvars
import dataclasses
from collections.abc import Callable, Iterator, Sequence

from jaxtyping import Array, Float

Axes = tuple[str | None, ...]


@dataclasses.dataclass(frozen=True)
class Rules:
    """How logical axes are sharded."""

    constrain: Callable[[Array, Axes], Array]
    # (function, arrays, the axes of each, those of the result): the function on each shard.
    run: Callable[[Callable, Sequence[Array], Sequence[Axes], Axes], Array]


_RULES: contextvars.ContextVar[Rules | None] = contextvars.ContextVar("rules", default=None)


@contextlib.contextmanager
def sharding_rules(rules: Rules) -> Iterator[None]:
    """While tracing inside, the functions of this module follow the rules."""
    token = _RULES.set(rules)
    try:
        yield
    finally:
        _RULES.reset(token)


def with_logical_constraint(x: Float[Array, "..."], *axes: str | None) -> Float[Array, "..."]:
    """Shards the axes of `x` by their logical names (None: not sharded).

    Returns `x` unchanged outside `sharding_rules`, and inside `jax.vmap`, where it has no batch
    axis.
    """
    rules = _RULES.get()
    return rules.constrain(x, axes) if rules and x.ndim == len(axes) else x


def on_shards(function: Callable, arrays: Sequence[Array], axes: Sequence[Axes], out: Axes):
    """`function(*arrays)`, shard by shard: for kernels, which the compiler cannot partition.

    Args:
        function: treats each row of a sharded axis by itself.
        arrays: its arguments.
        axes: logical axes of each.
        out: logical axes of the result.
    """
    rules = _RULES.get()
    return rules.run(function, arrays, axes, out) if rules else function(*arrays)
