"""A run that is killed three times ends with the metrics of one that never stopped."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mova_jax.utils.metric_log import read_metrics
from tests import tiny

ROOT = Path(__file__).resolve().parent.parent
STEPS = 24
FLAGS = tiny.RUN | {"train.steps": STEPS, "train.eval_every": 8}


def start(workdir: Path, cache: Path) -> subprocess.Popen:
    flags = [f"--config.{name}={value}" for name, value in (FLAGS | {"data.cache": cache}).items()]
    command = [sys.executable, "-m", "mova_jax.main", "--config=configs/base.py"]
    with (workdir.parent / f"{workdir.name}.log").open("a") as log:
        return subprocess.Popen(
            [*command, f"--workdir={workdir}", *flags], cwd=ROOT, stdout=log, stderr=log
        )


def logged_steps(workdir: Path) -> int:
    path = workdir / "metrics.jsonl"
    return max((row["step"] for row in read_metrics(path)), default=0) if path.exists() else 0


def kill_at(process: subprocess.Popen, workdir: Path, step: int) -> None:
    """Kills as soon as the metrics of that step are written."""
    deadline = time.monotonic() + 300
    while logged_steps(workdir) < step and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is None, "it ended before it was killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_a_run_killed_at_three_random_steps_ends_with_the_same_metrics(tmp_path):
    seed = random.randrange(2**32)
    steps = sorted(random.Random(seed).sample(range(1, STEPS), 3))
    print(f"killed at {steps} (seed {seed})")
    assert start(tmp_path / "whole", tmp_path / "cache").wait() == 0
    for step in steps:
        process = start(tmp_path / "killed", tmp_path / "cache")
        kill_at(process, tmp_path / "killed", step)
    assert start(tmp_path / "killed", tmp_path / "cache").wait() == 0
    assert tiny.logged_metrics(tmp_path / "killed") == tiny.logged_metrics(tmp_path / "whole")
