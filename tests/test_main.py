"""The command `python -m mova_jax.main`, up to where a run begins."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mova_jax.config import ConfigError
from mova_jax.main import main, steps_to_trace
from mova_jax.parallel import processes
from mova_jax.training import run as run_lib
from mova_jax.utils.metric_log import METRICS_FILE, read_metrics

ROOT = Path(__file__).resolve().parent.parent
MAIN = [sys.executable, "-m", "mova_jax.main"]


def run(*flags):
    """The command's result."""
    return subprocess.run([*MAIN, *flags], cwd=ROOT, capture_output=True, text=True)


def test_one_message_says_what_is_wrong_and_nothing_is_made(tmp_path):
    flags = ["--config=configs/base.py", "--config.losses.margin=9", "--config.train.steps=10"]
    result = run(*flags, f"--workdir={tmp_path / 'run'}")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "losses.margin: got 9.0" in result.stderr
    assert "optim.warmup_steps 50 must be under train.steps 10" in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_workdir_at_another_url_is_refused_before_anything_is_made(tmp_path):
    command = [*MAIN, f"--config={ROOT / 'configs/base.py'}", "--workdir=s3://bucket/run"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert result.returncode == 2 and not any(tmp_path.iterdir())
    line = result.stderr.splitlines()[-1]
    assert "--workdir: got the URL s3://bucket/run, expected a folder on this machine" in line
    assert line.endswith("or gs://BUCKET/FOLDER")


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("JAX_PLATFORMS", "tpux", "JAX_PLATFORMS is 'tpux': unset it"),
        ("JAX_PLATFORMS", "cuda", "JAX_PLATFORMS is 'cuda': unset it"),
        ("JAX_ENABLE_X64", "many", "JAX cannot start: invalid truth value 'many' for environment"),
        ("JAX_ENABLE_X64", "1", "the environment has JAX_ENABLE_X64=1"),
    ],
)
def test_an_environment_that_cannot_be_used_is_said_in_one_line(tmp_path, variable, value, said):
    command = [*MAIN, "--config=configs/base.py", f"--workdir={tmp_path / 'run'}"]
    environment = os.environ | {variable: value}
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert result.returncode == 1 and not (tmp_path / "run").exists()
    assert said in result.stderr.splitlines()[-1] and "Traceback" not in result.stderr


def test_the_help_on_keys_starts_no_jax():
    command = [sys.executable, "-X", "importtime", *MAIN[1:], "--config=configs/base.py:frames=5"]
    result = subprocess.run([*command, "--help_config"], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0 and "  data.frames = 5\n" in result.stdout
    imported = set(re.findall(r"\| +([\w.]+)$", result.stderr, re.M))
    assert "mova_jax.config.schema" in imported and "jax" not in imported


def test_help_ends_well_and_a_wrong_flag_does_not():
    result = run("--help")
    assert result.returncode == 0 and "--help_config" in result.stdout
    assert run("--config=configs/base.py", "--processes=two").returncode == 2


def test_steps_to_trace_are_two_in_order():
    assert steps_to_trace("") == (0, 0) and steps_to_trace("20:23") == (20, 23)
    for text in ("20", "23:20", "0:3", "a:b"):
        with pytest.raises(ConfigError, match="FIRST:LAST"):
            steps_to_trace(text)


def test_a_damaged_metric_log_ends_the_command_in_one_line(tmp_path, monkeypatch, capfd):
    (tmp_path / METRICS_FILE).write_text("no JSON\n{}\n")
    monkeypatch.setattr(processes, "start_processes", lambda *_: None)
    monkeypatch.setattr(run_lib, "run", lambda *_: read_metrics(tmp_path / METRICS_FILE))
    assert main(["--config=configs/base.py", f"--workdir={tmp_path}"]) == 1
    said = capfd.readouterr().err
    assert said.startswith("mova_jax: ") and "metrics.jsonl, line 1" in said
