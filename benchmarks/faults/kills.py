"""`kill -9` at random moments: the same command again must end as one that was never killed.

A moment is drawn uniformly over the time that the whole command takes, counted from when its
modules are loaded. A command that ends before its moment is checked and begins again in a new
folder; after its last kill it is run to the end and checked. Compared with a command that was never
killed: each step of the metric log and its figures, the arrays of the last checkpoint bit for bit,
records, vectors, ranks and exports by their bytes. After each kill, every file that has its final
name must be whole.
"""

import functools
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

from benchmarks.faults.case import Case, kill_group
from benchmarks.faults.commands import Command, commands, compared, half_files, reference
from benchmarks.faults.fork_server import ForkedProcess
from benchmarks.faults.materials import Materials

COLUMNS = {
    "command": "command",
    "kills": "kills",
    "whole": "ends compared",
    "lost": "lost",
    "doubled": "doubled",
    "differing": "differing",
    "half": "half files",
    "leftovers": "leftovers, most",
}
SHARES = {"train": 40, "train, two processes": 12, "prepare": 16, "embed": 12, "evaluate": 10}
SHARES |= {"convert export": 10}
BLOCK = 4  # kills of a case, at most
_WAIT_S = 600.0


def cases(m: Materials, scratch: Path, kills: int = 100, seed: int = 0, **_) -> list[Case]:
    """Blocks of kills, the commands in turn, so that a campaign that is stopped has some of all."""
    total, found = sum(SHARES.values()), []
    for name, share in SHARES.items():
        left, block = max(1, round(kills * share / total)), 0
        while left:
            count = min(BLOCK, left)
            left, key = left - count, f"{name.replace(', ', '-').replace(' ', '-')}-{block}"
            run = functools.partial(_row, m, scratch / key, name, count, f"{seed}-{key}")
            found.append((block, Case(key, run)))
            block += 1
    return [case for _, case in sorted(found, key=lambda pair: pair[0])]


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a command."""
    merged: dict[str, dict[str, Any]] = {}
    for row in rows:
        whole = merged.setdefault(row["command"], {"command": row["command"], "fault": ""})
        for key in ("kills", "whole", "lost", "doubled", "differing", "half"):
            whole[key] = whole.get(key, 0) + row[key]
        whole["leftovers"] = max(whole.get("leftovers", 0), row["leftovers"])
        whole["fault"] = whole["fault"] or row["fault"]
    return list(merged.values())


def _row(m: Materials, folder: Path, name: str, kills: int, seed: str) -> dict[str, Any]:
    command, rng = commands(m)[name], random.Random(seed)
    whole, seconds = reference(m, name)
    counts = dict.fromkeys(("lost", "doubled", "differing", "half", "whole", "leftovers"), 0)
    faults: list[str] = []
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    done = round_ = 0
    work = folder / "0"
    while done < kills or work.exists():
        moment = rng.uniform(0, seconds) if done < kills else None
        fresh, begin = not work.exists(), time.monotonic()
        codes = _run(m, command, work, folder / "log", moment, rng)
        if codes is None:
            done += 1
            counts["leftovers"] = max(counts["leftovers"], len(_leftovers(work)))
            if half := half_files(work):
                counts["half"] += len(half)
                faults.append(f"half a file: {half[0]}")
            continue
        text = (folder / "log").read_text("utf-8", "replace")
        if any(codes) and not (command.finished and command.finished in text.rstrip()[-300:]):
            faults.append(f"exit codes {codes}: {text[-300:]}")
            break
        if fresh:  # the machine may be faster now than when the reference was made
            seconds = time.monotonic() - begin
        found = compared(whole, command.result(work))
        counts["whole"] += 1
        for key, units in found._asdict().items():
            counts[key] += len(units)
        faults += [str(found)] if any(found) else []
        shutil.rmtree(work)
        round_ += 1
        work = folder / str(round_)
        if done == kills:
            break
    if not faults:
        shutil.rmtree(folder)
    return {"command": name, "kills": done, **counts, "fault": "; ".join(faults)[:500]}


def _run(
    m: Materials, command: Command, work: Path, log: Path, moment: float | None, rng: random.Random
) -> list[int] | None:
    """Runs the processes of a command; their exit codes, or None when they were killed."""
    processes = [m.server.start(argv, m.env, log) for argv in command.start(work)]
    begin = time.monotonic()
    deadline = begin + (_WAIT_S if moment is None else moment)
    while any(process.poll() is None for process in processes):
        if time.monotonic() > deadline:
            _kill(processes, rng)
            return None if moment is not None else [-9]
        time.sleep(0.01)
    return [process.returncode for process in processes]


def _kill(processes: list[ForkedProcess], rng: random.Random) -> None:
    """Kills all processes of a run, or one of several and waits for the others to see it."""
    alone = len(processes) > 1 and rng.random() < 1 / 3
    killed = [rng.choice(processes)] if alone else processes
    for process in killed:
        kill_one(process)
    deadline = time.monotonic() + 120
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in processes:
        if process.poll() is None:
            kill_group(process)


def kill_one(process: ForkedProcess) -> None:
    """Sends SIGKILL to this process alone, not to those that it started."""
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()


def _leftovers(folder: Path) -> list[Path]:
    """What was being written aside, and is still there."""
    found = [path.relative_to(folder) for path in folder.rglob("*")]
    aside = (".partial", "orbax-checkpoint-tmp")
    return [path for path in found if any(word in path.name for word in aside)]
