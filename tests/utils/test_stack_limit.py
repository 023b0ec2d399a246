"""The stack may grow as far as the system allows."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("soft", "hard", "then"),
    [(8192, "unlimited", 102400), (8192, 16384, 16384), (204800, 204800, 204800)],
)
def test_the_soft_limit_rises_to_the_hard_one_at_most(soft, hard, then):
    program = "import resource; from mova_jax.utils.stack_limit import raise_stack_limit; "
    program += "raise_stack_limit(); print(resource.getrlimit(resource.RLIMIT_STACK)[0] // 1024)"
    command = f"ulimit -Ss {soft} && ulimit -Hs {hard} && exec {sys.executable} -c '{program}'"
    found = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert found.stdout.split() == [str(then)], found.stderr
