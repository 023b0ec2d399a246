"""The configuration: from `ml_collections.ConfigDict` to checked, frozen dataclasses.

`configs/*.py` build a ConfigDict from `defaults()`, the command line changes keys of it,
`from_config_dict` checks everything at once and returns a `Config`, which is what every other
module sees. Keys and their legal values are described in `mova_jax/config/schema.py`.
"""

import dataclasses
import json
import math
from typing import Any

from ml_collections import ConfigDict

from mova_jax.config.errors import ConfigError, nearest
from mova_jax.config.keys import REQUIRED
from mova_jax.config.rules import RULES
from mova_jax.config.schema import KEYS, SECTIONS, Config
from mova_jax.config.upgrade import upgrade
from mova_jax.utils.text_files import parse_json


def defaults() -> ConfigDict:
    """The base recipe with the tiny model: every key at its default."""
    return ConfigDict(dataclasses.asdict(Config()))


def apply(config: ConfigDict, presets: dict[str, dict[str, Any]], name: str) -> None:
    """Sets the keys that the preset of that name changes.

    Raises:
        ConfigError: when there is no such preset.
    """
    if name not in presets:
        raise ConfigError([f"unknown preset {name!r}{nearest(name, presets)}"])
    config.update_from_flattened_dict(presets[name])


def from_config_dict(config: ConfigDict) -> Config:
    """Checks everything and freezes it.

    Raises:
        ConfigError: with all problems at once: unknown, missing and ill-typed keys, values out of
            range, fields that contradict each other.
    """
    return _checked(Config, config.to_dict())


def section(cls, values: dict[str, Any]):
    """One section of the configuration, such as `Model`, from a dict as in JSON.

    Raises:
        ConfigError: with all keys that are unknown, missing, of another type or out of range.
    """
    return _checked(cls, values)


def _checked(cls, values: dict[str, Any]):
    prefix = next(f"{name}." if name else "" for name, c in SECTIONS.items() if c is cls)
    values, problems = upgrade(values, prefix)
    sound: dict[str, Any] = {}
    built = _build(cls, values, prefix, sound, problems)
    problems += _out_of_range(sound)
    for rule in RULES:
        try:
            problems += rule(sound)
        except KeyError:
            continue  # a key of it is in another section, or has a problem of its own
    if problems:
        raise ConfigError(problems)
    return built


def _build(cls, values: dict[str, Any], prefix: str, sound: dict[str, Any], problems: list[str]):
    """One dataclass from one dict, recursively; None when something is wrong.

    Values of the right type also go to `sound` by their dotted name, problems to `problems`.
    """
    fields = [field.name for field in dataclasses.fields(cls)]
    for name in values:
        if name not in fields:
            problems.append(f"unknown key {prefix}{name}{nearest(name, fields, prefix)}")
    kwargs = {}
    for field in fields:
        name = prefix + field
        known = KEYS.get(name)
        if field not in values and _came_later(name):
            kwargs[field] = _build(SECTIONS[name], {}, f"{name}.", sound, problems)
        elif field not in values and (known is None or known.before is REQUIRED):
            problems.append(f"missing key {name}")
        elif field not in values:
            kwargs[field] = sound[name] = known.before
        elif known:
            value, kind = converted(values[field], type(known.default)), type(known.default)
            if type(value) is kind:
                kwargs[field] = sound[name] = value
            else:
                got = f"{value!r} ({type(value).__name__})"
                problems.append(f"{name}: got {got}, expected {kind.__name__}")
        elif isinstance(values[field], dict):
            kwargs[field] = _build(SECTIONS[name], values[field], f"{name}.", sound, problems)
        else:
            problems.append(f"{name}: got {values[field]!r}, expected a section of keys")
    return cls(**kwargs) if len(kwargs) == len(fields) else None


def _came_later(section: str) -> bool:
    """Whether all keys of a section came later, so that a configuration need not have it."""
    keys = [known for name, known in KEYS.items() if name.startswith(f"{section}.")]
    return bool(keys) and all(known.before is not REQUIRED for known in keys)


def converted(value: Any, kind: type) -> Any:
    """A float from an int and a tuple from a list; every other value stays as it is."""
    if kind is float and type(value) is int:
        return float(value)
    if kind is tuple and isinstance(value, list | tuple):
        return _tuples(value)
    return value


def _tuples(value):
    """Lists within lists as tuples, so that configs from JSON compare equal."""
    return tuple(_tuples(v) for v in value) if isinstance(value, list | tuple) else value


def _out_of_range(sound: dict[str, Any]) -> list[str]:
    """Problems of illegal values, which are taken out of `sound`."""
    problems = []
    for name, value in list(sound.items()):
        if isinstance(value, float) and not math.isfinite(value):
            expected = "a finite number"
        elif not KEYS[name].allows(value):
            expected = KEYS[name].legal
        else:
            continue
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
    return from_config_dict(ConfigDict(parse_json(text)))
