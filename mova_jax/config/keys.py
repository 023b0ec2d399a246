"""The description of one configuration key, as `schema.py` writes it in a line."""

import dataclasses
from typing import Any, NamedTuple

REQUIRED = object()  # `Key.before` of a key that every configuration must have


class Key(NamedTuple):
    """The description of one key."""

    default: Any
    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    before: Any = REQUIRED
    needs: str = ""
    is_weight: bool = False

    @property
    def legal(self) -> str:
        """The legal values in words; '' where only the type counts."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.low is None:
            return ""
        return f"at least {self.low}" if self.high is None else f"from {self.low} to {self.high}"

    def allows(self, value: Any) -> bool:
        """Whether a value of the right type is legal."""
        if self.choices:
            return value in self.choices
        return (self.low is None or self.low <= value) and (self.high is None or value <= self.high)


def key(default: Any, help: str, **limits: Any) -> Any:
    """A field that is a key.

    Args:
        default: value in the base recipe; its type is the key's type.
        help: what the key does, and its unit.
        **limits: `low` and `high` (legal bounds of a number), `choices` (of a string), and for a
            key that came later `before`: the value that does what was done before, for a
            config.json without the key.
    """
    return dataclasses.field(default=default, metadata={"key": Key(default, help, **limits)})


def weight(default: float, help: str, needs: str = "") -> Any:
    """A field that is the weight of a term of the loss; 0 leaves the term out.

    Args:
        default: value in the base recipe.
        help: what the term is.
        needs: what a model must have for the term to make sense: `masks`, `masks_or_parts` (parts
            of captions), `modular_scale` or nothing. Presets of models without it set the weight to
            0, and a rule asks for that.
    """
    description = Key(default, help, low=0.0, needs=needs, is_weight=True)
    return dataclasses.field(default=default, metadata={"key": description})
