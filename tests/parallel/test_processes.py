"""Several processes on loopback: equal metrics, lost processes, resuming with another number."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mova_jax import config as config_lib
from mova_jax.parallel.mesh import make_mesh
from mova_jax.parallel.processes import start_processes
from mova_jax.training.checkpoint import Checkpoints, abstract_state
from mova_jax.training.state import make_train_spec
from mova_jax.utils.metric_log import read_metrics
from mova_jax.utils.trees import parameter_names
from tests import tiny

ROOT = Path(__file__).resolve().parents[2]


def start(command: list[str], logs: list[Path], devices: int) -> list[subprocess.Popen]:
    """One process for each log, joined when they are several, with so many devices each."""
    xla = os.environ["XLA_FLAGS"].replace("device_count=8", f"device_count={devices}")
    if len(logs) > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            command = [*command, f"--coordinator=127.0.0.1:{free.getsockname()[1]}"]
        command.append(f"--processes={len(logs)}")
    processes = []
    for i, log in enumerate(logs):
        own = [f"--process={i}"] if len(logs) > 1 else []
        with log.open("a") as stream:
            made = subprocess.Popen(
                [*command, *own],
                cwd=ROOT,
                env=os.environ | {"XLA_FLAGS": xla},
                stdout=stream,
                stderr=stream,
            )
        processes.append(made)
    return processes


class Run:
    """The processes of one run; together they have eight devices."""

    def __init__(
        self, workdir: Path, processes: int, steps: int, devices: int = 0, *, keys=None, **mesh: int
    ):
        """Starts them with `devices` each, by default 8 / processes."""
        changes = {"data.cache": workdir.parent / "cache", "train.steps": steps}
        changes |= {"train.eval_every": max(2, steps // 2)}
        changes |= {f"mesh.{axis}": size for axis, size in mesh.items()} | (keys or {})
        flags = [f"--config.{name}={value}" for name, value in (tiny.RUN | changes).items()]
        command = [sys.executable, "-m", "mova_jax.main", "--config=configs/base.py"]
        self.workdir = workdir
        self.logs = [workdir.parent / f"{workdir.name}-{i}.log" for i in range(processes)]
        command += [f"--workdir={workdir}", *flags]
        self.processes = start(command, self.logs, devices or 8 // processes)

    def codes(self, timeout: float = 600) -> list[int]:
        """Waits for all processes and returns their exit codes."""
        try:
            return [process.wait(timeout) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()

    def until_step(self, step: int) -> None:
        """Returns as soon as the metrics of that step are written."""
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            path = self.workdir / "metrics.jsonl"
            if path.exists() and any(row["step"] >= step for row in read_metrics(path)):
                return
            assert all(process.poll() is None for process in self.processes), self.output()
            time.sleep(0.02)
        pytest.fail(f"step {step} was not reached: {self.output()}")

    def output(self) -> str:
        """The end of the output of each process."""
        return "\n".join(log.read_text()[-2000:] for log in self.logs)


def saved(workdir: Path, **mesh: int) -> dict[str, np.ndarray]:
    """The parameters of the last checkpoint by name, restored onto a mesh of this process."""
    config = config_lib.from_json((workdir / "config.json").read_text())
    made = make_mesh(**mesh)
    checkpoints = Checkpoints(workdir, config)
    try:
        state = checkpoints.restore_last(abstract_state(make_train_spec(config, made), made)).state
    finally:
        checkpoints.close()
    return {name: np.asarray(leaf) for name, leaf in parameter_names(state.params).items()}


def allowed(name: str, value: float) -> float:
    """The largest change of a metric that the order of sums may cause.

    Means change by rounding. Counts change by whole queries: this model has hardly learned, its
    scores nearly tie, and a tie that goes the other way moves a query by one place. One query of
    the gallery may do so.
    """
    one, kind = 1 / tiny.RUN["data.eval_videos"], name.rpartition("/")[2]
    steps = {"r1": 100 * one, "r5": 100 * one, "r10": 100 * one, "mdr": 0.5, "mnr": one}
    steps |= {"r1_low": 200 * one, "r1_high": 200 * one, "pairs": one, "own_masks": one}
    steps |= dict.fromkeys(("hit", "auc", "miou"), one)
    return steps.get(kind, 0.0) + 1e-3 * abs(value)


def assert_close(got: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    """Compares rows up to the rounding of sums over other devices or processes.

    The weight of the blend is chosen by counting: blended metrics are compared only where it is the
    same.
    """
    assert [row.keys() for row in got] == [row.keys() for row in expected]
    for a, b in zip(got, expected, strict=True):
        left_out = set()
        for split in ("validation", "test"):
            if a.get(f"{split}/blend/weight") != b.get(f"{split}/blend/weight"):
                left_out |= {f"{split}/blend", f"{split}/t2v", f"{split}/v2t"}
        for name in a:
            if not any(name.startswith(f"{start}/") for start in left_out):
                assert a[name] == pytest.approx(b[name], abs=allowed(name, b[name]), rel=0), name


def test_two_processes_have_the_metrics_of_one(tmp_path):
    # The run of two uses microbatches: the frames are offloaded to two hosts.
    keys = {"train.batch_size": 16}
    one = Run(tmp_path / "one", 1, steps=4, keys=keys)
    assert one.codes() == [0], one.output()
    two = Run(tmp_path / "two", 2, steps=4, keys=keys | {"train.microbatch": 8})
    assert two.codes() == [0, 0], two.output()
    assert_close(tiny.logged_metrics(tmp_path / "two"), tiny.logged_metrics(tmp_path / "one"))
    expected = saved(tmp_path / "one", data=1)
    for name, value in saved(tmp_path / "two", data=1).items():
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=1e-4, err_msg=name)
    # Only the main process prints and writes.
    first, second = (log.read_text() for log in two.logs)
    assert "The run is complete" in first
    assert "The run is complete" not in second
    assert (tmp_path / "two" / "report.html").exists()
    assert_two_processes_evaluate(tmp_path / "two")


def assert_two_processes_evaluate(workdir: Path) -> None:
    """Asks two processes for the figures that the run wrote of its test split."""
    output = workdir.with_name("evaluated")
    command = [sys.executable, "-m", "mova_jax.evaluate", f"--model={workdir}"]
    logs = [workdir.with_name(f"evaluated-{i}.log") for i in range(2)]
    processes = start([*command, f"--output={output}"], logs, 4)
    assert [process.wait(600) for process in processes] == [0, 0], logs[0].read_text()
    (figures,) = tiny.logged_metrics(output)
    last = tiny.logged_metrics(workdir)[-1]
    assert_close([figures], [{name: last[name] for name in figures}])
    assert "Look at" in logs[0].read_text() and "Look at" not in logs[1].read_text()


@pytest.mark.slow
def test_four_processes_have_the_metrics_of_one(tmp_path):
    for name, processes in (("one", 1), ("four", 4)):
        run = Run(tmp_path / name, processes, steps=4)
        assert set(run.codes()) == {0}, run.output()
    assert_close(tiny.logged_metrics(tmp_path / "four"), tiny.logged_metrics(tmp_path / "one"))


@pytest.mark.slow
def test_a_lost_process_ends_the_other_and_a_restart_resumes(tmp_path):
    whole = Run(tmp_path / "whole", 2, steps=24)
    assert whole.codes() == [0, 0], whole.output()
    killed = Run(tmp_path / "killed", 2, steps=24)
    killed.until_step(7)
    killed.processes[1].send_signal(signal.SIGKILL)
    start = time.monotonic()
    left, lost = killed.codes(timeout=120)
    assert time.monotonic() - start < 60
    assert lost == -signal.SIGKILL
    assert left in (75, -signal.SIGABRT), killed.output()
    reason = killed.logs[0].read_text()
    assert "another process of the run ended" in reason or "another task died" in reason
    assert "Current thread" not in reason  # no stacks of all threads
    again = Run(tmp_path / "killed", 2, steps=24)
    assert again.codes() == [0, 0], again.output()
    assert tiny.logged_metrics(tmp_path / "killed") == tiny.logged_metrics(tmp_path / "whole")


@pytest.mark.slow
def test_a_sigterm_to_one_process_stops_all_at_the_same_step_and_others_resume(tmp_path):
    """Saved by 2 x 4 devices; resumed by 4 x 2, then 1 x 8, then 1 x 1, on other meshes.

    tests/data/pipeline/test_pipeline.py compares the batches with those of an uninterrupted run.
    """
    whole = Run(tmp_path / "whole", 1, steps=24)
    assert whole.codes() == [0], whole.output()
    meshes = [(2, 4, {}), (4, 2, {"fsdp": 2, "tensor": 2}), (1, 8, {"fsdp": 8, "data": 1})]
    for (processes, devices, mesh), stop_at in zip(meshes, (5, 11, 17), strict=True):
        if (tmp_path / "stopped").exists():
            there, whole_there = (saved(tmp_path / "stopped", **m) for m in (mesh, {"data": 1}))
            for name, value in whole_there.items():
                np.testing.assert_array_equal(there[name], value, err_msg=name)
        run = Run(tmp_path / "stopped", processes, steps=24, devices=devices, **mesh)
        run.until_step(stop_at)
        run.processes[-1].send_signal(signal.SIGTERM)
        assert set(run.codes()) == {128 + signal.SIGTERM}, run.output()
    last = Run(tmp_path / "stopped", 1, steps=24, devices=1, data=1)
    assert last.codes() == [0], last.output()
    assert_close(tiny.logged_metrics(tmp_path / "stopped"), tiny.logged_metrics(tmp_path / "whole"))


@pytest.mark.parametrize(
    "given", [("host:1", 0, -1), ("", 2, 0), ("host:1", 2, 2), ("host:1", 2, -1)]
)
def test_the_arguments_of_start_processes_come_together_or_not_at_all(given):
    with pytest.raises(ValueError, match="or none of the three"):
        start_processes(*given)
