"""Configurations of earlier versions are read as what they are now, or refused by name."""

import functools
import json

import pytest

from configs.base import get_config
from mova_jax import config as config_lib
from mova_jax.config import KEYS, ConfigError, Model, flatten, from_config_dict
from mova_jax.config.keys import REQUIRED
from mova_jax.config.upgrade import ANY, DROPPED
from tests.config.problems import problems_of

PAPER = from_config_dict(get_config("objective=paper"))


def test_a_value_of_an_earlier_version_is_read_as_what_it_is_now():
    text = config_lib.to_json(from_config_dict(get_config()))
    for old, new in ((False, "none"), (True, "full")):
        then = text.replace('"remat": "none"', f'"remat": {json.dumps(old)}')
        assert config_lib.from_json(then).model.remat == new
    assert problems_of(model__remat=1) == ["model.remat: got 1 (int), expected str"]


def old(**changes):
    """A configuration that has every dropped key, with the value that the code has."""
    values = json.loads(config_lib.to_json(PAPER))
    for name, dropped in DROPPED.items():
        *path, key = name.split(".")
        value = 3 if dropped.same_as else 7 if dropped.value is ANY else dropped.value
        section = functools.reduce(dict.get, path, values)
        section[key] = changes.get(name, value)
    return values


def test_an_old_configuration_with_dropped_keys_at_their_constants_is_read():
    assert config_lib.from_json(json.dumps(old())) == PAPER
    assert config_lib.section(Model, old()["model"]) == PAPER.model


@pytest.mark.parametrize("name", [name for name, made in DROPPED.items() if made.value is not ANY])
def test_another_value_of_a_dropped_key_is_refused_by_name(name):
    with pytest.raises(ConfigError) as error:
        config_lib.from_json(json.dumps(old(**{name: 5})))
    [problem] = error.value.problems
    assert problem.startswith(f"{name}: got 5, but it is no key any more and always ")
    assert str(DROPPED[name]) in problem and "remove it" in problem


def test_a_configuration_from_before_a_key_has_what_was_done_then():
    values, later = old(), {n: k.before for n, k in KEYS.items() if k.before is not REQUIRED}
    for name in later:
        *path, key = name.split(".")
        del functools.reduce(dict.get, path, values)[key]
    assert later.items() <= flatten(config_lib.from_json(json.dumps(values))).items()


def test_a_dropped_key_that_was_not_read_may_have_any_value():
    values = old(**{"model.head_layers": 1})
    values["model"]["global_head"] = "mean"
    assert config_lib.from_json(json.dumps(values)).model.global_head == "mean"


def test_flags_name_the_value_of_a_dropped_key():
    with pytest.raises(ConfigError) as error:
        config_lib.parse_overrides({"optim.b1": "0.9", "model.tmn.heads": "3"})
    assert error.value.problems == [
        "optim.b1 is no key any more: it is always 0.9",
        "model.tmn.heads is no key any more: it is always the value of model.text.heads",
    ]
