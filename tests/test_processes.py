"""Processes on loopback: the figures of one, the end of one, another number of them afterwards."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mova_jax.training.progress import read_metrics
from tests import tiny

ROOT = Path(__file__).resolve().parent.parent
FLAGS = tiny.SIZES | {
    "model.vision.image_size": 16,
    "model.text.context": 160,
    "model.text.vocab_size": 0,
    "model.frame_positions": 8,
    "data.token_buckets": (160,),
    "data.train_videos": 32,
    "data.eval_videos": 8,
    "train.batch_size": 8,
    "train.log_every": 1,
    "train.checkpoint_every": 2,
    "eval.batch_size": 8,
    "eval.splits": ("test",),
    "eval.timelines": 0,
}


class Run:
    """The processes of one training, each with its share of eight devices."""

    def __init__(self, workdir: Path, processes: int, steps: int, devices: int = 0, **mesh: int):
        """Starts them; `devices` is the number of each, by default 8 / processes."""
        changes = {"data.cache": workdir.parent / "cache", "train.steps": steps}
        changes |= {"train.eval_every": max(2, steps // 2)}
        changes |= {f"mesh.{axis}": size for axis, size in mesh.items()}
        flags = [f"--config.{name}={value}" for name, value in (FLAGS | changes).items()]
        command = [sys.executable, "-m", "mova_jax.main", "--config=configs/base.py"]
        xla = os.environ["XLA_FLAGS"].replace(
            "device_count=8", f"device_count={devices or 8 // processes}"
        )
        if processes > 1:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                meeting = [f"--coordinator=127.0.0.1:{free.getsockname()[1]}"]
            meeting.append(f"--processes={processes}")
        self.workdir = workdir
        self.logs = [workdir.parent / f"{workdir.name}-{i}.log" for i in range(processes)]
        self.processes = []
        for i, log in enumerate(self.logs):
            own = [*meeting, f"--process={i}"] if processes > 1 else []
            with log.open("a") as stream:
                self.processes.append(
                    subprocess.Popen(
                        [*command, f"--workdir={workdir}", *flags, *own],
                        cwd=ROOT,
                        env=os.environ | {"XLA_FLAGS": xla},
                        stdout=stream,
                        stderr=stream,
                    )
                )

    def codes(self, timeout: float = 600) -> list[int]:
        """Exit codes of all, when all have ended."""
        try:
            return [process.wait(timeout) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()

    def until_step(self, step: int) -> None:
        """Returns as soon as the metrics tell of that step."""
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            path = self.workdir / "metrics.jsonl"
            if path.exists() and any(row["step"] >= step for row in read_metrics(path)):
                return
            assert all(process.poll() is None for process in self.processes), self.told()
            time.sleep(0.02)
        pytest.fail(f"step {step} was not reached: {self.told()}")

    def told(self) -> str:
        """The end of what each process printed."""
        return "\n".join(log.read_text()[-2000:] for log in self.logs)


def figures(workdir: Path) -> list[dict[str, float]]:
    return [
        {name: value for name, value in row.items() if not name.startswith("time/")}
        for row in read_metrics(workdir / "metrics.jsonl")
    ]


def assert_close(got: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    """The same rows, but for how sums over other devices or processes are rounded."""
    assert [row.keys() for row in got] == [row.keys() for row in expected]
    for a, b in zip(got, expected, strict=True):
        losses = [name for name in a if name.startswith("train/")]
        assert [a[name] for name in losses] == pytest.approx([b[n] for n in losses], rel=1e-3)


def test_two_processes_have_the_figures_of_one(tmp_path):
    one, two = Run(tmp_path / "one", 1, steps=4), None
    assert one.codes() == [0], one.told()
    two = Run(tmp_path / "two", 2, steps=4)
    assert two.codes() == [0, 0], two.told()
    assert_close(figures(tmp_path / "two"), figures(tmp_path / "one"))
    # What is printed, and written, is the main process's.
    first, second = (log.read_text() for log in two.logs)
    assert "The run is complete" in first
    assert "The run is complete" not in second
    assert (tmp_path / "two" / "report.html").exists()


@pytest.mark.slow
def test_four_processes_have_the_figures_of_one(tmp_path):
    for name, processes in (("one", 1), ("four", 4)):
        run = Run(tmp_path / name, processes, steps=4)
        assert set(run.codes()) == {0}, run.told()
    assert_close(figures(tmp_path / "four"), figures(tmp_path / "one"))


@pytest.mark.slow
def test_a_lost_process_ends_the_other_and_a_restart_goes_on(tmp_path):
    whole = Run(tmp_path / "whole", 2, steps=24)
    assert whole.codes() == [0, 0], whole.told()
    killed = Run(tmp_path / "killed", 2, steps=24)
    killed.until_step(7)
    killed.processes[1].send_signal(signal.SIGKILL)
    start = time.monotonic()
    left, lost = killed.codes(timeout=120)
    assert time.monotonic() - start < 60
    assert lost == -signal.SIGKILL
    assert left in (75, -signal.SIGABRT), killed.told()
    assert "another process" in killed.told() or "tasks are unhealthy" in killed.told()
    again = Run(tmp_path / "killed", 2, steps=24)
    assert again.codes() == [0, 0], again.told()
    assert figures(tmp_path / "killed") == figures(tmp_path / "whole")


@pytest.mark.slow
def test_a_sigterm_to_one_process_stops_all_after_the_same_step_and_others_go_on(tmp_path):
    """Saved by 2 x 4 devices; goes on with 4 x 2, then 1 x 8, then 1 x 1, on other meshes."""
    whole = Run(tmp_path / "whole", 1, steps=24)
    assert whole.codes() == [0], whole.told()
    meshes = [(2, 4, {}), (4, 2, {"fsdp": 2, "tensor": 2}), (1, 8, {"fsdp": 8, "data": 1})]
    for (processes, devices, mesh), stop_at in zip(meshes, (5, 11, 17), strict=True):
        run = Run(tmp_path / "stopped", processes, steps=24, devices=devices, **mesh)
        run.until_step(stop_at)
        run.processes[-1].send_signal(signal.SIGTERM)
        assert set(run.codes()) == {128 + signal.SIGTERM}, run.told()
    last = Run(tmp_path / "stopped", 1, steps=24, devices=1, data=1)
    assert last.codes() == [0], last.told()
    assert_close(figures(tmp_path / "stopped"), figures(tmp_path / "whole"))
