"""The configuration: from `ml_collections.ConfigDict` to checked, frozen dataclasses.

`configs/*.py` build a ConfigDict, the command line changes keys of it, `from_config_dict` checks
all of it at once and gives a `Config`, which is what every other module sees. Sections and legal
values stand in `mova_jax/config/schema.py`; keys are described where they get their values, in
`configs/base.py`.
"""

import ast
import dataclasses
import difflib
import importlib.util
import json
import math
import os
import types
import typing
from typing import Any

from ml_collections import ConfigDict

from mova_jax.config.rules import RULES
from mova_jax.config.schema import (
    CHOICES,
    FORMER,
    RANGES,
    Config,
)


class ConfigError(ValueError):
    """All that is wrong with a configuration, one line each."""

    def __init__(self, problems: list[str]):
        self.problems = problems
        lines = "\n".join(f"  - {problem}" for problem in problems)
        super().__init__(f"the configuration has {len(problems)} problem(s):\n{lines}")


def parse_argument(arg: str, **defaults) -> dict[str, Any]:
    """Parses a config's argument string, `key=value,key=value`, by the types of the defaults.

    Raises:
        ConfigError: for a key that is not among the defaults or a value of another type.
    """
    values, problems = dict(defaults), []
    for item in filter(None, arg.split(",")):
        key, _, text = item.partition("=")
        if key not in defaults:
            problems.append(f"unknown argument {key!r} in {arg!r}{_nearest(key, defaults)}")
            continue
        try:
            values[key] = type(defaults[key])(text)
        except ValueError:
            kind = type(defaults[key]).__name__
            problems.append(f"argument {key}: got {text!r}, expected {kind}")
    if problems:
        raise ConfigError(problems)
    return values


def apply(config: ConfigDict, presets: dict[str, dict[str, Any]], name: str) -> None:
    """Sets the keys that the preset of that name changes.

    Raises:
        ConfigError: when there is no such preset.
    """
    if name not in presets:
        raise ConfigError([f"unknown preset {name!r}{_nearest(name, presets)}"])
    config.update_from_flattened_dict(presets[name])


def from_config_dict(config: ConfigDict) -> Config:
    """Checks everything and freezes it.

    Raises:
        ConfigError: with all problems at once: unknown, missing and ill-typed keys, values out of
            range, fields that contradict each other.
    """
    problems: list[str] = []
    sound: dict[str, Any] = {}
    checked = _build(Config, config.to_dict(), "", sound, problems)
    problems += _check_values(sound)
    for rule in RULES:
        try:
            problems += rule(sound)
        except KeyError:
            continue  # one of its fields is missing or wrong by itself, which has been said
    if problems:
        raise ConfigError(problems)
    return checked


def section(cls, values: dict[str, Any]):
    """One section of the configuration, such as `Model`, from a dict as in JSON.

    Raises:
        ConfigError: with all keys that are unknown, missing or of another type.
    """
    problems: list[str] = []
    built = _build(cls, values, "", {}, problems)
    if problems:
        raise ConfigError(problems)
    return built


def load_file(path: str | os.PathLike):
    """The module of a config file, whose `get_config(argument)` makes the configuration."""
    spec = importlib.util.spec_from_file_location("config_file", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _build(cls, values: dict[str, Any], prefix: str, sound: dict[str, Any], problems: list[str]):
    """One dataclass from one dict, recursively.

    Values of the right type also go to `sound` by their dotted name, what is wrong to `problems`.
    """
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in hints:
            problems.append(f"unknown key {prefix}{key}{_nearest(key, hints, prefix)}")
    kwargs = {}
    defaults = {
        field.name: field.default
        for field in dataclasses.fields(cls)
        if field.default is not dataclasses.MISSING
    }
    for key, kind in hints.items():
        name = prefix + key
        if key not in values and key in defaults:
            kwargs[key] = sound[name] = defaults[key]
        elif key not in values:
            problems.append(f"missing key {name}")
        elif not dataclasses.is_dataclass(kind):
            value = _converted(values[key], kind)
            if type(value) is bool:
                value = FORMER.get(name, {}).get(value, value)
            if type(value) is kind:
                kwargs[key] = sound[name] = value
            else:
                got = f"{value!r} ({type(value).__name__})"
                problems.append(f"{name}: got {got}, expected {kind.__name__}")
        elif isinstance(values[key], dict):
            kwargs[key] = _build(kind, values[key], f"{name}.", sound, problems)
        else:
            problems.append(f"{name}: got {values[key]!r}, expected a section of keys")
    return cls(**kwargs) if len(kwargs) == len(hints) else None


def _converted(value, kind):
    """Ints pass for floats, lists for tuples; all else stays as it is."""
    if kind is float and type(value) is int:
        return float(value)
    if kind is tuple and isinstance(value, list | tuple):
        return _tuples(value)
    return value


def _tuples(value):
    """Lists within lists as tuples, so that configs from JSON compare equal."""
    return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value


def _nearest(name: str, known, prefix: str = "") -> str:
    """What the user may have meant, for the end of an error."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    hint = f"; did you mean {prefix}{close[0]}?" if close else ""
    return hint or f"; there are: {', '.join(prefix + k for k in known)}"


def _check_values(sound: dict[str, Any]) -> list[str]:
    """Fields against `CHOICES` and `RANGES`; those that fail are taken out of `sound`."""
    problems = []
    for name in list(sound):
        value, expected = sound[name], None
        if name in CHOICES and value not in CHOICES[name]:
            expected = f"one of {', '.join(CHOICES[name])}"
        elif isinstance(value, float) and not math.isfinite(value):
            expected = "a finite number"
        elif name in RANGES:
            low, high = RANGES[name]
            if value < low or (high is not None and value > high):
                expected = f"at least {low}" if high is None else f"from {low} to {high}"
        if expected:
            problems.append(f"{name}: got {value!r}, expected {expected}")
            del sound[name]
    return problems


def flatten(config: Config) -> dict[str, Any]:
    """`{'model.tmn.layout': 'select', ...}`."""
    flat = {}

    def visit(node, prefix):
        for field in dataclasses.fields(node):
            value = getattr(node, field.name)
            if dataclasses.is_dataclass(value):
                visit(value, f"{prefix}{field.name}.")
            else:
                flat[prefix + field.name] = value

    visit(config, "")
    return flat


def difference(config: Config, base: Config) -> dict[str, tuple[Any, Any]]:
    """Keys whose values differ: {name: (value in base, value in config)}."""
    new, old = flatten(config), flatten(base)
    return {name: (old[name], new[name]) for name in new if new[name] != old[name]}


def to_json(config: Config) -> str:
    """The configuration as JSON text."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(text: str) -> Config:
    """The inverse of `to_json`, with the same checks."""
    return from_config_dict(ConfigDict(json.loads(text)))


def check_overrides(config: ConfigDict, overrides: dict[str, str]) -> list[str]:
    """What is wrong with `--config.key=value` flags, all of them at once.

    Args:
        config: the configuration that they change.
        overrides: the text of each value by dotted key.

    Returns:
        One line a problem; empty when all keys exist and all values have the key's type.
    """
    known = _leaves(config.to_dict())
    problems = []
    for key, text in overrides.items():
        if key not in known:
            problems.append(f"unknown key {key}{_nearest(key, known)}")
        elif not _parses(text, known[key]):
            kind = type(known[key]).__name__
            problems.append(f"{key}: got {text!r}, expected {kind}")
    return problems


def override(config: ConfigDict, overrides: dict[str, str]) -> None:
    """Sets the keys of `--config.key=value` flags, each by the type that the key has.

    Args:
        config: is changed.
        overrides: the text of each value by dotted key, without a problem in `check_overrides`.
    """
    known = _leaves(config.to_dict())
    for key, text in overrides.items():
        match known[key]:
            case str():
                value = text
            case bool():
                value = text.lower() in ("true", "1", "")
            case float():
                value = float(ast.literal_eval(text))
            case _:
                value = ast.literal_eval(text)
        config.update_from_flattened_dict({key: value})


def _leaves(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names of the leaves of nested dicts."""
    flat = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _leaves(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _parses(text: str, like: Any) -> bool:
    """Whether a flag's text can become a value of `like`'s type."""
    match like:
        case bool():
            return text.lower() in ("true", "false", "1", "0", "")
        case str():
            return True
        case int() | float() | tuple() | types.NoneType():
            try:
                value = ast.literal_eval(text)
            except (ValueError, SyntaxError):
                return False
            allowed = (int, float) if isinstance(like, float) else (type(like),)
            return type(value) in allowed or isinstance(like, tuple)
    return False
