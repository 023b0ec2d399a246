"""Programs that are kept: the same as traced ones, found only by what they were made from."""

import dataclasses
import functools
import os
import time

import jax
import numpy as np
import pytest

import mova_jax
from mova_jax.parallel import mesh as mesh_lib
from mova_jax.training import kept
from mova_jax.training.kept import KeptPrograms
from mova_jax.training.state import make_train_spec
from mova_jax.training.step import make_train_step
from tests import tiny


@functools.cache
def recipe_of(**options):
    mesh = mesh_lib.make_mesh(data=1)
    return mesh, make_train_spec(tiny.config("global_only", **options), mesh)


def never(*_):
    raise AssertionError("this is traced, though it was kept")


def run(programs: KeptPrograms, traced=True, **options):
    """Leaves of the state after two steps, metrics of the second."""
    mesh, spec = recipe_of(**options)
    step = make_train_step(spec, mesh) if traced else never
    if not traced:
        spec = dataclasses.replace(spec, initial=never)
    state, step = programs.initial(spec), programs.train_step(step, spec)
    for seed in range(2):
        batch = mesh_lib.put_batch(mesh, tiny.batch_arrays(seed=seed), spec.config.train.microbatch)
        before = state
        state, metrics = step(state, batch)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before.params))  # donated
    assert jax.tree.structure(state) == jax.tree.structure(spec.shapes)
    return jax.device_get((jax.tree.leaves(state), metrics))


def assert_equal(got, expected):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("options", [{}, {"train__microbatch": 2}], ids=["whole", "waiting"])
def test_a_second_start_traces_nothing_and_computes_the_same(tmp_path, options):
    programs = KeptPrograms(tmp_path / "traced", "origin")
    expected = run(KeptPrograms(None, ""), **options)
    first, second = run(programs, **options), run(programs, traced=False, **options)
    assert sorted(file.name.split("-")[0] for file in programs.folder.iterdir()) == [
        "initial", "train_step",
    ]  # fmt: skip
    assert_equal(second, first)
    assert first[1].keys() == expected[1].keys()
    tiny.assert_near(first, expected, 1e-5)


def test_a_batch_of_other_shapes_has_a_program_of_its_own(tmp_path):
    programs, (mesh, spec) = KeptPrograms(tmp_path, "origin"), recipe_of()
    step = programs.train_step(make_train_step(spec, mesh), spec)
    state = programs.initial(spec)
    for rows in (4, 2, 4):
        state, _ = step(state, mesh_lib.put_batch(mesh, tiny.batch_arrays(rows)))
    assert int(state.step) == 3
    assert len(list(tmp_path.glob("train_step-*"))) == 2


@pytest.mark.parametrize("damage", [b"", b"not a program", None], ids=["empty", "other", "cut"])
def test_a_damaged_program_is_traced_again_and_replaced(tmp_path, damage):
    programs = KeptPrograms(tmp_path, "origin")
    expected = run(programs)
    whole = {file: file.read_bytes() for file in tmp_path.iterdir()}
    for file, data in whole.items():
        file.write_bytes(data[: len(data) // 2] if damage is None else damage)
    assert_equal(run(programs), expected)
    assert all(len(file.read_bytes()) == len(data) for file, data in whole.items())
    run(programs, traced=False)


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path):
    (tmp_path / "file").write_text("no folder")
    assert len(run(KeptPrograms(tmp_path / "file" / "traced", "origin"))[0]) > 10
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_program_that_cannot_be_kept_runs_all_the_same(tmp_path):
    programs, (_, spec) = KeptPrograms(tmp_path, "origin"), recipe_of()

    def step(state, batch):
        jax.debug.callback(lambda: None)  # a call into this very process
        return state, {"loss": jax.numpy.float32(3)}

    state = programs.initial(spec)
    state, metrics = programs.train_step(step, spec)(state, tiny.batch())
    assert float(metrics["loss"]) == 3.0 and int(state.step) == 0
    assert not list(tmp_path.glob("train_step-*"))


# -- what a program is found by


def sources(folder, text):
    (folder / "models").mkdir(parents=True)
    (folder / "models" / "mova.py").write_text(text)
    return folder


def test_sources_configuration_device_and_settings_are_the_origin(tmp_path):
    mesh, config = mesh_lib.make_mesh(data=1), tiny.config()
    one, other = sources(tmp_path / "one", "x = 1"), sources(tmp_path / "other", "x = 2")
    found = [
        kept.origin(config, mesh, one),
        kept.origin(config, mesh, other),
        kept.origin(tiny.config(optim__learning_rate=0.5), mesh, one),
    ]
    jax.config.update("jax_debug_nans", True)
    try:
        found.append(kept.origin(config, mesh, one))
    finally:
        jax.config.update("jax_debug_nans", False)
    assert len(set(found)) == len(found)
    assert kept.origin(tiny.config(), mesh, one) == found[0]
    assert kept.origin(config, mesh, sources(tmp_path / "same", "x = 1")) == found[0]


def test_nothing_is_kept_of_sources_that_changed_since_they_were_loaded(tmp_path, monkeypatch):
    folder = sources(tmp_path / "one", "x = 1")
    (folder / "models" / ".#mova.py").symlink_to("someone@somewhere")
    file = folder / "models" / "mova.py"
    monkeypatch.setattr(mova_jax, "LOADED", time.time() + 60)
    assert not kept._changed(folder)
    monkeypatch.setattr(mova_jax, "LOADED", time.time() - 60)
    assert kept._changed(folder)
    os.utime(file, (0, 0))  # as a copy that keeps times
    assert kept._changed(folder)
    monkeypatch.setattr(kept, "SOURCES", folder)
    mesh = mesh_lib.make_mesh(data=1)
    assert KeptPrograms.bundle_from_run(tiny.config(), mesh).folder is None


def test_the_origin_is_that_of_this_package():
    files = [line.split()[0] for line in kept._digests(kept.SOURCES)]
    assert {"losses/ring.py", "models/mova.py", "training/step.py", "mesh.py"} <= set(files)


@pytest.mark.parametrize(
    ("devices", "cache", "keeps"),
    [(1, "here", True), (8, "here", False), (1, "gs://bucket/programs", False), (1, None, False)],
)
def test_programs_for_one_device_are_kept_beside_the_compiled_ones(
    tmp_path, monkeypatch, devices, cache, keeps
):
    cache = str(tmp_path / cache) if cache == "here" else cache
    monkeypatch.setattr(kept, "_changed", lambda sources: False)
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", cache)
    try:
        programs = KeptPrograms.bundle_from_run(tiny.config(), mesh_lib.make_mesh(data=devices))
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert programs.folder == (tmp_path / "here" / "traced" if keeps else None)
