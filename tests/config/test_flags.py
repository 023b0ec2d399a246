"""The command line: every mistake at once, before anything is made."""

from pathlib import Path

import pytest

from configs.base import get_config
from mova_jax import config as config_lib
from mova_jax.config import ConfigError, ConfigFlags, from_config_dict, make_parser, parse

BASE = str(Path(__file__).resolve().parents[2] / "configs" / "base.py")


def parsed(*words):
    """A command with one flag of its own."""
    parser = make_parser("command", "What it does.")
    parser.add_argument("--workdir")
    return parse(parser, words)


def problems(*words):
    with pytest.raises(ConfigError) as error:
        parsed(*words)
    return error.value.problems


def test_flags_change_the_config_by_type():
    texts = {
        "train.steps": "70",
        "losses.margin": "1",
        "model.cmn.sees_frame": "true",
        "model.dtype": "bfloat16",
        "data.token_buckets": "(64, 248)",
        "optim.groups": "[('text/.*', 0.0), ('.*', 1.0)]",
        "optim.learning_rate": "3e-4",
    }
    words = [f"--config.{key}={text}" for key, text in texts.items()]
    args, flags, config = parsed(*words, "--workdir=x", f"--config={BASE}:objective=no_tv")
    assert args.workdir == "x"
    assert flags == ConfigFlags(BASE, "objective=no_tv", texts)
    changed = config_lib.difference(config, from_config_dict(get_config("objective=no_tv")))
    assert {name: value for name, (_, value) in changed.items()} == {
        "train.steps": 70,
        "losses.margin": 1.0,
        "model.cmn.sees_frame": True,
        "model.dtype": "bfloat16",
        "data.token_buckets": (64, 248),
        "optim.groups": (("text/.*", 0.0), (".*", 1.0)),
        "optim.learning_rate": 3e-4,
    }


def test_a_value_may_be_the_next_word_and_the_last_config_wins():
    _, flags, config = parsed(
        *("--config=none.py", "--config", BASE, "--config.train.steps", "70"),
        *("--config.mesh.data", "-1", "--config.model.cmn.sees_frame", "--workdir", "x"),
    )
    assert flags.file == BASE and config.train.steps == 70 and config.model.cmn.sees_frame


def test_all_mistakes_are_reported_at_once_with_the_nearest_key():
    found = problems(
        f"--config={BASE}:objective=full",
        "--config.train.stepz=5",
        "--config.train.steps=2.5",
        "--config.optim.learning_rate=fast",
        "--config.model.cmn.sees_frame=perhaps",
        "--config.model.tmn=cross",
        "--config.data.token_buckets=64;248",
        "--config.eval.splits='test'",
        "--config.objective=no_tv",
        "--wokdir=x",
    )
    assert found[0].startswith("unknown key train.stepz; did you mean train.steps?")
    assert found[1] == "train.steps: got '2.5', expected int"
    assert found[2] == "optim.learning_rate: got 'fast', expected float"
    assert found[3] == "model.cmn.sees_frame: got 'perhaps', expected bool"
    assert found[4].startswith("unknown key model.tmn")
    assert found[5] == "data.token_buckets: got '64;248', expected tuple"
    assert found[6] == "eval.splits: got \"'test'\", expected tuple"
    assert found[7].endswith(f"choose one by --config={BASE}:objective=no_tv")
    assert found[8].startswith("got '--wokdir=x', expected a flag of --help")
    assert len(found) == 9


def test_a_config_that_is_missing_or_does_not_exist_is_reported():
    assert problems("--workdir=x") == ["--config is missing; for example --config=configs/base.py"]
    assert problems("--config=none.py", "--x") == [
        "--config: there is no file none.py",
        "got '--x', expected a flag of --help or --config.key=value",
    ]


# -- the argument string


def test_arguments_are_parsed_by_the_types_of_their_defaults():
    got = config_lib.parse_argument("steps=20,rate=0.5,name=a=b", steps=1, rate=1.0, name="")
    assert got == {"steps": 20, "rate": 0.5, "name": "a=b"}
    with pytest.raises(ConfigError) as error:
        config_lib.parse_argument("step=2,batch=many,frames", steps=1, batch=2, frames=3)
    assert error.value.problems == [
        "unknown argument 'step' in 'step=2,batch=many,frames'; did you mean steps?",
        "argument batch: got 'many', expected int",
        "argument frames: got '', expected int",
    ]


def test_arguments_reach_the_configuration():
    config = config_lib.load(f"{BASE}:model=b32,frames=90,steps=70,batch=12,data=shards")
    assert config.model.vision.patch_size == 32 and config.data.source == "shards"
    assert config.data.frames == config.eval.frames == config.model.frame_positions == 90
    assert (config.train.steps, config.train.batch_size) == (70, 12)
    for wrong, right in ("objective=token_masks", "token_mask"), ("model=b61", "b16"):
        assert f"did you mean {right}?" in problems(f"--config={BASE}:{wrong}")[0]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def get_config(:", "SyntaxError: invalid syntax (own.py, line 1)"),
        ("import nothing_at_all", "line 1: ModuleNotFoundError: No module named 'nothing_at_all'"),
        ("x = 1", "has no attribute 'get_config'"),
        ("def get_config():\n  return 1 / 0", "line 2: ZeroDivisionError: division by zero"),
        ("def get_config():\n  return {}", "get_config returned dict, expected a ConfigDict"),
    ],
)
def test_a_config_file_that_fails_is_said_with_its_line(tmp_path, code, said):
    path = tmp_path / "own.py"
    path.write_text(code)
    (problem,) = problems(f"--config={path}")
    assert problem.startswith(f"--config: {path}") and problem.endswith(said)
