"""Commands go on when nobody reads what they print; each is a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Prints more than a pipe holds, and does its work after that.
COMMAND = """
import sys
from mova_jax.utils.streams import run_command

def main():
    for number in range(20_000):
        print("naïve", number)
    with open(sys.argv[1], "w") as stream:
        stream.write("the work")
        stream.flush()
        print("not into the file")
        print("nor this", file=sys.stderr, flush=True)
    return int(sys.argv[2])

run_command(main)
"""


def run(arguments: str, shell: str = "", **environment) -> subprocess.CompletedProcess:
    """Runs the command by bash with what follows it, such as a redirection."""
    line = f'"{sys.executable}" -c "$COMMAND" {arguments} {shell}'
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        cwd=ROOT,
        env=os.environ | {"COMMAND": COMMAND} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize("shell", ["| head -1", ">&-", ">&- 2>&-", "2>&- | head -1", "<&- >&-"])
def test_a_pipe_that_ends_and_closed_streams_cost_no_work(tmp_path, shell):
    done = run(f"{tmp_path}/work 0", shell)
    assert (tmp_path / "work").read_text() == "the work"
    assert done.returncode == 0 and "Traceback" not in done.stderr
    assert done.stdout in ("", "naïve 0\n")


def test_the_exit_code_is_that_of_the_command(tmp_path):
    done = run(f"{tmp_path}/work 3", ">&-")
    assert (done.returncode, done.stderr) == (3, "nor this\n")


def test_a_full_disk_is_said_after_the_work(tmp_path):
    done = run(f"{tmp_path}/work 0", "> /dev/full")
    assert (tmp_path / "work").read_text() == "the work"
    assert done.returncode == 1
    assert done.stderr.endswith("the output could not be written: No space left on device\n")


def test_streams_without_the_characters_get_their_escapes(tmp_path):
    done = run(f"{tmp_path}/work 0", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and done.stdout.startswith("na\\xefve 0\n")


@pytest.mark.parametrize("flags", ["--help", "--config=configs/base.py --help_config"])
def test_help_into_a_pipe_that_ends(flags):
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f'"{sys.executable}" -m mova_jax.main {flags} | head -1'],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.count("\n") == 1
