"""Experiment trackers: offline, under one id, and missing ones."""

import contextlib
import importlib.util

import pytest

from mova_jax.utils.metric_log import MetricWriter
from mova_jax.utils.trackers import ID_FILE, TrackerError, check_tracker, open_tracker
from tests.tracked import trackio_rows, wandb_rows


def log_twice(name, workdir):
    """Writes steps 1 and 2, and in a process that resumes from step 1, steps 2 and 3."""
    for resume_step, steps in ((None, (1, 2)), (1, (2, 3))):
        tracker = open_tracker(name, workdir, {"train.steps": 3})
        writer = MetricWriter(workdir, resume_step=resume_step, tensorboard=False, tracker=tracker)
        with contextlib.closing(writer):
            for step in steps:
                writer.write(step, {"train/loss": 1 / step})
            writer.write(steps[-1], {"validation/r1": 50.0})  # a second row of a step
        tracker.finish()
    return (workdir / ID_FILE).read_text()


def test_wandb_offline_keeps_every_row_under_one_id(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="needs requirements-trackers.txt")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run_id = log_twice("wandb", tmp_path / "base")
    wandb.teardown()  # its process has written everything when it ends
    rows, runs = wandb_rows(tmp_path / "base", run_id)
    assert runs == {(run_id, "base", "mova_jax")}
    losses = [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row]
    assert losses == [(1, 1.0), (2, 0.5), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert [row["step"] for row in rows if "validation/r1" in row] == [2, 3]


def test_trackio_keeps_every_row_under_one_id(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio", reason="needs pip install trackio")
    run_id = log_twice("trackio", tmp_path / "base")
    rows, names = trackio_rows(run_id)
    assert names == [f"base-{run_id}"]
    losses = [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row]
    assert losses == [(1, 1.0), (2, 0.5), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert [row["step"] for row in rows if "validation/r1" in row] == [2, 3]


def test_without_a_tracker_nothing_is_written(tmp_path):
    assert open_tracker("none", tmp_path, {}) is None
    assert list(tmp_path.iterdir()) == []


def test_a_tracker_that_is_missing_or_does_not_start_is_named(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "trackio" else find(name)
    )
    with pytest.raises(TrackerError, match=r"log.tracker is trackio.*pip install trackio"):
        check_tracker("trackio")
    wandb = pytest.importorskip("wandb", reason="needs requirements-trackers.txt")
    monkeypatch.setattr(wandb, "init", lambda **_: 1 / 0)
    message = r"wandb, which does not start: division by zero\. .*--config.log.tracker=none"
    with pytest.raises(TrackerError, match=message):
        open_tracker("wandb", tmp_path, {})
