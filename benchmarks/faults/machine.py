"""Odd machines: a clock that jumps, a small /dev/shm, standard streams that are closed or full.

The clock is libfaketime's (Debian's package): it jumps ten days ahead and back while a command
runs; what measures durations (the monotonic clock) is left alone, as it is by NTP.
"""

import functools
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.faults import trouble
from benchmarks.faults.case import Case, run
from benchmarks.faults.commands import commands, reference
from benchmarks.faults.materials import Materials, prepare, train

COLUMNS = trouble.COLUMNS
_FAKETIME = ("/usr/lib", "/opt/faketime", os.environ.get("FAKETIME_FOLDER", "/nowhere"))
_SHM = "64k"


def cases(m: Materials, scratch: Path, **_) -> list[Case]:
    """All cases."""
    some: dict[str, Callable] = {}
    for name in ("train", "prepare", "embed", "evaluate"):
        some[f"clock-{name}"] = functools.partial(_clock, m, scratch / f"clock-{name}", name)
    for name in ("train", "prepare"):
        some[f"shm-{name}"] = functools.partial(_shm, m, scratch / f"shm-{name}", name)
    for name in ("train", "prepare", "evaluate"):
        for stream in STREAMS:
            key = f"{stream}-{name}"
            some[key] = functools.partial(_stream, m, scratch / key, name, stream)
    return [Case(name, case) for name, case in some.items()]


def _library() -> Path | None:
    for folder in _FAKETIME:
        found = sorted(Path(folder).rglob("libfaketime.so.1"))
        if found:
            return found[0]
    return None


def _clock(m: Materials, work: Path, name: str) -> dict[str, Any]:
    what, library = "a clock that jumps by +10, -10 and +10 days", _library()
    if library is None:
        return trouble.left_out(what, name, "it needs libfaketime")
    shutil.rmtree(work, ignore_errors=True)
    work.parent.mkdir(parents=True, exist_ok=True)
    offset = work.parent / f"{work.name}.offset"
    offset.write_text("+0\n")
    (argv,) = commands(m)[name].start(work)
    env = dict(m.env) | {"LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(offset)}
    env |= {
        "FAKETIME_NO_CACHE": "1",
        "DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    quiet, seconds = threading.Event(), reference(m, name)[1]

    def jump() -> None:
        for days in ("+10d", "-10d", "+10d"):
            if quiet.wait(seconds / 3):
                return
            offset.write_text(f"{days}\n")

    thread = threading.Thread(target=jump, daemon=True)
    thread.start()
    outcome = run(argv, env, m.folder / "logs" / f"{work.name}.log", limit_s=900)
    quiet.set()
    return _row(m, what, name, outcome, work)


def _shm(m: Materials, work: Path, name: str) -> dict[str, Any]:
    what = f"/dev/shm of {_SHM}, worker processes"
    mount = f"mount -t tmpfs -o size={_SHM} tmpfs /dev/shm"
    allowed = subprocess.run(["unshare", "-m", *mount.split()], capture_output=True, check=False)
    if allowed.returncode:
        return trouble.left_out(what, name, "a disk cannot be mounted here")
    shutil.rmtree(work, ignore_errors=True)
    work.parent.mkdir(parents=True, exist_ok=True)
    argv = train(work, m.shards, data__worker_processes=2)
    if name == "prepare":
        argv = prepare(m.videos / "captions.jsonl", work)
    before = ["unshare", "-m", "sh", "-c", f'{mount} && exec "$@"', "sh"]
    log = m.folder / "logs" / f"{work.name}.log"
    outcome = run(argv, m.env, log, limit_s=900, before=before)
    return _row(m, what, name, outcome, work, says="--config.data.worker_processes=0")


def _row(m: Materials, what: str, name: str, outcome, work: Path, says: str = "") -> dict[str, Any]:
    """The row of a case: training may end with a message, and then has to go on."""
    codes = (0, 1) if name == "train" else (0,)
    again = functools.partial(trouble.run_again, m, name, work)
    return trouble.row(m, what, name, outcome, work, codes=codes, says=says, again=again)


# How a stream is broken: words of a shell before the command, and after it.
STREAMS = {
    "closed": ("standard output and error are closed", 'exec "$@" >&- 2>&-'),
    "ascii": ("ASCII-only output", 'PYTHONIOENCODING=ascii LC_ALL=C exec "$@"'),
    "full": ("standard output on a full disk", 'exec "$@" > /dev/full'),
    "pipe": ("a pipe that ends after a line", '{ "$@"; echo "code $?" >&2; } | head -n 1'),
}


def _stream(m: Materials, work: Path, name: str, stream: str) -> dict[str, Any]:
    what, shell = STREAMS[stream]
    shutil.rmtree(work, ignore_errors=True)
    work.parent.mkdir(parents=True, exist_ok=True)
    (argv,) = commands(m)[name].start(work)
    log = m.folder / "logs" / f"{work.name}.log"
    outcome = run(argv, m.env, log, limit_s=900, before=["sh", "-c", shell, "sh"])
    # Its work is done, and the code 1 says that what it said was lost.
    codes = (1,) if stream == "full" else (0,)
    fault = outcome.fault(codes)
    if stream == "pipe" and "code 0" not in outcome.output:
        fault = fault or f"it ended: {outcome.said}"
    ending = "" if fault else trouble.end_of(m, name, work)
    fault = fault or ("" if ending == trouble.EQUAL else ending)
    cells = {"trouble": what, "command": name, "code": outcome.code, "again": ending}
    said = outcome.said[:200] if outcome.code else ""
    return cells | {"said": said, "fault": fault}
