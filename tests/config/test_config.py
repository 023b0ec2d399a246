"""Configurations: everything that is wrong is said at once, and nothing else passes."""

import dataclasses
import json

import pytest

from configs.base import get_config
from mova_jax import config as config_lib
from mova_jax.config import ConfigError, difference, flatten, from_config_dict


def problems_of(**changes):
    """What is wrong with the base configuration after changes (`model__dtype=...`)."""
    config = get_config()
    with config.unlocked(), config.ignore_type():
        for name, value in changes.items():
            config.update_from_flattened_dict({name.replace("__", "."): value})
    try:
        from_config_dict(config)
    except ConfigError as error:
        return error.problems
    return []


def test_base_is_valid_frozen_and_small():
    config = from_config_dict(get_config())
    assert problems_of() == []
    assert len(flatten(config)) <= 92
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.model.tmn.layers = 3


def test_everything_wrong_is_said_at_once():
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
        config.losses.dfsm_masks = "own"
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


def test_a_key_like_no_other_lists_what_there_is():
    assert problems_of(mesh__qqqq=1) == [
        "unknown key mesh.qqqq; there are: mesh.data, mesh.fsdp, mesh.tensor"
    ]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model__text__heads": 5}, "model.text.heads: 5 heads do not divide"),
        ({"model__vision__heads": 5}, "model.vision.heads: 5 heads do not divide"),
        ({"model__tmn__heads": 5}, "model.tmn.heads: 5 heads do not divide model.text.width"),
        ({"model__cmn__heads": 5}, "model.cmn.heads: 5 heads do not divide model.text.width"),
        ({"model__tmn__heads": 0}, "model.tmn.heads: got 0, expected at least 1"),
        ({"data__token_buckets": (64, 128)}, "end at model.text.context = 248"),
        ({"data__token_buckets": (128, 64, 248)}, "expected rising lengths"),
        ({"data__token_buckets": ()}, "expected rising lengths"),
        ({"data__token_buckets": ("64", 248)}, "expected rising lengths"),
        ({"model__text__frozen_positions": 248}, "must be under model.text.context 248"),
        ({"optim__warmup_steps": 10**6}, "optim.warmup_steps 1000000 must be under train.steps"),
        ({"model__modular_scale": 0.0}, "need model.modular_scale > 0"),
        ({"model__tmn__layout": "none", "model__cmn__kind": "none"}, "need masks"),
        ({"losses__hard_pairs": 2}, "losses.dfsm_masks = 'pair' needs the score of every pair"),
        ({"train__microbatch": 5}, "train.microbatch: got 5, expected 0 (all rows at once)"),
        ({"train__microbatch": 64}, "or what divides train.batch_size 32"),
        (
            {"train__microbatch": 8, "train__image_batch_size": 60},
            "divides train.batch_size 32 and train.image_batch_size 60",
        ),
        ({"mesh__data": 0}, "mesh.data: got 0"),
        ({"mesh__tensor": 0}, "mesh.tensor: got 0"),
        ({"mesh__fsdp": -1}, "mesh.data, mesh.fsdp: only one of them may be -1"),
        ({"mesh__data": -2}, "mesh.data: got -2, expected at least -1"),
        ({"optim__learning_rate": float("nan")}, "expected a finite number"),
        ({"model__masks__init_bias": float("inf")}, "expected a finite number"),
        ({"optim__b2": 1.0}, "optim.b2: got 1.0"),
        ({"model__text": "big"}, "model.text: got 'big', expected a section of keys"),
        ({"optim__groups": ()}, "(regex, factor >= 0) pairs"),
        ({"optim__groups": (("text/.*", 1.0),)}, "the last for '.*'"),
        ({"optim__groups": (("text/.*", -1.0), (".*", 1.0))}, "factor >= 0"),
        ({"optim__groups": (("text/.*", "slow"), (".*", 1.0))}, "factor >= 0"),
        ({"optim__groups": (("text/(", 0.1), (".*", 1.0))}, "regex"),
        ({"optim__groups": ("text", (".*", 1.0))}, "pairs"),
        ({"data__mixture": (("shards", 0.0),)}, "data.mixture: got (('shards', 0.0),), expected"),
        ({"data__mixture": (("shards", True),)}, "weight > 0"),
        ({"data__mixture": ("shards", "tfds:b")}, "weight > 0"),
        ({"data__mixture": (("shards", 1), ("shards", 2.0))}, "each source once"),
    ],
)
def test_one_problem_gives_one_line(changes, expected):
    problems = problems_of(**changes)
    assert len(problems) == 1 and expected in problems[0], problems


@pytest.mark.parametrize("name", sorted(config_lib.RANGES))
def test_every_range_is_of_a_key_and_is_checked(name):
    low, high = config_lib.RANGES[name]
    kind = type(flatten(from_config_dict(get_config()))[name])
    beyond = [kind(low - 1)] + ([kind(high + 1)] if high is not None else [])
    for value in beyond:
        [problem] = [p for p in problems_of(**{name: value}) if p.startswith(f"{name}: got ")]
        assert f"got {value}, expected" in problem
    edge = problems_of(**{name: kind(low)})
    assert not any("expected at least" in p or "expected from" in p for p in edge)


@pytest.mark.parametrize("name", sorted(config_lib.CHOICES))
def test_every_choice_is_of_a_key_and_is_checked(name):
    for choice in config_lib.CHOICES[name]:
        assert not any("expected one of" in p for p in problems_of(**{name: choice}))
    [problem] = [p for p in problems_of(**{name: "other"}) if "expected one of" in p]
    assert problem.endswith(f"expected one of {', '.join(config_lib.CHOICES[name])}")


def test_every_number_has_a_range():
    """A new key with a number in it has to say what is legal."""
    free = {"seed", "model.masks.init_bias"}  # any number is legal
    flat = flatten(from_config_dict(get_config()))
    numbers = {name for name, value in flat.items() if type(value) in (int, float)}
    assert numbers - set(config_lib.RANGES) == free
    texts = {name for name, value in flat.items() if type(value) is str}
    assert texts - set(config_lib.CHOICES) == {
        "objective",
        "init_from",
        "data.source",
        "data.cache",
    }


def test_whole_numbers_pass_for_floats():
    config = get_config()
    with config.unlocked():
        config.losses.frame = 2
    assert type(from_config_dict(config).losses.frame) is float


def test_json_brings_the_same_configuration_back():
    made = get_config("model=l14,objective=paper,frames=64,batch=256")
    config = from_config_dict(made)
    again = config_lib.from_json(config_lib.to_json(config))
    assert again == config and hash(again) == hash(config)
    text = config_lib.to_json(config).replace('"layout": "cross"', '"layout": "crossed"')
    with pytest.raises(ConfigError, match=r"model\.tmn\.layout: got 'crossed'"):
        config_lib.from_json(text)


def test_a_value_of_an_earlier_version_is_read_as_what_it_is_now():
    text = config_lib.to_json(from_config_dict(get_config()))
    for old, new in ((False, "none"), (True, "full")):
        then = text.replace('"remat": "none"', f'"remat": {json.dumps(old)}')
        assert config_lib.from_json(then).model.remat == new
    assert problems_of(model__remat=1) == ["model.remat: got 1 (int), expected str"]


def test_difference_names_old_and_new():
    base = from_config_dict(get_config())
    changed = from_config_dict(get_config("objective=no_dfsm,steps=777"))
    assert difference(base, base) == {}
    assert difference(changed, base) == {
        "objective": ("full", "no_dfsm"),
        "losses.dfsm": (base.losses.dfsm, 0.0),
        "train.steps": (base.train.steps, 777),
    }


# -- arguments and flags


def test_arguments_are_parsed_by_the_types_of_their_defaults():
    got = config_lib.parse_argument("steps=20,rate=0.5", steps=1, rate=1.0, name="a")
    assert got == {"steps": 20, "rate": 0.5, "name": "a"}
    assert config_lib.parse_argument("", steps=1) == {"steps": 1}
    assert config_lib.parse_argument("name=a=b", name="") == {"name": "a=b"}


def test_wrong_arguments_are_all_named():
    with pytest.raises(ConfigError) as error:
        config_lib.parse_argument("step=2,batch=many,frames", steps=1, batch=2, frames=3)
    assert error.value.problems == [
        "unknown argument 'step' in 'step=2,batch=many,frames'; did you mean steps?",
        "argument batch: got 'many', expected int",
        "argument frames: got '', expected int",
    ]


def test_arguments_reach_the_configuration():
    config = from_config_dict(get_config("model=b32,frames=90,steps=70,batch=12,data=shards"))
    assert config.model.vision.patch_size == 32 and config.data.source == "shards"
    assert config.data.frames == config.eval.frames == config.model.frame_positions == 90
    assert (config.train.steps, config.train.batch_size) == (70, 12)


def test_unknown_presets_name_the_nearest():
    with pytest.raises(ConfigError, match=r"'token_masks'; did you mean token_mask\?"):
        get_config("objective=token_masks")
    with pytest.raises(ConfigError, match=r"'b61'; did you mean b16\?"):
        get_config("model=b61")


def test_overrides_are_checked_at_once():
    good = {
        "train.steps": "20",
        "losses.margin": "1",
        "model.cmn.sees_frame": "True",
        "model.dtype": "bfloat16",
        "data.token_buckets": "(64, 248)",
        "optim.groups": "(('text/.*', 0.0), ('.*', 1.0))",
        "optim.learning_rate": "3e-4",
    }
    assert config_lib.check_overrides(get_config(), good) == []
    bad = {
        "train.stepz": "20",
        "train.steps": "2.5",
        "losses.margin": "wide",
        "model.cmn.sees_frame": "perhaps",
        "model.tmn": "cross",
        "data.token_buckets": "64;248",
    }
    problems = config_lib.check_overrides(get_config(), bad)
    assert [p.split(":")[0].split(";")[0] for p in problems] == [
        "unknown key train.stepz",
        "train.steps",
        "losses.margin",
        "model.cmn.sees_frame",
        "unknown key model.tmn",
        "data.token_buckets",
    ]
    assert problems[0].endswith("did you mean train.steps?")
    assert problems[1] == "train.steps: got '2.5', expected int"
