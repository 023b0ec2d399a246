"""The train step: the same on one device and on eight, and safe against a loss that blows up."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mova_jax import mesh as mesh_lib
from mova_jax.training.optim import parameter_names, schedule
from mova_jax.training.state import make_recipe
from mova_jax.training.step import make_train_step
from tests import tiny

ROWS = 8


@functools.cache
def compiled(devices, **options):
    """Mesh, how to start, and the step compiled quickly."""
    mesh = mesh_lib.make_mesh(data=devices)
    config = tiny.config(train__batch_size=ROWS, **options)
    recipe = make_recipe(config, mesh)
    shapes = jax.eval_shape(recipe.initial)
    batch = jax.eval_shape(lambda: tiny.batch(ROWS))
    step = make_train_step(recipe, mesh).lower(shapes, batch).compile(tiny.QUICK)
    start = jax.device_get(tiny.initial(recipe))  # the step donates its state
    return mesh, lambda: jax.device_put(start, mesh_lib.replicated(mesh)), step


def batch_of(mesh, seed):
    return mesh_lib.put_batch(mesh, tiny.batch_arrays(ROWS, seed))


def train(devices, steps=3, **options):
    """State and metrics of a few steps on batches of their own."""
    mesh, start, step = compiled(devices, **options)
    state, history = start(), []
    for seed in range(steps):
        state, metrics = step(state, batch_of(mesh, seed))
        history.append({name: float(value) for name, value in metrics.items()})
    return state, history


def test_eight_devices_train_as_one():
    (one, losses), (eight, sharded) = train(1), train(8)
    for a, b in zip(losses, sharded, strict=True):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-5)
    for name, leaf in parameter_names(one.params).items():
        # Adam turns a gradient of rounding errors into a step: leave those of no consequence.
        other = parameter_names(eight.params)[name]
        np.testing.assert_allclose(other, leaf, rtol=1e-5, atol=1e-5, err_msg=name)
    assert losses[0]["loss"] != losses[1]["loss"]
    assert int(one.step) == int(eight.step) == 3


def test_the_same_seed_twice_is_the_same_run():
    (first, losses), (second, again) = train(8), train(8)
    assert losses == again
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)


def test_metrics_are_scalars_that_say_what_happened():
    config = tiny.config()
    _, history = train(1)
    expected = {"loss", "grad_norm", "learning_rate", "finite"}
    assert expected | {"contrast", "frame", "sfdm", "dfsm", "sparsity"} <= set(history[0])
    rate = schedule(config.optim, config.train.steps)
    for step, metrics in enumerate(history):
        assert metrics["finite"] == 1.0 and metrics["grad_norm"] > 0
        assert metrics["learning_rate"] == pytest.approx(float(rate(step)), abs=1e-9)


def test_the_loss_of_one_batch_falls():
    mesh, start, step = compiled(8)
    state, history = start(), []
    for _ in range(8):
        state, metrics = step(state, batch_of(mesh, 0))
        history.append(float(metrics["contrast"]))
    assert history[-1] < 0.9 * history[0]


def test_the_state_is_donated_and_stays_whole():
    mesh, start, step = compiled(8)
    old = start()
    new, _ = step(old, batch_of(mesh, 0))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old.params))
    for leaf in jax.tree.leaves(new):
        assert leaf.sharding.is_equivalent_to(mesh_lib.replicated(mesh), leaf.ndim)


@pytest.mark.parametrize("name", ["logit_scale", "vision/projection/kernel"])
def test_a_loss_that_is_not_finite_changes_nothing_for_good(name):
    mesh, start, step = compiled(8)
    state, _ = step(start(), batch_of(mesh, 0))
    good = jax.device_get(state)
    healthy = parameter_names(good.params)[name]
    *path, last = name.split("/")
    functools.reduce(dict.__getitem__, path, state.params)[last] = jax.device_put(
        np.full_like(healthy, np.nan), mesh_lib.replicated(mesh)
    )
    before = jax.device_get(state)
    bad, metrics = step(state, batch_of(mesh, 1))
    assert metrics["finite"] == 0.0 and not bad.finite and bad.step == good.step == 1
    for a, b in zip(
        jax.tree.leaves((before.params, before.opt_state)),
        jax.tree.leaves((bad.params, bad.opt_state)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    # Even with healthy parameters again, later steps wait for a restore.
    functools.reduce(dict.__getitem__, path, bad.params)[last] = jax.device_put(
        healthy, mesh_lib.replicated(mesh)
    )
    after, metrics = step(bad, batch_of(mesh, 2))
    assert metrics["finite"] == 1.0 and not after.finite and after.step == 1
    for a, b in zip(jax.tree.leaves(good.params), jax.tree.leaves(after.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_frozen_towers_stay_and_the_rest_moves():
    groups = (("(vision|text)/.*", 0.0), ("cmn/.*", 0.1), (".*", 1.0))
    state, history = train(8, optim__groups=groups)
    start = parameter_names(compiled(8, optim__groups=groups)[1]().params)
    for name, leaf in parameter_names(state.params).items():
        moved = np.abs(leaf - start[name]).max()
        if name.startswith(("vision/", "text/")):
            assert moved == 0, name
        elif name.endswith("kernel"):
            assert moved > 0, name
    assert all(np.isfinite(metrics["loss"]) for metrics in history)
    kept = {leaf.shape for leaf in jax.tree.leaves(state.opt_state)}
    assert start["text/token_embedding"].shape not in kept


def test_padded_rows_are_not_needed_but_allowed():
    mesh, start, step = compiled(8)
    arrays = tiny.batch_arrays(ROWS)
    for name in ("frame_mask", "token_mask"):
        arrays[name][5:] = False
    state, metrics = step(start(), mesh_lib.put_batch(mesh, arrays))
    assert metrics["finite"] == 1.0 and jnp.isfinite(metrics["loss"]) and state.step == 1
