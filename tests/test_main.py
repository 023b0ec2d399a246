"""The command line: all mistakes at once, before anything is made."""

import subprocess
import sys
from pathlib import Path

import pytest

from mova_jax.main import check_flags

ROOT = Path(__file__).resolve().parent.parent
BASE = str(ROOT / "configs" / "base.py")


def problems(*flags):
    return check_flags(["main", *flags])


def test_good_flags_have_no_problem():
    flags = ["--config.train.steps=5", "--config.optim.learning_rate=1e-4", "--workdir=x"]
    assert problems(f"--config={BASE}:objective=no_tv", *flags) == []
    assert problems("--config", BASE) == []


def test_all_mistakes_are_told_at_once_with_the_nearest_key():
    found = problems(
        f"--config={BASE}",
        "--config.train.stepz=5",
        "--config.optim.learning_rate=fast",
        "--config.modle.scale=1.0",
    )
    assert len(found) == 3
    assert "train.steps" in found[0]
    assert "'fast'" in found[1] and "float" in found[1]
    assert "model.scale" in found[2]


def test_the_label_of_the_objective_cannot_be_set_without_the_objective():
    assert "objective=no_tv" in problems(f"--config={BASE}", "--config.objective=no_tv")[0]


def test_a_config_that_is_not_there_or_not_named_is_told():
    assert problems("--workdir=x") == ["--config is missing; for example --config=configs/base.py"]
    assert "no file none.py" in problems("--config=none.py")[0]


def test_a_wrong_argument_string_is_told():
    assert "objective" in problems(f"--config={BASE}:objectiv=full")[0]
    assert "cmn_only" in problems(f"--config={BASE}:objective=cmn")[0]


def test_the_command_prints_one_message_and_exits_with_1(tmp_path):
    command = [sys.executable, "-m", "mova_jax.main", f"--workdir={tmp_path / 'run'}"]
    flags = [f"--config={BASE}", "--config.losses.margin=9", "--config.train.steps=10"]
    result = subprocess.run([*command, *flags], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "losses.margin: got 9.0" in result.stderr
    assert "optim.warmup_steps 50 must be under train.steps 10" in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("soft", "hard", "then"),
    [(8192, "unlimited", 102400), (8192, 16384, 16384), (204800, 204800, 204800)],
)
def test_the_stack_may_grow_as_far_as_the_system_lets_it(soft, hard, then):
    program = "import resource; from mova_jax.main import raise_stack_limit; raise_stack_limit(); "
    program += "print(resource.getrlimit(resource.RLIMIT_STACK)[0] // 1024)"
    command = f"ulimit -Ss {soft} && ulimit -Hs {hard} && exec {sys.executable} -c '{program}'"
    found = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert found.stdout.split() == [str(then)], found.stderr
