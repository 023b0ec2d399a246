"""A configuration is checked whole: all problems at once, and nothing wrong passes."""

from pathlib import Path

import pytest

from configs.base import get_config
from mova_jax import config as config_lib
from mova_jax.config import ConfigError, Model, from_config_dict
from tests.config.problems import problems_of


def test_all_problems_are_reported_at_once():
    config = get_config()
    with config.unlocked(), config.ignore_type():
        config.model.tmn.layot = "select"  # unknown
        config.losses.margim = 0.1  # unknown
        config.optim.learning_rate = "fast"  # another type
        config.model.cmn.sees_frame = 1  # an int is no bool
        config.model.dtype = "float16"  # no choice
        config.losses.margin = 3.0  # out of range
        config.model.vision.image_size = 60  # contradicts the patch size
        config.train.batch_size = 8
        config.losses.hard_pairs = 8  # contradicts the batch size
        config.losses.dfsm_masks = "none"
        del config.seed  # missing
    with pytest.raises(ConfigError) as error:
        from_config_dict(config)
    assert sorted(error.value.problems) == sorted(
        [
            "unknown key model.tmn.layot; did you mean model.tmn.layout?",
            "unknown key losses.margim; did you mean losses.margin?",
            "optim.learning_rate: got 'fast' (str), expected float",
            "model.cmn.sees_frame: got 1 (int), expected bool",
            "model.dtype: got 'float16', expected one of float32, bfloat16",
            "losses.margin: got 3.0, expected from -1.0 to 2.0",
            "model.vision.image_size 60 is not a multiple of model.vision.patch_size 16",
            "losses.hard_pairs 8 must be under train.batch_size 8",
            "missing key seed",
        ]
    )
    assert str(error.value).startswith("the configuration has 9 problem(s):\n  - ")


def test_an_unknown_key_like_no_other_lists_the_keys():
    assert problems_of(mesh__qqqq=1) == [
        "unknown key mesh.qqqq; there are: mesh.data, mesh.fsdp, mesh.tensor"
    ]
    assert problems_of(model__text="big") == ["model.text: got 'big', expected a section of keys"]


def test_json_brings_the_same_configuration_back():
    config = from_config_dict(get_config("model=l14,objective=paper,frames=64,batch=256"))
    again = config_lib.from_json(config_lib.to_json(config))
    assert again == config and hash(again) == hash(config)
    whole = config_lib.to_json(config).replace('"frame": 1.0', '"frame": 1')
    assert type(config_lib.from_json(whole).losses.frame) is float
    text = config_lib.to_json(config).replace('"layout": "cross"', '"layout": "crossed"')
    with pytest.raises(ConfigError, match=r"model\.tmn\.layout: got 'crossed'"):
        config_lib.from_json(text)


def test_a_section_that_came_later_may_be_missing_and_others_not():
    made = get_config()
    del made["log"]
    assert from_config_dict(made).log.tracker == "none"
    del made["mesh"]
    with pytest.raises(ConfigError, match="missing key mesh"):
        from_config_dict(made)
    golden = Path(__file__).parent.parent / "golden" / "0.1.0" / "config.json"
    assert config_lib.from_json(golden.read_text()).log.tracker == "none"


def test_a_section_is_checked_like_the_whole():
    made = get_config("model=b16").model.to_dict()
    assert config_lib.section(Model, made) == from_config_dict(get_config("model=b16")).model
    made["text"] |= {"width": 500, "layers": 0}
    del made["dtype"]
    with pytest.raises(ConfigError) as error:
        config_lib.section(Model, made)
    assert error.value.problems[:3] == [
        "missing key model.dtype",
        "model.text.layers: got 0, expected at least 1",
        "model.text.heads: 8 heads do not divide model.text.width 500",
    ]
