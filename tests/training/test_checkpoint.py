"""Checkpoints: exact restores, also onto other meshes, and clear errors for damaged ones."""

import json
import logging
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from mova_jax.parallel import mesh as mesh_lib
from mova_jax.training import checkpoint
from mova_jax.training.checkpoint import CheckpointError, Checkpoints, abstract_state
from mova_jax.training.state import TrainState, make_train_spec
from tests import tiny

MESH = mesh_lib.make_mesh(data=2, fsdp=4)


@pytest.fixture(scope="module")
def spec():
    return make_train_spec(tiny.config(), MESH)


@pytest.fixture(scope="module")
def state(spec):
    return spec.initial()


@pytest.fixture
def checkpoints(tmp_path):
    opened = Checkpoints(tmp_path, tiny.config())
    yield opened
    opened.close()


def at(state: TrainState, step: int, add: float = 0.0) -> TrainState:
    params = jax.tree.map(lambda leaf: leaf + add, state.params)
    return TrainState(jnp.int32(step), params, state.opt_state, state.finite)


def assert_same(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)


def test_state_data_and_config_are_restored_exactly(spec, state, checkpoints, tmp_path):
    saved = at(state, 7, add=0.1)
    checkpoints.save_last(saved, {"next_batch": 7})
    checkpoints.wait()
    reopened = Checkpoints(tmp_path, tiny.config())
    assert reopened.last_step == 7 and reopened.best_step is None
    found = reopened.restore_last(abstract_state(spec, MESH))
    reopened.close()
    assert_same(found.state, saved)
    assert jax.tree.structure(found.state) == jax.tree.structure(saved)
    assert found.data == {"next_batch": 7}
    assert found.record["config"]["model"]["tmn"]["layout"] == "select"


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 8, 1), (4, 1, 2), (1, 4, 2)])
def test_a_state_is_restored_onto_another_mesh_bit_for_bit(shape, checkpoints):
    config = tiny.config(optim__ema=0.5)
    spec = make_train_spec(config, MESH)
    saved = jax.tree.map(lambda leaf: leaf + jnp.ones((), leaf.dtype), tiny.initial(spec))
    checkpoints.save_last(saved, {"next_batch": 1})
    mesh = mesh_lib.make_mesh(**dict(zip(mesh_lib.AXES, shape, strict=True)))
    # With a spec of the other mesh too, as a restart of the command makes it.
    like = abstract_state(make_train_spec(config, mesh), mesh)
    found = checkpoints.restore_last(like).state
    assert_same(found, saved)
    for leaf, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(like), strict=True):
        assert leaf.sharding.is_equivalent_to(wanted.sharding, leaf.ndim)


def test_a_state_may_be_donated_as_soon_as_its_save_started(spec, state, checkpoints):
    saved = jax.tree.map(jnp.copy, at(state, 1, add=0.5))
    expected = jax.tree.map(np.array, saved.params)
    spoil = jax.jit(lambda s: jax.tree.map(lambda leaf: leaf * 0, s), donate_argnums=0)
    checkpoints.save_last(saved, {"next_batch": 1})
    jax.block_until_ready(spoil(saved))
    found = checkpoints.restore_last(abstract_state(spec, MESH))
    assert_same(found.state.params, expected)


def test_only_the_newest_last_checkpoint_remains(state, checkpoints):
    for step in (1, 2, 3):
        checkpoints.save_last(at(state, step), {"next_batch": step})
    checkpoints.wait()
    assert [path.name for path in (checkpoints.folder / "last").iterdir()] == ["3"]


def test_the_best_checkpoint_has_the_highest_score(spec, state, checkpoints):
    scores = {1: 10.0, 2: 30.0, 3: 30.0, 4: 20.0}
    taken = {
        step: checkpoints.save_best(at(state, step), {"next_batch": step}, score, 0.5)
        for step, score in scores.items()
    }
    assert taken == {1: True, 2: True, 3: False, 4: False}
    assert checkpoints.best_step == 2
    found = checkpoints.restore_best(abstract_state(spec, MESH))
    assert (found.record["score"], found.record["blend_weight"]) == (30.0, 0.5)


def test_resuming_from_an_earlier_step_saves_nothing_twice(state, checkpoints):
    assert checkpoints.save_best(at(state, 2), {"next_batch": 2}, 30.0, 0.5)
    assert not checkpoints.save_best(at(state, 2), {"next_batch": 2}, 30.0, 0.5)


def test_a_damaged_checkpoint_is_a_clear_error(spec, state, checkpoints):
    checkpoints.save_last(at(state, 1), {"next_batch": 1})
    checkpoints.wait()
    for path in (checkpoints.folder / "last" / "1" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CheckpointError, match="could not be read"):
        checkpoints.restore_last(abstract_state(spec, MESH))


def rewritten(folder, change):
    """Restores a checkpoint, changes it, and writes it again as a disk that lies might."""
    path = folder / "1" / "record" / "metadata"
    path.write_text(change(path.read_text()))


def test_a_checkpoint_that_is_not_what_was_saved_is_refused_by_its_name(spec, state, checkpoints):
    checkpoints.save_best(at(state, 1), {"next_batch": 1}, 10.0, 0.5)
    checkpoints.save_last(at(state, 1), {"next_batch": 1})
    checkpoints.wait()
    last, best = checkpoints.folder / "last", checkpoints.folder / "best"
    data = last / "1" / "data" / "metadata"
    data.write_text(data.read_text().replace("1", "2"))
    with pytest.raises(
        CheckpointError, match=f"{last / '1'} is damaged: data differ .* cp -r {best}"
    ):
        checkpoints.restore_last(abstract_state(spec, MESH))
    rewritten(best, lambda text: text.replace('"score": 10.0', '"score": 90.0'))
    with pytest.raises(CheckpointError, match=f"{best / '1'} is damaged: record differ .* Delete"):
        checkpoints.restore_best(abstract_state(spec, MESH))
    with pytest.raises(CheckpointError, match="record"):
        checkpoints.best_record()


def test_arrays_that_are_not_what_was_saved_are_refused(spec, state, checkpoints, monkeypatch):
    checkpoints.save_last(at(state, 1), {"next_batch": 1})
    checkpoints.wait()
    restore = checkpoints._last.restore

    def flipped(step, args):
        found = restore(step, args=args)
        leaf = found["state"]["params"]["logit_scale"]
        bits = jax.lax.bitcast_convert_type(leaf, jnp.uint32) ^ jnp.uint32(1 << 3)
        found["state"]["params"]["logit_scale"] = jax.lax.bitcast_convert_type(bits, jnp.float32)
        return found

    monkeypatch.setattr(checkpoints._last, "restore", flipped)
    with pytest.raises(CheckpointError, match="is damaged: params differ from what was saved"):
        checkpoints.restore_last(abstract_state(spec, MESH))


def test_a_checkpoint_without_checksums_is_read(spec, state, checkpoints):
    checkpoints.save_last(at(state, 1), {"next_batch": 1})
    checkpoints.wait()

    def without(text):
        record = json.loads(text)
        return json.dumps({name: value for name, value in record.items() if name != "checksums"})

    rewritten(checkpoints.folder / "last", without)
    assert checkpoints.restore_last(abstract_state(spec, MESH)).data == {"next_batch": 1}


def test_tensorstore_prints_no_stacks_after_orbax_gave_up(checkpoints, monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    checkpoint._quiet_orbax()
    for said, shown in (("Event loop is closed", False), ("other", True)):
        sys.excepthook(RuntimeError, RuntimeError(said), None)
        assert (said in capsys.readouterr().err) == shown


def test_orbax_logs_no_stacks_of_the_errors_that_it_raises(checkpoints):
    logger = logging.getLogger("absl")
    for path, shown in ((ocp.__file__, False), ("/packages/grain/a.py", True)):
        record = logging.LogRecord("absl", logging.ERROR, path, 1, "failed", (), None)
        assert bool(logger.filter(record)) == shown


def test_a_leftover_of_a_killed_save_is_no_checkpoint(state, checkpoints, tmp_path):
    checkpoints.save_last(at(state, 3), {"next_batch": 3})
    checkpoints.wait()
    (checkpoints.folder / "last" / "9.orbax-checkpoint-tmp").mkdir()
    reopened = Checkpoints(tmp_path, tiny.config())
    assert reopened.last_step == 3
    reopened.close()
