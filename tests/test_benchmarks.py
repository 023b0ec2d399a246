"""What the benchmarks count and print; their timings are looked at, not tested."""

import argparse
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import (
    against_torch,
    compare_objectives,
    gpu_check,
    large_gallery,
    million_videos,
    plan_table,
    real_annotations,
    train_step,
)
from mova_jax.config import ConfigFlags
from mova_jax.evaluation.query_ranks import QueryRanks, save_ranks
from mova_jax.evaluation.ranks import Ranks, RanksBothDirections
from mova_jax.planning.targets import parse

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("op_name", "part"),
    [
        ("jit(train_step)/jvp(vision_tower)/while/body/dot_general", "vision tower"),
        ("jit(train_step)/transpose(jvp(text_tower))/while/body/add", "text tower"),
        ("jit(train_step)/jvp(modular_losses)/sfdm/pairs/vmap(tmn)/dot_general", "TMN"),
        ("jit(train_step)/transpose(jvp(modular_losses))/frame/masks/cmn/mul", "CMN"),
        ("jit(train_step)/jvp(modular_losses)/sfdm/reduce_max", "modular losses"),
        ("jit(train_step)/optimizer/mul", "optimizer"),
        ("jit(train_step)/transpose", "other"),
    ],
)
def test_an_instruction_counts_under_its_innermost_part(op_name, part):
    assert train_step.part_of(op_name) == part


def test_instructions_of_a_compiled_program_are_found_by_their_scope():
    def function(x):
        with jax.named_scope("tmn"):
            y = x @ x
        with jax.named_scope("optimizer"):
            return y @ x

    text = jax.jit(function).lower(jnp.ones((4, 4))).compile().as_text()
    parts = set(train_step.parts_by_instruction(text).values())
    assert {"TMN", "optimizer"} <= parts


def write_run(folder, **metrics):
    folder.mkdir()
    rows = [{"step": 1, "test/t2v/r1": 1.0}, {"step": 2} | metrics]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return compare_objectives.split_metrics(folder, "test")


def test_the_table_has_the_mean_and_the_range_over_seeds(tmp_path):
    a = write_run(tmp_path / "a", **{"test/t2v/r1": 40.0, "test/video_mask_density": 0.5})
    b = write_run(tmp_path / "b", **{"test/t2v/r1": 50.0, "test/video_mask_density": 0.7})
    plain = write_run(tmp_path / "c", **{"test/t2v/r1": 30.0})
    steps = {"full": 100, "global_only": 300}
    lines = compare_objectives.table({"full": [a, b], "global_only": [plain, {}]}, steps)
    assert lines.splitlines() == [
        "| objective | steps | seeds | T2V R@1 | mⱽ open |",
        "|---|---|---|---|---|",
        "| full | 100 | 2 | 45.0 (40.0 to 50.0) | 60.0 (50.0 to 70.0) |",
        "| global_only | 300 | 1 | 30.0 |  |",
    ]


def test_differences_are_paired_over_the_seeds_that_have_ranks(tmp_path):
    def keep(name, hits):
        values = np.where(np.arange(10) < hits, 1.0, 2.0)
        both = RanksBothDirections(Ranks(values, 10), Ranks(np.ones(10), 10))
        ranks = QueryRanks({"global": both}, np.arange(10), None)
        save_ranks(tmp_path / name / "ranks" / "test.npz", ranks, [f"v{i}" for i in range(10)])
        return tmp_path / name

    full = [keep("a", 8), keep("b", 6), keep("c", 0)]
    plain = [keep("d", 4), keep("e", 4), tmp_path / "not_there"]
    runs = {"full": full, "plain": plain}
    text = compare_objectives.differences(runs, "plain", ["test", "ood_time"])
    assert text.splitlines()[2].startswith("| full | +30.0 (+")
    assert text.endswith("; +0.0 (+0.0 to +0.0) | ;  |")


def test_steps_give_every_objective_the_same_time(tmp_path, monkeypatch):
    seconds = {"parts": 0.5, "full": 2.0}
    monkeypatch.setattr(
        compare_objectives, "step_seconds", lambda names: {name: seconds[name] for name in names}
    )
    assert compare_objectives.steps_of(tmp_path, ["parts", "full"], 60) == {
        "parts": 120,
        "full": 30,
    }
    # Measured later on a machine that is twice as slow, at the time of the first.
    seconds |= {"parts": 1.0, "full": 4.0, "global_only": 1.0}
    names = ["full", "global_only"]
    assert compare_objectives.steps_of(tmp_path, names, 60) == {"full": 30, "global_only": 120}


def test_rows_of_the_plan_table_name_presets_and_keys_that_there_are():
    rows = [*plan_table.paper_rows(), *plan_table.scaling_rows(), *plan_table.cost_rows()]
    rows += plan_table.gpu_rows()
    assert len(rows) == 24 + 4 + 2 + 14
    microbatch = {
        (row.model, row.topology): row.settings().get("train.microbatch")
        for row in rows
        if row.batch == 4096
    }
    assert microbatch["b16", "v5e:16x16"] == 1024 and microbatch["l14", "v5e:16x16"] == 256
    assert microbatch["b16", "h100:2x8"] == 256 and microbatch["l14", "h100:1"] == 8
    for row in rows:
        _, config, topology, *keys = row.command()
        parse(topology.removeprefix("--topology="))
        ConfigFlags.take([f"--config={ROOT}/{config.removeprefix('--config=')}", *keys])[0].load()


def test_the_plan_table_has_a_line_a_row_and_says_what_does_not_fit():
    row = plan_table.Row("b16", 256, "v5e:4x4")
    made = {"fits": False, "chips": 16, "devices": 16, "flops": {"program": 2e12}}
    made["memory"] = {"wanted": 32 * 2**30, "usable": 15.75 * 2**30, "host": 0.0}
    fits = made | {"fits": True, "batch": 256, "collectives": {"bytes": 2**30}}
    fits["memory"] = {"total": 2**30, "temporaries": 2**29, "usable": 2**34, "host": 2**31}
    fits["cost"] = {"run_usd": 7.68, "run_steps": 200}
    times = {"step_seconds": 0.1, "step_seconds_without_overlap": 0.2, "communication_share": 0.25}
    fits["roofline"] = times | {"mfu": 0.5, "mfu_without_overlap": 0.25}
    lines = plan_table.table([row, row], [made, fits]).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert "b16/256 v5e:4x4" in lines[2] and "wants 32.0 of 15.75" in lines[2]
    assert "1.0 of 16.00 | 0.50 | 2.0 | 2.00 | 1.00 | 100 to 200 | 25 to 50 | 25 | 1.50" in lines[3]


@pytest.mark.parametrize(("order", "masks"), [(0.0, False), (0.5, True)])
def test_scores_of_a_gallery_are_those_of_a_plain_loop(order, masks):
    found = large_gallery.measure(large_gallery.SMALL, order, masks)
    assert found["difference"] < 1e-5
    assert 5 < found["t2v_r1"] < 100 and 5 < found["v2t_r1"] < 100


def test_real_annotations_are_counted_without_videos(tmp_path):
    lines = "A 0 2##One.\nB 5 3##Two.\nA 1 2##Three.\nno line"
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("charades_sta_train.txt", lines)
    reading = real_annotations.read_without_videos("charades_sta", tmp_path)
    assert list(real_annotations.rows_of(reading)) == [
        ["charades_sta", "train", "2", "3", "2", "2", "12,408 sentences", "read: 3"],
        ["charades_sta", "test", "0", "0", "0", "0", "3,720 sentences", "no file"],
    ]
    reasons = real_annotations.reasons_of(reading)
    assert "1 x a sentence is kept without its times, which must be 0 <= start < end" in reasons[2]
    assert any("charades_sta_train.txt an entry: it must be `id start" in line for line in reasons)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "all.zip"]


def test_queries_find_their_videos_in_a_store_on_disk(tmp_path):
    size = million_videos.SMALL
    text, path = million_videos.paragraphs(size), tmp_path / "vectors.f16"
    million_videos.write_store(path, size, text)
    assert path.stat().st_size == 2 * size.videos * size.frames * size.dim
    found = million_videos.rank(path, size, text)
    assert found["t2v_r1"] > 90
    path.write_bytes(bytes(path.stat().st_size))  # nothing to tell videos apart: all tie
    assert million_videos.rank(path, size, text)["median_rank"] == (size.videos + 1) / 2


def test_a_check_of_a_gpu_that_fails_is_a_line_of_the_table(monkeypatch, capsys):
    said = "import sys; print('out of memory', file=sys.stderr); sys.exit(9)"
    results = {
        "b32": "import time; time.sleep(60)",
        "l14": said,
        "parity": 'print(\'noise\'); print(\'{"result": "ok", "figures": "a | b"}\')',
    }
    run = subprocess.run

    def instead(command, **options):
        return run([sys.executable, "-c", results[command[command.index("--only") + 1]]], **options)

    monkeypatch.setattr(gpu_check.subprocess, "run", instead)
    made = {
        "parity": gpu_check.check_apart("parity", True, 60),
        "b32": gpu_check.check_apart("b32", True, 0.2),
        "l14": gpu_check.check_apart("l14", True, 60),
    }
    lines = gpu_check.table(made, ["DRY RUN"]).splitlines()
    assert lines[-3:] == [
        "| parity | ok | a / b |",
        "| b32 | NOT FINISHED | after 0 s |",
        "| l14 | FAILED | exit code 9: out of memory |",
    ]


def test_checks_of_a_gpu_end_with_its_ten_minutes_and_say_that_it_was_a_dry_run(
    monkeypatch, capsys
):
    clock = iter([0.0, 1.0, 300.0, 599.0, 601.0, 700.0, 800.0, 900.0])
    given = []
    monkeypatch.setattr(gpu_check.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(gpu_check, "bar_of", lambda name, total, items, **_: items)
    monkeypatch.setattr(
        gpu_check,
        "check_apart",
        lambda name, dry_run, left: given.append((name, left)) or {"result": "ok", "figures": ""},
    )
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--dry_run"])
    assert gpu_check.main() == 1
    assert given == [("parity", 599.0), ("b32", 300.0), ("plan", 1.0)]
    said = capsys.readouterr().out
    assert said.startswith("DRY RUN") and said.count("NOT RUN") == 3


def test_the_run_of_the_check_of_a_gpu_has_keys_that_there_are():
    keys = [f"--config.{key}={value}" for key, value in gpu_check.RUN_FLAGS.items()]
    ConfigFlags.take([f"--config={ROOT}/configs/base.py", *keys])[0].load()


def test_steps_of_a_round_are_compared_with_eager_and_the_peak_of_that_round():
    def row(name, *seconds):
        uses = [against_torch.Use(s, 2 * s, 0.5, 1000) for s in seconds]
        return against_torch.Contender(name, 1e12, lambda: 0.0, 2.0, 9.0, uses)

    peaks = [{"jax": (0.5e12, 0.2e12), "torch": (1e12, 0.5e12)}, {"torch": (0.5e12, 0.25e12)}]
    lines = against_torch.table([row("full", 2, 4), row("eager", 3, 6)], peaks).splitlines()
    cells = [cell.strip() for cell in lines[2].split("|")[1:-1]]
    assert cells[:3] == ["full", "2.0000", "9"]
    assert cells[3:5] == ["3.00 (2.00 to 4.00)", "6.00 (4.00 to 8.00)"]
    assert cells[7:] == ["1.50", "1.50", "1", "0.50", "0.50"]


@pytest.mark.slow
def test_contenders_against_torch_have_the_same_loss():
    args = argparse.Namespace(model="tiny", batch=2, frames=2, text_length=12)
    args.only = ("global_only", "torch_model", "eager")
    losses = [one.loss for one in against_torch.contenders(args)]
    np.testing.assert_allclose(losses, losses[0], rtol=1e-5)
