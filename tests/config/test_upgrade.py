"""Configurations of earlier versions are read as what they are now, or refused by name."""

import json

from configs.base import get_config
from mova_jax import config as config_lib
from mova_jax.config import from_config_dict
from tests.config.problems import problems_of


def test_a_value_of_an_earlier_version_is_read_as_what_it_is_now():
    text = config_lib.to_json(from_config_dict(get_config()))
    for old, new in ((False, "none"), (True, "full")):
        then = text.replace('"remat": "none"', f'"remat": {json.dumps(old)}')
        assert config_lib.from_json(then).model.remat == new
    assert problems_of(model__remat=1) == ["model.remat: got 1 (int), expected str"]
