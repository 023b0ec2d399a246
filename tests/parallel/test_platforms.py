"""Commands where JAX_PLATFORMS names what is not there."""

import os
import subprocess
import sys

import pytest

from tests.parallel.test_processes import ROOT, Run


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("runs") / "one", 1, steps=4)
    assert run.codes() == [0], run.output()
    return run.workdir


@pytest.mark.parametrize(
    "words",
    [
        ("convert", "export", "RUN", "OUT"),
        ("embed", "--model", "RUN", "--videos", ".", "--index", "OUT"),
    ],
    ids=["convert", "embed"],
)
def test_a_platform_that_is_not_there_is_one_message(workdir, tmp_path, words):
    names = {"RUN": str(workdir), "OUT": str(tmp_path / "out")}
    command = [sys.executable, "-m", f"mova_jax.{words[0]}", *(names.get(w, w) for w in words[1:])]
    env = os.environ | {"JAX_PLATFORMS": "cuda"}
    found = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert found.returncode == 1 and "JAX_PLATFORMS is 'cuda'" in found.stderr
    assert "Traceback" not in found.stderr
