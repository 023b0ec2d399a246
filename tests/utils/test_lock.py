"""Tests of the lock on a folder or a URL."""

import subprocess
import sys

import pytest

from mova_jax.utils.lock import lock

_TRY = """
import sys
from mova_jax.utils.lock import lock
try:
    with lock(sys.argv[1]):
        print("in")
except BlockingIOError:
    print("out")
"""


@pytest.mark.parametrize("scheme", ["", "memory:/"])
def test_a_lock_keeps_out_this_and_other_processes_until_it_is_released(tmp_path, scheme):
    path = f"{scheme}{tmp_path}"
    with lock(path), pytest.raises(BlockingIOError), lock(path):
        pass
    with lock(path):
        run = subprocess.run([sys.executable, "-c", _TRY, path], capture_output=True, text=True)
    assert run.stdout.strip() == "out", run.stderr
