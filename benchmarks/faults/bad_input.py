"""Bad input: each case gives a command something wrong, and reads the one line that it answers.

A case holds when the exit code is the one that the command's help names, the message has the cause,
and there is no traceback.
"""

import functools
import shutil
from pathlib import Path
from typing import Any

from benchmarks.faults.bad_commands import COMMANDS
from benchmarks.faults.bad_makers import Bad
from benchmarks.faults.bad_training import TRAINING
from benchmarks.faults.case import Case, case_name
from benchmarks.faults.materials import Materials, without_paths

COLUMNS = {"command": "command", "given": "given", "said": "said", "code": "exit code"}


def cases(m: Materials, scratch: Path, **_) -> list[Case]:
    """All cases; each has a folder of its own."""
    named = [
        (command, bad) for command, some in {"main": TRAINING, **COMMANDS}.items() for bad in some
    ]
    keys = [case_name(command, bad.given) for command, bad in named]
    return [
        Case(key, functools.partial(_row, m, scratch / key, *pair))
        for key, pair in zip(keys, named, strict=True)
    ]


def _row(m: Materials, folder: Path, command: str, bad: Bad) -> dict[str, Any]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    outcome = m.call(folder.name, bad.make(m, folder), **({"env": bad.env} if bad.env else {}))
    said = without_paths(without_paths(outcome.said, folder), m.folder)
    return {
        "command": command,
        "given": bad.given,
        "said": said[:300],
        "code": outcome.code,
        "fault": outcome.fault(bad.codes, bad.says),
    }
