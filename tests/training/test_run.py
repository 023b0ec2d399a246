"""Whole runs of a tiny model: what they leave, and how they stop, resume and refuse."""

import dataclasses
import json
import os
import shutil
import signal

import pytest

from configs.base import get_config
from mova_jax.config import from_config_dict
from mova_jax.evaluation.query_ranks import load_ranks
from mova_jax.training import run as run_lib
from mova_jax.training.loop import Loop
from mova_jax.training.workdir import RunError, check
from tests import tiny
from tests.tracked import trackio_rows, wandb_rows

STEPS = 6


def config(cache, **changes):
    made = get_config()
    sizes = tiny.RUN | {
        "data.cache": str(cache),
        "train.steps": STEPS,
        "train.image_share": 0.4,  # 2 steps: one test stops before their end, one after
        "train.eval_every": 4,
        "optim.ema": 0.7,
        "mesh.fsdp": 2,
    }
    made.update_from_flattened_dict(sizes | {k.replace("__", "."): v for k, v in changes.items()})
    return from_config_dict(made)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def complete(cache, tmp_path_factory):
    """The workdir of a run that was never stopped."""
    workdir = tmp_path_factory.mktemp("complete")
    assert run_lib.run(config(cache), workdir) == 0
    return workdir


def test_a_run_leaves_what_its_workdir_promises(complete):
    for name in ("config.json", "metrics.jsonl", "report.html", "plots", "checkpoints"):
        assert (complete / name).exists(), name
    assert (complete / "checkpoints" / "tokenizer" / "tokenizer.json").exists()
    ranks, video = load_ranks(complete / "ranks" / "test.npz", "t2v")
    assert len(ranks.values) == len(video) == 8
    saved = json.loads((complete / "config.json").read_text())
    assert saved["model"]["text"]["vocab_size"] > 0
    rows = tiny.logged_metrics(complete)
    assert [row["step"] for row in rows if "train/loss" in row] == list(range(1, STEPS + 1))
    assert [row["step"] for row in rows if "validation/t2v/r1" in row] == [4, STEPS]
    # One frame a video among 16, then 3 frames a video among 8.
    assert all(name in rows[0] for name in ("train/sfdm", "train/dfsm", "train/sharpness"))
    last = rows[-1]
    for name in (
        "t2v/r1",
        "modular/v2t/mnr",
        "grounding/frame/hit",
        "sentence_of_frame/frame/accuracy",
        "gallery",
    ):
        assert f"test/{name}" in last
    assert last["test/gallery"] == 8


def test_a_complete_run_started_again_says_so_and_changes_nothing(complete, cache, capsys):
    before = (complete / "metrics.jsonl").read_bytes()
    assert run_lib.run(config(cache), complete) == 0
    assert "is complete" in capsys.readouterr().out
    assert (complete / "metrics.jsonl").read_bytes() == before


def run_stopped(made, workdir, stop_at, monkeypatch):
    """A run that gets a SIGTERM when the metrics of step `stop_at` were written."""
    flush = Loop._flush_metrics

    def flush_and_signal(self, state):
        pending = self._pending
        flush(self, state)
        if pending and pending.step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(Loop, "_flush_metrics", flush_and_signal)
        assert run_lib.run(made, workdir) == 128 + signal.SIGTERM
    assert tiny.logged_metrics(workdir)[-1]["step"] < STEPS


@pytest.mark.parametrize("stop_at", [1, 3])
def test_a_resumed_run_equals_one_that_never_stopped(
    stop_at, complete, cache, tmp_path, monkeypatch
):
    run_stopped(config(cache), tmp_path, stop_at, monkeypatch)
    assert run_lib.run(config(cache), tmp_path) == 0
    assert tiny.logged_metrics(tmp_path) == tiny.logged_metrics(complete)


@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
def test_a_tracked_run_that_resumes_is_one_run_with_every_step_once(
    tracker, cache, tmp_path, monkeypatch
):
    install = "requirements-trackers.txt" if tracker == "wandb" else "pip install trackio"
    module = pytest.importorskip(tracker, reason=f"needs {install}")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    made, workdir = config(cache, log__tracker=tracker), tmp_path / "base"
    run_stopped(made, workdir, 3, monkeypatch)
    run_id = (workdir / "tracker_id").read_text()
    assert run_lib.run(made, workdir) == 0
    assert (workdir / "tracker_id").read_text() == run_id
    if tracker == "wandb":
        module.teardown()  # its process has written everything when it ends
        rows, runs = wandb_rows(workdir, run_id)
        assert runs == {(run_id, "base", "mova_jax")}
        assert len(list((workdir / "wandb").glob(f"offline-run-*-{run_id}"))) == 2
    else:
        rows, names = trackio_rows(run_id)
        assert names == [f"base-{run_id}"]
    steps, logged = list(range(1, STEPS + 1)), tiny.logged_metrics(workdir)
    assert [int(row["step"]) for row in rows if "train/loss" in row] == steps
    for name in ("train/loss", "validation/t2v/r1", "test/t2v/r1"):
        expected = [(row["step"], row[name]) for row in logged if name in row]
        assert [(row["step"], row[name]) for row in rows if name in row] == expected != []


def test_a_resumed_run_in_microbatches_equals_one_that_never_stopped(cache, tmp_path, monkeypatch):
    # Two microbatches of images, then one of videos.
    keys = {"mesh__data": 1, "mesh__fsdp": 1, "train__microbatch": 8, "eval__splits": ()}
    made = config(cache, **keys)
    run_stopped(made, tmp_path / "stopped", 1, monkeypatch)
    assert run_lib.run(made, tmp_path / "stopped") == 0
    assert run_lib.run(made, tmp_path / "whole") == 0
    assert tiny.logged_metrics(tmp_path / "stopped") == tiny.logged_metrics(tmp_path / "whole")


def test_a_loss_that_is_not_finite_stops_and_saves_the_state_before(cache, tmp_path, monkeypatch):
    made = run_lib.make_train_step

    def poisoned(spec, mesh):
        step = made(spec, mesh)

        def take(state, batch):
            if int(state.step) == 2:
                params = dict(state.params) | {
                    "logit_scale": state.params["logit_scale"] * float("nan")
                }
                state = dataclasses.replace(state, params=params)
            return step(state, batch)

        return take

    monkeypatch.setattr(run_lib, "make_train_step", poisoned)
    with pytest.raises(RunError) as error:
        run_lib.run(config(cache), tmp_path)
    assert "not finite at step 3" in str(error.value)
    assert str(error.value).count("train-0000") == 8  # the ids of the batch
    assert (tmp_path / "checkpoints" / "last" / "2").is_dir()
    assert [row["step"] for row in tiny.logged_metrics(tmp_path) if "train/loss" in row] == [1, 2]


def test_another_configuration_is_refused_by_key(complete, cache):
    with pytest.raises(RunError, match=r"losses.margin: 0.2 there, 0.5 now"):
        run_lib.run(config(cache, losses__margin=0.5), complete)


def test_keys_that_change_no_number_may_change(complete, cache):
    changes = {"data__threads": 1, "mesh__fsdp": 1, "model__remat": "dots"}
    assert run_lib.run(config(cache, **changes), complete) == 0
    check(complete, config(cache, model__attention="pallas"))  # which devices here do not have


def test_a_lost_report_is_written_again_without_evaluating_again(complete, cache, tmp_path):
    workdir = tmp_path / "copy"
    shutil.copytree(complete, workdir)
    (workdir / "report.html").unlink()
    assert run_lib.run(config(cache), workdir) == 0
    assert (workdir / "report.html").exists()
    assert tiny.logged_metrics(workdir) == tiny.logged_metrics(complete)


def test_a_batch_that_train_cannot_fill_is_refused_and_the_workdir_stays_free(cache, tmp_path):
    with pytest.raises(RunError, match="too few for a global batch"):
        run_lib.run(config(cache, train__batch_size=64), tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_an_error_of_the_input_loses_no_step(cache, tmp_path, monkeypatch):
    fetch, calls = Loop._fetch, []

    def failing(self):
        calls.append(1)
        if len(calls) == 4:
            raise OSError("the disk is gone")
        return fetch(self)

    with monkeypatch.context() as patched:
        patched.setattr(Loop, "_fetch", failing)
        with pytest.raises(OSError, match="the disk is gone"):
            run_lib.run(config(cache), tmp_path)
    assert (tmp_path / "checkpoints" / "last" / "3").is_dir()


def test_a_missing_folder_of_shards_is_a_clear_error(cache, tmp_path):
    from mova_jax.data.shards import ShardError

    with pytest.raises(ShardError, match="There is no shard folder"):
        run_lib.run(config(cache, data__source=str(tmp_path / "none")), tmp_path / "run")


def test_a_tfds_data_set_has_no_tokenizer_to_train_with(cache, tmp_path, monkeypatch):
    monkeypatch.setattr("mova_jax.training.setup.splits_of", lambda name: {"train": 9})
    with pytest.raises(RunError, match=r"tfds:cats has no tokenizer: give init=CLIP, .* or make"):
        run_lib.run(config(cache, data__source="tfds:cats"), tmp_path / "run")


def test_a_batch_that_does_not_divide_over_the_devices_is_refused(cache, tmp_path):
    with pytest.raises(RunError, match="choose a multiple of 8"):
        run_lib.run(config(cache, train__batch_size=6), tmp_path)
    assert not (tmp_path / "config.json").exists()
