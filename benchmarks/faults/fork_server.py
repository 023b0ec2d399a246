"""Starts commands of the package as forks of a process that has loaded the libraries already.

A campaign starts a command hundreds of times, and loading JAX is most of the time of a small one.
The server imports the modules, uses none of them (no thread, no device), and forks for each
command, which then runs as `python -m MODULE` would.

    server = ForkServer(env)
    process = server.start(["mova_jax.main", "--help"], env, log)
    process.poll(), process.wait(), process.pid
"""

import importlib
import json
import os
import runpy
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_MODULES = """mova_jax.training.run mova_jax.training.evaluate_model mova_jax.export.export
mova_jax.search.indexing mova_jax.search.opening mova_jax.report.report
mova_jax.data.ingest.ingest transformers tensorboardX safetensors.numpy av""".split()


class ForkedProcess:
    """A command; has `poll`, `wait`, `pid` and `returncode` as a `subprocess.Popen` has them."""

    def __init__(self, server: "ForkServer", pid: int):
        """Takes a process that the server has started."""
        self._server, self.pid, self.returncode = server, pid, None

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self.returncode is None:
            self.returncode = self._server.ask(poll=self.pid)
        return self.returncode

    def wait(self) -> int:
        """Waits for its end and returns the exit code."""
        while self.poll() is None:
            time.sleep(0.02)
        return self.returncode


class ForkServer:
    """The process that forks; one for each environment that JAX reads when it is imported."""

    def __init__(self, env: Mapping[str, str], root: Path):
        """Starts it.

        Args:
            env: of the server; that of a command may differ in what JAX does not read.
            root: working folder of the commands.
        """
        command = [sys.executable, "-m", "benchmarks.faults.fork_server"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=dict(env), cwd=root)

    def start(self, argv: Sequence[str], env: Mapping[str, str], log: Path) -> ForkedProcess:
        """Starts `python -m argv` in a session of its own; its output is appended to a log."""
        argv = list(map(str, argv))
        return ForkedProcess(self, self.ask(argv=argv, env=dict(env), log=str(log)))

    def ask(self, **request):
        """The server's answer to a request."""
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def _serve() -> None:
    """Answers requests until there are no more; returns in a child, with its command to run."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints when it is imported is no answer
    for module in _MODULES:
        importlib.import_module(module)
    while line := os.read(0, 2**20):
        while not line.endswith(b"\n"):
            line += os.read(0, 2**20)
        request = json.loads(line)
        if "poll" in request:
            answer = _code_of(request["poll"])
        elif (answer := os.fork()) == 0:
            answers.close()
            _become(request)
            return
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    os._exit(0)


def _code_of(pid: int) -> int | None:
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def _become(request: dict) -> None:
    """Makes this child the process that a shell would have started."""
    os.setsid()
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for old, new in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(old, new)
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = request["argv"]


if __name__ == "__main__":
    _serve()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
