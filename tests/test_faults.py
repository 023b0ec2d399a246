"""A small campaign against faults; `python -m benchmarks.faults` runs the whole one."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.faults.__main__ import KINDS
from benchmarks.faults.case import Case, CommandResult, run_cases, table
from benchmarks.faults.commands import compared

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_small_campaign_finds_no_fault(kind, tmp_path_factory):
    workdir = tmp_path_factory.getbasetemp() / "campaign"  # all kinds share the materials
    command = [sys.executable, "-m", "benchmarks.faults", kind, "--small", "--workdir", workdir]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert f"## {kind}: " in done.stdout and ", 0 faults" in done.stdout


def test_an_outcome_tells_what_was_said_and_what_is_wrong():
    refused = CommandResult(1, 0.1, 9.0, "loading\nprepare: no.jsonl is missing; give it\nmore\n")
    assert refused.said == "prepare: no.jsonl is missing; give it"
    assert refused.fault((1,), "no.JSONL") == ""
    assert refused.fault((3,)) == "exit code 1"
    assert refused.fault((1,), "elsewhere") == "nothing is said of 'elsewhere'"
    listed = CommandResult(
        3, 0.1, 9.0, "warnings: 0\nskipped: 2\n  a.mp4: the file is empty\n  b: no\n"
    )
    assert listed.said == "a.mp4: the file is empty"
    crashed = CommandResult(
        1, 0.1, 9.0, "Traceback (most recent call last):\n  ...\nValueError: x\n"
    )
    assert crashed.fault((1,), "x") == "a traceback"


def test_ends_are_compared_unit_by_unit():
    found = compared({"a": 1, "b": [2.0], "c": 3}, {"a": 1, "b": [2.5], "d": 4})
    assert found == (["c"], ["d"], ["b"])
    assert str(found) == "lost: c; doubled: d; differing: b"
    assert not any(compared({"a": 1}, {"a": 1}))


def test_a_case_that_is_done_is_not_repeated(tmp_path):
    calls = []
    cases = [Case("a", lambda: calls.append(1) or {"x": "1|2", "fault": ""})]
    rows = [run_cases("kind", cases, tmp_path) for _ in range(2)]
    assert rows[0] == rows[1] and calls == [1]
    assert table(rows[0], {"x": "X"}) == "| X |\n|---|\n| 1\\|2 |"
