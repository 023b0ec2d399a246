"""The command: a config in, a page or JSON out, and an exit code that says whether it fits."""

import argparse
import dataclasses
import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest

from mova_jax import plan
from mova_jax.config import ConfigError, ConfigFlags
from mova_jax.cost.chips import CHIPS
from mova_jax.data.pipeline.batching import PipelineSettings
from mova_jax.losses import context, hard_pairs, ring
from mova_jax.planning import compile as compile_lib
from mova_jax.planning import gpu
from mova_jax.planning.advice import advice
from mova_jax.planning.estimate import PlanRequest, estimate
from mova_jax.planning.render import render
from mova_jax.planning.targets import devices, parse
from tests import tiny

ROOT = Path(__file__).resolve().parents[2]
BASE = str(ROOT / "configs" / "base.py")
GIB = 2**30


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """The command sets variables for the JAX that it starts; here JAX runs already."""
    monkeypatch.setattr(os, "environ", dict(os.environ))


@pytest.fixture(scope="module")
def step():
    cfg = tiny.config(train__batch_size=8, losses__hard_pairs=0)
    return compile_lib.trace(cfg, jax.devices(), cfg.model.text.context)


@pytest.fixture(scope="module")
def cached(step, tmp_path_factory):
    """The cache after one compile, and its answer."""
    folder = tmp_path_factory.mktemp("cache")
    return folder, compile_lib.compile_step(step, folder)


def load(config, *flags):
    """The configuration that is planned."""
    made, _ = ConfigFlags.take([f"--config={config}", *flags])
    return plan.with_vocabulary(made.load())


def order(chip=None, **changes):
    made = PlanRequest("tiny", parse("cpu:8"), chip, tiny.L, 1000, None)
    return dataclasses.replace(made, **changes)


def test_flags_change_the_config_by_type_and_fill_in_the_vocabulary():
    flags = ["--config.train.steps=77", "--config.model.remat=full", "--config.losses.margin=1"]
    config = load(f"{BASE}:model=b16", *flags, "--config.model.cmn.sees_frame=true")
    assert (config.train.steps, config.model.remat, config.losses.margin) == (77, "full", 1.0)
    assert config.model.cmn.sees_frame is True
    assert config.model.text.vocab_size == 49408
    named = load(BASE, "--config.model.text.vocab_size=1024")
    assert named.model.text.vocab_size == 1024


def test_all_wrong_flags_are_reported_at_once(capsys):
    flags = [f"--config={BASE}", "--config.train.stepz=5", "--topologie=cpu:8", "--json"]
    assert plan.main(flags) == plan.FAILED
    said = capsys.readouterr().err
    assert "train.steps" in said and "--topologie=cpu:8" in said and "2 problem(s)" in said
    assert plan.main([f"--config={BASE}", "--topology=v5e"]) == plan.FAILED
    assert "v5e:16x16" in capsys.readouterr().err


def test_a_planned_batch_has_parts_of_the_longest_length():
    config = load(BASE, "--config.data.parts=4")
    batch = compile_lib.abstract_batch(config, 64)
    b = config.train.batch_size
    assert batch.part_tokens.shape == batch.part_token_mask.shape == (b, 4, 77)
    assert (batch.part_tokens.dtype, batch.part_token_mask.dtype) == (np.int32, np.bool_)


def test_a_planned_batch_may_have_no_parts_or_short_ones():
    assert compile_lib.abstract_batch(tiny.config(), tiny.L).part_tokens is None
    short = compile_lib.abstract_batch(tiny.config(data__parts=3), tiny.L)
    assert short.part_tokens.shape == (tiny.B, 3, tiny.L)


def test_a_batch_that_does_not_divide_is_refused():
    config = load(BASE, "--config.train.batch_size=12")
    args = argparse.Namespace(topology="cpu:8", tokens=0)
    with pytest.raises(ConfigError, match=r"train\.batch_size is 12 over 8 devices"):
        plan.plan(config, args)
    config = load(BASE, "--config.train.batch_size=64", "--config.train.microbatch=4")
    with pytest.raises(ConfigError, match=r"train\.microbatch is 4 over 8 devices"):
        plan.plan(config, args)


def test_the_answer_is_kept_and_a_broken_file_is_made_again(step, cached, monkeypatch):
    folder, result = cached
    (file,) = folder.iterdir()
    assert dataclasses.replace(result, seconds=0) == dataclasses.replace(
        compile_lib.compile_step(step, folder), seconds=0
    )
    assert result.fits and result.arguments > step.state_bytes and "ENTRY" in result.text
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    monkeypatch.setattr(
        compile_lib, "_result", lambda made: compile_lib.CompileResult(True, code=1.0)
    )
    assert compile_lib.compile_step(step, folder).code == 1.0
    file.write_bytes(whole)


def test_the_report_of_a_machine_without_figures_has_no_roofline(step, cached):
    made = estimate(step, cached[1], order())
    assert made["fits"] and made["memory"]["free"] is None
    assert "roofline" not in made and "cost" not in made
    assert made["mesh"]["data"] == made["devices"] == 8
    assert 0 < made["flops"]["model_global"] <= 1.000001 * made["flops"]["program_global"]
    assert made["collectives"]["by_kind"]["all-reduce"]["bytes"] > 0
    json.dumps(made)
    assert "no roofline, no cost" in render(made)


def test_a_program_that_no_gpu_compiler_refuses_is_compared_with_the_card(step, cached):
    small = dataclasses.replace(CHIPS["h100"], hbm_usable=cached[1].total - 1)
    made = estimate(step, cached[1], order(small))
    assert not made["fits"] and made["memory"]["free"] == -1
    text = render(made)
    assert "JAX takes 90% of a GPU's memory" in text and "It does not fit" in text
    assert "NVLink" in text and "ICI" not in text
    assert estimate(step, cached[1], order(CHIPS["h100"]))["fits"]


def test_the_report_of_a_chip_has_time_and_cost(step, cached):
    chip = dataclasses.replace(CHIPS["h100"], price=2.0, price_region="somewhere")
    made = estimate(step, cached[1], order(chip))
    bounds, cost = made["roofline"], made["cost"]
    peak = chip.peak_flops * 8
    assert bounds["mfu"] == pytest.approx(
        made["flops"]["model_global"] / peak / bounds["step_seconds"]
    )
    assert bounds["mfu_without_overlap"] < bounds["mfu"] <= 1
    steps_an_epoch = 1000 / 8
    hours = steps_an_epoch * bounds["step_seconds_without_overlap"] / 3600
    assert cost["epoch_usd"] == pytest.approx(hours * 8 * 2.0)
    given = estimate(step, cached[1], order(chip, price=3.0))["cost"]
    assert given["epoch_usd"] == pytest.approx(1.5 * cost["epoch_usd"])
    text = render(made)
    assert "MFU" in text and "somewhere" in text and "modular part adds" in text


@pytest.mark.parametrize(
    "message",
    [
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 32.50G of 15.75G hbm. "
        "Exceeded hbm capacity by 16.75G.",
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (32.50G) exceeds available HBM (15.75G).",
    ],
)
def test_a_program_that_does_not_fit_says_how_much_it_wanted(step, message, monkeypatch, tmp_path):
    def refuse(lowered, compiler_options=None):
        raise jax.errors.JaxRuntimeError(message)

    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    result = compile_lib.compile_step(step, tmp_path)
    assert (result.fits, result.wanted, result.available) == (False, 32.5 * GIB, 15.75 * GIB)
    made = estimate(step, result, order(CHIPS["v5e"]))
    assert not made["fits"] and "roofline" not in made
    text = render(made)
    assert "wants 32.50 GiB of 15.75 GiB" in text and "model.remat=full" in text


def test_advice_comes_in_order_and_leaves_out_what_is_done():
    made = {"fits": False, "chips": 16, "slices": 1, "mesh": {"data": 16, "fsdp": 1, "tensor": 1}}
    made["memory"] = {"state_whole": 2.0 * GIB, "batch": 1.0 * GIB, "usable": 15.75 * GIB}
    first = advice(tiny.config(data__frames=64), made)
    assert [line.partition("=")[0] for line in first[:2]] == ["model.dtype", "model.remat"]
    rest = "\n".join(first[2:])
    places = [rest.index(word) for word in ("mesh.fsdp=16", "data.frames=32", "than 16")]
    assert places == sorted(places)
    assert "of the batch alone" not in "\n".join(first)
    made["mesh"]["fsdp"], made["memory"]["batch"] = 16, 19.0 * GIB
    done = advice(tiny.config(model__dtype="bfloat16", model__remat="full"), made)
    assert not any(line.startswith(("model.", "mesh.")) for line in done)
    assert "batch alone take 19.0 GiB" in done[0] and "train.microbatch" in done[0]


def test_advice_against_computing_the_towers_a_third_time():
    made = {"fits": True, "memory": {"free": 9.0 * GIB, "usable": 15.75 * GIB, "host": 0.0}}
    for remat, rows, expected in (("full", 2, True), ("dots", 2, False), ("full", 0, False)):
        lines = advice(tiny.config(model__remat=remat, train__microbatch=rows), made)
        assert any("model.remat=dots" in line for line in lines) == expected


@pytest.mark.parametrize(
    ("mesh", "slices", "changes", "rows", "fsdp"),
    [
        ((12, 1, 1), 1, {"train__batch_size": 240}, "60", "mesh.fsdp=12:"),
        ((12, 1, 1), 2, {"train__batch_size": 12}, "", "mesh.fsdp=6:"),
        ((12, 1, 2), 1, {"train__batch_size": 132, "mesh__data": 12}, "12", "data=1 mesh.fsdp=12:"),
        ((17, 1, 1), 1, {"train__batch_size": 34}, "17", ""),
        ((4, 2, 1), 1, {"train__batch_size": 64, "train__microbatch": 8}, "", ""),
    ],
)
def test_advice_names_only_what_the_run_accepts(mesh, slices, changes, rows, fsdp):
    made = {"fits": False, "chips": 16, "slices": slices, "memory": {"state_whole": GIB}}
    made["memory"] |= {"batch": 0.0, "usable": 15.75 * GIB}
    made["mesh"] = dict(zip(("data", "fsdp", "tensor"), mesh, strict=True))
    text = "\n".join(advice(tiny.config(**changes), made))
    assert (f"train.microbatch={rows}:" in text) if rows else "train.microbatch" not in text
    assert (fsdp in text) if fsdp else "mesh.fsdp" not in text


def test_frames_offloaded_to_the_host_are_shown_and_many_are_a_warning(step, cached):
    cfg = tiny.config(train__batch_size=16, train__microbatch=8)
    offloaded = compile_lib.trace(cfg, jax.devices(), cfg.model.text.context)
    frames = 16 / 8 * tiny.F * tiny.SIZE**2 * 3  # bytes, of two videos a device
    assert offloaded.host_bytes == frames
    assert step.host_bytes == 0 and step.batch_bytes > frames / 2 > 2 * offloaded.batch_bytes
    much = dataclasses.replace(step, host_bytes=9.5 * GIB)
    made = estimate(much, cached[1], order())
    held = f"{(3 + PipelineSettings.prefetch) * 9.5:.0f} GiB of frames"
    text = render(made)
    assert "frames, on the host" in text and "9.50 GiB" in text and held in text
    assert "on the host" not in render(estimate(step, cached[1], order()))


@pytest.mark.parametrize(("room", "chunk"), [(2**29, 8), (0, 3)])
def test_loops_over_chosen_pairs_are_counted_by_the_chunks_that_the_step_takes(
    monkeypatch, room, chunk
):
    # 8 pairs of a visit: 4 videos a replica, each with 4 captions, over 2 replicas.
    each = 64 * (tiny.F * tiny.D + (0 if room else tiny.L * tiny.W))
    monkeypatch.setattr(context, "STORED_NUMBERS", room)
    monkeypatch.setattr(ring, "STORED_FLOATS", 0)
    monkeypatch.setattr(ring, "TILE_FLOATS", each * (3 if not room else 100))
    taken, score = [], hard_pairs.score_chosen
    monkeypatch.setattr(
        hard_pairs, "score_chosen", lambda *args: taken.append(args[-1]) or score(*args)
    )
    cfg = tiny.config(train__batch_size=8, losses__hard_pairs=3, losses__dfsm_masks="own")
    step = compile_lib.trace(cfg, jax.devices()[:2], cfg.model.text.context)
    assert set(taken) == {chunk} and step.trips == 8 / chunk


def test_an_epoch_is_that_of_the_data_or_unknown(step, cached, tmp_path):
    assert plan._train_videos(load(BASE)) == load(BASE).data.train_videos
    elsewhere = load(BASE, "--config.data.source=/not/here")
    assert plan._train_videos(elsewhere) is None
    made = estimate(step, cached[1], order(CHIPS["h100"], epoch=None, price=2.0))
    cost = made["cost"]
    assert [cost[f"epoch_{what}"] for what in ("videos", "hours", "chip_hours", "usd")] == 4 * [
        None
    ]
    seconds = made["roofline"]["step_seconds_without_overlap"]
    assert cost["run_usd"] == pytest.approx(step.config.train.steps * seconds / 3600 * 8 * 2.0)
    assert "give --videos for the cost of an epoch" in render(made)


def test_videos_of_a_device_are_those_of_its_rows():
    cfg = tiny.config(train__batch_size=8, mesh__tensor=2)
    step = compile_lib.trace(cfg, jax.devices(), cfg.model.text.context)
    made = estimate(step, compile_lib.CompileResult(False, message="too large"), order())
    assert (made["devices"], made["batch_per_device"]) == (8, 2)


@pytest.mark.slow
def test_the_command_prints_what_it_found(capsys):
    flags = [f"--config={BASE}", "--topology=cpu:8", "--cache=", "--tokens=48", "--json"]
    assert plan.main(flags) == plan.DONE
    made = json.loads(capsys.readouterr().out)
    assert made["devices"] == 8 and made["tokens"] == 48 and "cost" not in made


@pytest.mark.slow
def test_the_base_recipe_compiled_for_a_pod(capsys, tmp_path):
    pytest.importorskip("libtpu")
    flags = [f"--config={BASE}", "--topology=v5e:4x4", f"--cache={tmp_path}", "--tokens=48"]
    assert plan.main([*flags, "--json"]) == plan.DONE
    made = json.loads(capsys.readouterr().out)
    assert made["chips"] == 16 and 0 < made["memory"]["free"] < made["memory"]["usable"]
    assert 0 < made["roofline"]["mfu"] < 1 and made["cost"]["price_chip_hour"] == 1.2


@pytest.mark.slow
def test_weak_scaling_has_flat_flops_and_bounded_messages_a_device():
    made = {}
    for count in (2, 4, 8):
        cfg = tiny.config("global_only", train__batch_size=2 * count)
        step = compile_lib.trace(cfg, jax.devices()[:count], cfg.model.text.context)
        topology = parse(f"cpu:{count}")
        made[count] = estimate(step, compile_lib.compile_step(step), order(topology=topology))
    flops = [made[count]["flops"]["program"] for count in made]
    received = [made[count]["collectives"]["bytes"] for count in made]
    assert max(flops) < 1.02 * min(flops)
    # A ring's share (n - 1) / n of the gradients, and the embeddings of all.
    assert received[2] < 1.1 * 2 * (7 / 8) * received[0]


@pytest.mark.slow
def test_a_tiny_model_compiled_for_gpus_of_two_nodes():
    if not gpu.is_installed():
        pytest.skip("needs requirements-gpu-plan.txt")
    topology = parse("h100:2x2")
    cfg = tiny.config(train__batch_size=8, mesh__fsdp=2, model__dtype="bfloat16")
    step = compile_lib.trace(cfg, devices(topology), cfg.model.text.context)
    result = compile_lib.compile_step(step, options=topology.compiler_options)
    made = estimate(step, result, order(topology.chip, topology=topology))
    assert (made["chips"], made["nodes"], made["fits"]) == (4, 2, True)
    assert result.arguments >= step.batch_bytes and made["memory"]["share_of_card"] == 0.9
    # Gradients are summed over the nodes; parameters are gathered within each.
    found = made["collectives"]
    assert 0 < found["bytes_between_nodes"] < found["bytes"]
    assert {"all-gather", "all-reduce"} <= found["by_kind"].keys()
    bounds = made["roofline"]
    assert bounds["ici_seconds"] > 0 and bounds["dcn_seconds"] > 0
    text = render(made)
    assert "of it between nodes" in text and "NVLink" in text
