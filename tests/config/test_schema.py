"""Every key is described once, and the description is what is checked, built and printed."""

import dataclasses
import re

import pytest

from configs.base import get_config
from mova_jax.config import KEYS, Config, describe, flatten, from_config_dict
from mova_jax.config.keys import REQUIRED
from mova_jax.config.schema import SECTIONS
from tests.config.problems import problems_of

MOST = 81  # one more than 80 for model.attention: only the user knows which chip a plan is for
# Any number or any text is legal.
FREE = {"seed", "model.masks.init_bias", "objective", "init_from", "data.source", "data.cache"}


def test_there_are_not_too_many_keys():
    assert len(KEYS) == len(flatten(Config())) <= MOST


@pytest.mark.parametrize("name", KEYS)
def test_a_key_says_all_about_itself(name):
    key = KEYS[name]
    section, _, field = name.rpartition(".")
    [annotation] = [f.type for f in dataclasses.fields(SECTIONS[section]) if f.name == field]
    assert annotation is type(key.default)
    assert key.help and not key.help.endswith(".")
    for value in {key.default, key.before} - {REQUIRED}:
        assert type(value) is type(key.default) and key.allows(value)
    if type(key.default) in (int, float, str):
        assert bool(key.legal) == (name not in FREE)


@pytest.mark.parametrize("name", [name for name, key in KEYS.items() if key.legal])
def test_only_legal_values_pass(name):
    key, kind = KEYS[name], type(KEYS[name].default)
    legal = key.choices or [kind(x) for x in (key.low, key.high) if x is not None]
    below = [] if key.low is None else [kind(key.low - 1)]
    above = [] if key.high is None else [kind(key.high + 1)]
    for value in ["other"] if key.choices else below + above:
        [problem] = [p for p in problems_of(**{name: value}) if p.startswith(f"{name}: got ")]
        assert problem == f"{name}: got {value!r}, expected {key.legal}"
    for value in legal:
        assert f"expected {key.legal}" not in "".join(problems_of(**{name: value}))


def test_the_base_recipe_is_the_schema():
    assert from_config_dict(get_config()) == Config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().model.tmn.layers = 3


def test_help_has_every_key_with_its_value_here():
    config = from_config_dict(get_config("model=b16,frames=64"))
    printed = re.findall(r"^  ([\w.]+) = (.*)\n((?:      .*\n?)+)", describe(config), re.M)
    assert {name: value for name, value, _ in printed} == {
        name: repr(value) for name, value in flatten(config).items()
    }
    for name, _, text in printed:
        text = " ".join(text.split())
        assert KEYS[name].help in text and KEYS[name].legal in text, name
