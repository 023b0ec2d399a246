"""Every recipe of configs/ is a whole configuration, short, and has its commands right."""

import ast
import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from mova_jax import prepare
from mova_jax.config import flatten, from_config_dict, load
from mova_jax.data.annotations.registry import DATASETS
from mova_jax.data.montage import command as montage
from mova_jax.data.shards import Manifest, SplitInfo

ROOT = Path(__file__).resolve().parent.parent
FROM_NOTHING = ("base", "captioned_pictures")
RECIPES = sorted({path.stem for path in (ROOT / "configs").glob("*.py")} - {*FROM_NOTHING})
PAPER = {
    "model.vision.patch_size": 16,
    "model.text.context": 248,
    "data.frames": 64,
    "train.batch_size": 256,
    "train.image_share": 0.0,
    "optim.learning_rate": 1e-4,
    "optim.weight_decay": 0.2,
    "losses.hard_pairs": 127,
}


def _config(name, argument=""):
    return flatten(from_config_dict(load(f"{ROOT}/configs/{name}.py:{argument}")))


def _commands(name):
    text = ast.get_docstring(ast.parse((ROOT / f"configs/{name}.py").read_text()))
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [shlex.split(line.strip()) for line in lines if line.strip().startswith("python -m ")]


def test_every_recipe_but_that_of_the_paper_belongs_to_a_data_set():
    named = {dataset.recipe for dataset in DATASETS.values()} - {""}
    assert named == {f"configs/{name}.py" for name in RECIPES if name != "paper"}


@pytest.mark.parametrize(("dataset", "batch"), [("", 32), ("msvd", 256), ("sharegpt4v", 1024)])
def test_prepare_prints_a_smaller_batch_for_a_train_split_that_cannot_fill_the_recipe(
    dataset, batch
):
    settings = {"dataset": {"name": dataset}}
    for videos, argument in ((batch, ""), (batch - 1, f",batch={batch - 1}")):
        manifest = Manifest("m", {"train": SplitInfo(videos, 1, 1, ())}, settings)
        command = prepare.next_command(manifest, "shards")
        assert re.search(r":data=shards(,init=CLIP)?(\S*) ", command)[2] == argument


def test_a_test_set_without_a_train_split_is_to_be_evaluated_on():
    manifest = Manifest("m", {"test": SplitInfo(9, 1, 1, ())}, {"dataset": {"name": "flare"}})
    command = prepare.next_command(manifest, "shards/flare")
    assert command == (
        "python -m mova_jax.evaluate --model RUN --data shards/flare --output out/flare"
    )
    assert importlib.util.find_spec("mova_jax.evaluate")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_whole_and_short(name):
    config = _config(name)
    assert config["optim.groups"][0] == ("(vision|text|logit_scale)/?.*", 1e-3)
    assert config["optim.warmup_steps"] < config["train.steps"]
    text = (ROOT / f"configs/{name}.py").read_text()
    code = text.split('"""', 2)[2]
    assert len([line for line in code.splitlines() if line.strip()]) <= 40


@pytest.mark.parametrize("name", sorted({*RECIPES} - {"warmup", "lsmdc"}))
def test_a_recipe_has_the_settings_of_the_paper(name):
    config = _config(name)
    assert PAPER == {key: config[key] for key in PAPER}


@pytest.mark.parametrize("name", RECIPES)
def test_the_argument_wins(name):
    config = _config(name, "frames=8,batch=4,steps=20,objective=full,model=tiny")
    assert (config["data.frames"], config["train.batch_size"]) == (8, 4)
    assert (config["train.steps"], config["model.tmn.layout"]) == (20, "select")


def test_steps_are_five_epochs():
    assert _config("activitynet")["train.steps"] == 5 * (10_009 // 256)
    assert _config("didemo", "batch=64")["train.steps"] == 5 * (8_395 // 64)


@pytest.mark.parametrize("name", RECIPES)
def test_the_commands_are_right(name):
    commands = _commands(name)
    assert commands
    for command in commands:
        assert importlib.util.find_spec(command[2]), command
        if command[2] == "mova_jax.prepare":
            dataset = prepare._arguments(command[3:]).dataset
            assert DATASETS[dataset].recipe == f"configs/{name}.py"
        for flag in command:
            if flag.startswith("--config="):
                from_config_dict(load(f"{ROOT}/{flag.removeprefix('--config=')}"))


def test_the_recipe_of_captioned_pictures_has_its_commands_right():
    first, *others = _commands("captioned_pictures")
    assert montage._parser(first[3]).parse_args(first[4:]).views > 1
    assert all(importlib.util.find_spec(command[2]) for command in others)
    config = _config("captioned_pictures", "steps=20,batch=4")
    assert (config["train.steps"], config["train.batch_size"], config["data.parts"]) == (20, 4, 0)
