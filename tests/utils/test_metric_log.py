"""The metric log: lines on disk, resuming, and the names of earlier versions."""

import json
import math
import struct

import jax
import jax.numpy as jnp
import pytest
from tensorboardX.proto.event_pb2 import Event

from mova_jax.utils.metric_log import TENSORBOARD_FOLDER, MetricWriter, read_metrics


def write_run(workdir, steps, *, resume_step=None, **options):
    """Writes one line a step; its metrics depend on the step alone."""
    with MetricWriter(workdir, resume_step=resume_step, **options) as writer:
        for step in steps:
            writer.write(step, {"train/loss": 1 / (step + 3), "train/lr": 1e-4 * step})


def read_events(workdir):
    events = []
    for path in sorted((workdir / TENSORBOARD_FOLDER).iterdir()):
        data = path.read_bytes()
        while data:  # length u64, its checksum u32, the event, its checksum u32
            (length,) = struct.unpack("<Q", data[:8])
            events.append(Event.FromString(data[12 : 12 + length]))
            data = data[16 + length :]
    return events


def test_each_line_is_a_json_object_with_step_and_flat_names(tmp_path):
    with MetricWriter(tmp_path / "new" / "run") as writer:
        writer.write(3, {"train/loss": jnp.float32(0.5), "test/t2v/r1": 25.0})
        # Read before the file is closed: every line is flushed.
        lines = (tmp_path / "new" / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {"step": 3, "train/loss": 0.5, "test/t2v/r1": 25.0}
    ]


def test_a_resumed_log_equals_that_of_a_run_that_never_stopped(tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    write_run(whole, range(1, 10), tensorboard=False)
    write_run(stopped, range(1, 8), tensorboard=False)
    with (stopped / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "train/lo')  # killed while writing

    write_run(stopped, range(5, 10), resume_step=4, tensorboard=False)

    assert (stopped / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert [path.name for path in stopped.iterdir()] == ["metrics.jsonl"]


def test_a_new_run_drops_the_lines_of_one_that_saved_nothing(tmp_path):
    write_run(tmp_path, range(0, 5), tensorboard=False)
    write_run(tmp_path, range(0, 2), tensorboard=False)
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [0, 1]


def test_numbers_that_are_not_finite_are_read_as_nan_also_after_resuming(tmp_path):
    with MetricWriter(tmp_path, tensorboard=False) as writer:
        writer.write(1, {"train/loss": math.nan, "train/grad_norm": math.inf})
    write_run(tmp_path, [2], resume_step=1, tensorboard=False)

    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    first, second = read_metrics(tmp_path / "metrics.jsonl")
    assert math.isnan(first["train/loss"]) and math.isnan(first["train/grad_norm"])
    assert second["train/loss"] == 0.2


@pytest.mark.parametrize("line", ["{not json}", "[1, 2]", '{"loss": 1}', '{"step": null}', ""])
def test_a_damaged_line_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n' + line + '\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: expected a JSON object"):
        read_metrics(path)


def test_tensorboard_gets_the_values_and_hides_the_dropped_steps(tmp_path):
    write_run(tmp_path, range(1, 6))
    first = read_events(tmp_path)
    write_run(tmp_path, range(4, 6), resume_step=3)

    values = {(e.step, v.tag): v.simple_value for e in first for v in e.summary.value}
    assert values[2, "train/loss"] == pytest.approx(0.2)
    assert len(values) == 10
    purged_from = [e.step for e in read_events(tmp_path) if e.HasField("session_log")]
    assert purged_from[-1] == 4


def test_metrics_of_earlier_versions_are_read_and_resumed_under_their_names_of_today(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"step": 1, "train/kept_text": 0.5, "train/loss": 2.0, "data/damaged_records": 3}\n'
        '{"step": 2, "validation/kept_video": 0.25, "train/kept_video": 1.0}\n'
    )
    expected = [
        {"step": 1, "train/text_mask_density": 0.5, "train/loss": 2.0, "data/bad_records": 3},
        {"step": 2, "validation/video_mask_density": 0.25, "train/video_mask_density": 1.0},
    ]
    assert read_metrics(path) == expected
    write_run(tmp_path, [3], resume_step=2, tensorboard=False)
    assert read_metrics(path)[:2] == expected and "kept" not in path.read_text()


def test_only_process_0_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    write_run(tmp_path, range(3))
    assert list(tmp_path.iterdir()) == []
