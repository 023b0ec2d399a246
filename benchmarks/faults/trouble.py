"""A command under some trouble, and the same command after it: how both end.

    outcome = m.call("log", argv)
    found = row(m, "a full disk", "prepare", outcome, work, codes=(0, 1), says="space", again=...)

The row has what was said, the exit code, and whether the end is that of an undisturbed command.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.faults.case import CommandResult, kill_group
from benchmarks.faults.commands import commands, compared, half_files, reference
from benchmarks.faults.materials import Materials, train, without_paths
from mova_jax.utils.metric_log import METRICS_FILE, read_metrics

COLUMNS = {
    "trouble": "trouble",
    "command": "command",
    "said": "said",
    "code": "exit code",
    "again": "the same command again",
}
EQUAL = "ends as undisturbed"


def row(
    m: Materials,
    trouble: str,
    name: str,
    outcome: CommandResult,
    work: Path,
    *,
    codes: tuple[int, ...],
    says: str = "",
    again: Callable[[], str] | None = None,
) -> dict[str, Any]:
    """The row of a case.

    Args:
        m: the materials.
        trouble: what was done to the command.
        name: of the command.
        outcome: of the command.
        work: folder that it wrote to.
        codes: exit codes that are right; with 0, the end must be that of an undisturbed command.
        says: what the message must have where the code is not 0.
        again: runs the command once more, and returns how that ended.
    """
    fault = outcome.fault(codes, says if outcome.code else "")
    if not fault and (half := half_files(work)):
        fault = f"half a file: {half[0]}"
    ending = ""
    if not fault:
        ending = end_of(m, name, work) if outcome.code == 0 else again() if again else ""
        fault = "" if ending in ("", EQUAL) else ending
    said = outcome.said if outcome.code else ""
    said = without_paths(without_paths(said, work.parent), m.folder)
    cells = {"trouble": trouble, "command": name, "said": said[:300], "code": outcome.code}
    return cells | {"again": ending, "fault": fault}


def end_of(m: Materials, name: str, work: Path) -> str:
    """`EQUAL`, or in what the end of a command differs from an undisturbed one."""
    found = compared(reference(m, name)[0], commands(m)[name].result(work))
    return str(found) if any(found) else EQUAL


def run_again(m: Materials, name: str, work: Path) -> str:
    """Runs a command without trouble, and compares its end."""
    (argv,) = commands(m)[name].start(work)
    outcome = m.call("again", argv)
    if outcome.code:
        return f"exit code {outcome.code}: {outcome.said}"
    return end_of(m, name, work)


def disturbed(
    m: Materials, argv: list, seconds: float, disturb: Callable[[], Any], log: Path
) -> CommandResult:
    """Runs a command line, and calls a function so many seconds after its start."""
    begin = time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")
    process = m.server.start(argv, m.env, log)
    called, ended = False, ""
    while process.poll() is None:
        past = time.monotonic() - begin
        if past > seconds and not called:
            called = True
            disturb()
        if past > 900:
            ended = "over 900 s"
            kill_group(process)
        time.sleep(0.01)
    output = log.read_text("utf-8", "replace")
    return CommandResult(process.returncode, time.monotonic() - begin, 0.0, output, ended)


def stopped_run(m: Materials, step: int = 24) -> Path:
    """The workdir of a run that was stopped by SIGTERM after a step; made once."""
    workdir = m.folder / "stopped"
    done = m.folder / "done" / "stopped"
    if done.exists():
        return workdir
    shutil.rmtree(workdir, ignore_errors=True)
    log = m.folder / "logs" / "stopped.log"
    process = m.server.start(train(workdir, m.shards), m.env, log)
    while process.poll() is None:
        path = workdir / METRICS_FILE
        with contextlib.suppress(ValueError):
            if path.exists() and any(row["step"] >= step for row in read_metrics(path)):
                os.kill(process.pid, signal.SIGTERM)
                process.wait()
        time.sleep(0.02)
    if process.returncode != 128 + signal.SIGTERM:
        raise RuntimeError(f"the run did not stop: {log.read_text()[-2000:]}")
    done.write_text("")
    return workdir


@contextlib.contextmanager
def mounted(folder: Path, size: int) -> Iterator[Callable[[int], None]]:
    """A small disk (tmpfs) of so many bytes at a folder; yields a function that resizes it.

    Raises:
        PermissionError: mounting is not allowed here.
    """
    folder.mkdir(parents=True, exist_ok=True)
    options = ["-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise PermissionError("there is no command mount") from error
    if done.returncode:
        raise PermissionError(f"a small disk cannot be mounted: {done.stderr.strip()}")

    def resize(size: int) -> None:
        remount = ["mount", "-o", f"remount,size={size}", str(folder)]
        subprocess.run(remount, check=True, capture_output=True)

    try:
        yield resize
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def left_out(trouble: str, name: str, why: str) -> dict[str, Any]:
    """The row of a case that this machine cannot run."""
    return {"trouble": trouble, "command": name, "said": f"(left out: {why})", "fault": ""}
