"""Runs commands of the package under watch, and keeps what each case of the campaign found."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.faults.fork_server import ForkedProcess, ForkServer
from mova_jax.utils import atomic
from mova_jax.utils.progress_bar import bar_of

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S, LIMIT_MIB = 300.0, 6000.0  # a command that needs more is ended, which is a fault
_WATCH_S = 0.05  # between two looks at its memory
# Lines in which the commands say what is wrong.
_SAID = re.compile(r"^(mova_jax|prepare|evaluate|embed|convert|search|plan|inspect|montage)\b.*: ")
_USAGE = re.compile(r"\berror: ")


class Case(NamedTuple):
    """A case: its name, unique in its kind, and a function that returns its row of the table.

    The row has one entry for each column, and `fault`: '' where the program held.
    """

    name: str
    run: Callable[[], dict[str, Any]]


def case_name(*texts: str) -> str:
    """A name for a case that is a file name, too."""
    return re.sub(r"[^a-z0-9]+", "-", " ".join(texts).lower()).strip("-")


@dataclasses.dataclass(frozen=True)
class CommandResult:
    """How a command ended."""

    code: int  # exit code; negative for a signal
    seconds: float
    peak_mib: float  # most resident memory of its processes together
    output: str  # standard output and error
    ended: str = ""  # why it was ended from outside, or ''

    @property
    def said(self) -> str:
        """The first line that says what is wrong; the last line where there is none."""
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        for place, line in enumerate(lines[:-1]):
            if re.fullmatch(r"skipped: [1-9]\d*|.*[1-9]\d* skipped", line):
                return lines[place + 1]
        for pattern in (_SAID, _USAGE):
            if found := next(filter(pattern.search, lines), ""):
                place = lines.index(found)
                # Messages of several problems begin with a line that counts them.
                more = lines[place + 1 : place + 2] if found.endswith(":") else []
                return " ".join([found, *more])
        return lines[-1] if lines else ""

    def fault(self, codes: Iterable[int], says: str = "") -> str:
        """What is wrong with this end; '' where it is as it should be.

        Args:
            codes: exit codes that are right.
            says: a regular expression that the output must have, whatever its case.
        """
        if self.ended:
            return self.ended
        if "Traceback (most recent call last)" in self.output:
            return "a traceback"
        if self.code not in tuple(codes):
            return f"exit code {self.code}"
        if says and not re.search(says, self.output, re.IGNORECASE):
            return f"nothing is said of {says!r}"
        return ""


def environment(cache: Path) -> dict[str, str]:
    """The environment of the commands: one CPU device, programs that compile quickly."""
    flags = (
        "--xla_force_host_platform_device_count=1 --xla_backend_optimization_level=0 "
        "--xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false "
        "--xla_cpu_multi_thread_eigen=false"
    )
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": flags,
        "JAX_COMPILATION_CACHE_DIR": str(cache / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "MPLBACKEND": "agg",
        "PYTHONPATH": str(ROOT),
    }


def start(
    argv: Sequence[str], env: Mapping[str, str], log: Path, before: Sequence[str] = (), **options
) -> subprocess.Popen:
    """Starts `python -m argv`, which appends to a log; its processes are a group of their own.

    Args:
        argv: module and arguments.
        env: of the command.
        log: of standard output and error.
        before: a command that takes it as its last arguments, such as strace.
        options: of `subprocess.Popen`.
    """
    with log.open("ab") as stream:
        return subprocess.Popen(
            [*before, sys.executable, "-m", *map(str, argv)],
            cwd=ROOT,
            env=dict(env),
            **{"stdin": subprocess.DEVNULL, "stdout": stream, "stderr": stream} | options,
            start_new_session=True,
        )


def run(
    argv: Sequence[str],
    env: Mapping[str, str],
    log: Path,
    *,
    limit_s: float = LIMIT_S,
    limit_mib: float = LIMIT_MIB,
    server: ForkServer | None = None,
    **options,
) -> CommandResult:
    """Runs `python -m argv` to its end, or until it needs too much time or memory.

    Args:
        argv: module and arguments.
        env: of the command.
        log: a file for its output, which is replaced.
        limit_s: seconds after which it is ended.
        limit_mib: resident memory from which on it is ended.
        server: to start it by; without one it is a new interpreter.
        options: see `start`.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_bytes(b"")
    begin, peak, ended = time.monotonic(), 0.0, ""
    process = (server.start if server else start)(argv, env, log, **options)
    while process.poll() is None:
        peak = max(peak, _resident_mib(process.pid))
        if peak > limit_mib or time.monotonic() - begin > limit_s:
            ended = f"over {limit_mib:.0f} MiB" if peak > limit_mib else f"over {limit_s:.0f} s"
            kill_group(process)
        time.sleep(_WATCH_S)
    seconds = time.monotonic() - begin
    kill_group(process)
    return CommandResult(
        process.returncode, seconds, peak, log.read_text("utf-8", "replace"), ended
    )


def kill_group(process: subprocess.Popen | ForkedProcess) -> None:
    """Sends SIGKILL to a command that `start` started, with all its processes."""
    try:
        os.killpg(process.pid, 9)
    except ProcessLookupError:
        return
    process.wait()


def _resident_mib(session: int) -> float:
    """Resident memory of all processes of a session; shared pages count once a process."""
    pages = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
            if int(fields[3]) == session:
                pages += int(fields[21])
        except (OSError, IndexError, ValueError):
            continue
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def run_cases(kind: str, cases: Sequence[Case], folder: Path) -> list[dict[str, Any]]:
    """The rows of all cases; those that the folder has are read and not made again."""
    rows = []
    for case in bar_of(kind, len(cases), cases, unit="case"):
        path = folder / "results" / kind / f"{case.name}.json"
        if not path.is_file():
            begin = time.monotonic()
            row = case.run() | {"took_s": round(time.monotonic() - begin, 1)}
            atomic.write_text(path, json.dumps(row, indent=1))
        rows.append(json.loads(path.read_text("utf-8")))
    return rows


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Rows as Markdown.

    Args:
        rows: of the cases.
        columns: keys of the rows, and their headings.
    """
    lines = [f"| {' | '.join(columns.values())} |", "|---" * len(columns) + "|"]
    for row in rows:
        cells = [str(row.get(key, "")).replace("|", "\\|").replace("\n", " ") for key in columns]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
