"""The train step: equal on every mesh, and safe against losses that are not finite."""

import collections
import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mova_jax.losses.objective import objective
from mova_jax.parallel import mesh as mesh_lib
from mova_jax.parallel import sharding
from mova_jax.training.optim import schedule
from mova_jax.training.state import make_train_spec
from mova_jax.training.step import make_train_step
from mova_jax.utils.trees import parameter_names
from tests import tiny

ROWS = 8


ONE, EIGHT, MIXED = (1, 1, 1), (8, 1, 1), (2, 2, 2)  # data, fsdp, tensor
AVERAGE = {"optim__ema": 0.75}


def spec_on(shape, **options):
    mesh = mesh_lib.make_mesh(**dict(zip(mesh_lib.AXES, shape, strict=True)))
    return mesh, make_train_spec(tiny.config(train__batch_size=ROWS, **options), mesh)


def lowered(shape, **options):
    mesh, spec = spec_on(shape, **options)
    batch = jax.eval_shape(lambda: tiny.batch(ROWS))
    return make_train_step(spec, mesh).lower(spec.shapes, batch)


@functools.cache
def compiled(shape, **options):
    """The mesh, a function that makes the initial state, and the step compiled quickly."""
    mesh, spec = spec_on(shape, **options)
    step = lowered(shape, **options).compile(tiny.QUICK)
    start = jax.device_get(tiny.initial(spec))  # the step donates its state
    state_sharding = sharding.state_sharding(mesh, spec.shapes)
    return mesh, lambda: jax.device_put(start, state_sharding), step


def batch_of(mesh, seed):
    return sharding.put_batch(mesh, tiny.batch_arrays(ROWS, seed))


def train(shape, steps=3, **options):
    """The state and the metrics of some steps, each on another batch."""
    mesh, start, step = compiled(shape, **options)
    state, history = start(), []
    for seed in range(steps):
        state, metrics = step(state, batch_of(mesh, seed))
        history.append({name: float(value) for name, value in metrics.items()})
    return state, history


@pytest.mark.parametrize(
    "shape",
    [EIGHT, MIXED]
    + [pytest.param(s, marks=pytest.mark.slow) for s in ((1, 8, 1), (4, 1, 2), (1, 4, 2))],
)
def test_every_mesh_trains_as_one_device(shape):
    # The average of the parameters does not change them.
    (one, losses), (many, split) = train(ONE), train(shape, **(AVERAGE if shape == MIXED else {}))
    for a, b in zip(losses, split, strict=True):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-5)
    for name, leaf in parameter_names(one.params).items():
        # Adam may turn a gradient of rounding errors into a step: allow tiny differences.
        other = parameter_names(many.params)[name]
        np.testing.assert_allclose(other, leaf, rtol=1e-5, atol=1e-5, err_msg=name)
    assert losses[0]["loss"] != losses[1]["loss"]
    assert int(one.step) == int(many.step) == 3


def test_the_same_seed_twice_is_the_same_run():
    (first, losses), (second, again) = train(EIGHT), train(EIGHT)
    assert losses == again
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(a, b)


def test_metrics_are_the_documented_scalars():
    config = tiny.config()
    _, history = train(ONE)
    expected = {"loss", "grad_norm", "learning_rate", "finite"}
    assert expected | {"contrast", "frame", "sfdm", "dfsm", "sparsity"} <= set(history[0])
    rate = schedule(config.optim, config.train.steps)
    for step, metrics in enumerate(history):
        assert metrics["finite"] == 1.0 and metrics["grad_norm"] > 0
        assert metrics["learning_rate"] == pytest.approx(float(rate(step)), abs=1e-9)


def test_the_loss_of_one_batch_falls():
    mesh, start, step = compiled(EIGHT)
    state, history = start(), []
    for _ in range(8):
        state, metrics = step(state, batch_of(mesh, 0))
        history.append(float(metrics["contrast"]))
    assert history[-1] < 0.9 * history[0]


def test_a_scale_beyond_its_cap_comes_back_at_once_and_can_fall():
    mesh, start, step = compiled(ONE)
    state, found = start(), []
    state.params["logit_scale"] = jnp.float32(9.0)  # as runs had it that were not clamped
    for seed in range(4):  # random pairs: a smaller scale costs less
        state, metrics = step(state, batch_of(mesh, seed))
        assert metrics["scale"] <= 100.0
        found.append(float(state.params["logit_scale"]))
    np.testing.assert_allclose(found[0], np.log(100), rtol=1e-6)  # the rate of the first step is 0
    assert found[3] < found[2] < found[1] < found[0]


def test_the_state_is_donated_and_keeps_its_sharding():
    mesh, start, step = compiled(MIXED, **AVERAGE)
    old = start()
    new, metrics = step(old, batch_of(mesh, 0))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))
    placed = jax.tree.leaves(sharding.state_sharding(mesh, new))
    for leaf, expected in zip(jax.tree.leaves(new), placed, strict=True):
        assert leaf.sharding.is_equivalent_to(expected, leaf.ndim)
    assert not new.params["vision"]["projection"]["kernel"].sharding.is_fully_replicated
    assert all(value.sharding.is_fully_replicated for value in metrics.values())


@pytest.mark.parametrize("name", ["logit_scale", "vision/projection/kernel"])
def test_a_loss_that_is_not_finite_changes_nothing_from_then_on(name):
    mesh, start, step = compiled(EIGHT)
    state, _ = step(start(), batch_of(mesh, 0))
    good = jax.device_get(state)
    healthy = parameter_names(good.params)[name]
    *path, last = name.split("/")
    functools.reduce(dict.__getitem__, path, state.params)[last] = jax.device_put(
        np.full_like(healthy, np.nan), sharding.replicated(mesh)
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
        healthy, sharding.replicated(mesh)
    )
    after, metrics = step(bad, batch_of(mesh, 2))
    assert metrics["finite"] == 1.0 and not after.finite and after.step == 1
    for a, b in zip(jax.tree.leaves(good.params), jax.tree.leaves(after.params), strict=True):
        np.testing.assert_array_equal(a, b)


FROZEN = (("(vision|text)/.*", 0.0), ("cmn/.*", 0.1), (".*", 1.0))


def test_frozen_towers_stay_and_the_others_move():
    state, history = train(EIGHT, optim__groups=FROZEN)
    start = parameter_names(compiled(EIGHT, optim__groups=FROZEN)[1]().params)
    for name, leaf in parameter_names(state.params).items():
        moved = np.abs(leaf - start[name]).max()
        if name.startswith(("vision/", "text/")):
            assert moved == 0, name
        elif name.endswith("kernel"):
            assert moved > 0, name
    assert all(np.isfinite(metrics["loss"]) for metrics in history)
    moments = {leaf.shape for leaf in jax.tree.leaves(state.opt_state)}
    assert start["text/token_embedding"].shape not in moments


def test_the_gradient_norm_is_of_what_is_trained():
    groups = (("logit_scale", 1.0), (".*", 0.0))
    mesh, start, step = compiled(ONE, optim__groups=groups)

    def measured(change):
        state = start()
        state.params["logit_scale"] += change
        return {name: float(x) for name, x in step(state, batch_of(mesh, 0))[1].items()}

    slope = (measured(0.02)["loss"] - measured(-0.02)["loss"]) / 0.04
    assert measured(0.0)["grad_norm"] == pytest.approx(abs(slope), rel=1e-2) and slope != 0


def test_a_frozen_tower_has_no_backward_pass_and_no_moments():
    sizes = {"model__vision__width": 48}
    groups = (("vision/.*", 0.0), (".*", 1.0))
    flops, backward, moments = [], [], []
    for options in (sizes, sizes | {"optim__groups": groups}):
        step = lowered(ONE, **options)
        flops.append(step.cost_analysis()["flops"])
        backward.append("transpose(jvp(vision_tower))" in step.as_text(debug_info=True))
        shapes = spec_on(ONE, **options)[1].shapes
        vision = sum(leaf.size for leaf in jax.tree.leaves(shapes.params["vision"]))
        moments.append(sum(leaf.size for leaf in jax.tree.leaves(shapes.opt_state)))
    # One block over 4 patches and a class token: 12 w^2 weights; two products each backwards.
    forward = 2 * ROWS * tiny.F * 5 * 12 * 48**2
    assert flops[0] - flops[1] > 1.9 * forward
    assert backward == [True, False]
    assert moments[0] - moments[1] == 2 * vision


def test_the_average_follows_the_parameters_by_its_recursion():
    mesh, start, step = compiled(MIXED, **AVERAGE)
    state, decay = start(), AVERAGE["optim__ema"]
    expected = {name: np.asarray(x) for name, x in parameter_names(state.ema).items()}
    for seed in range(3):
        state, _ = step(state, batch_of(mesh, seed))
        now = parameter_names(state.params)
        expected = {n: decay * x + (1 - decay) * np.asarray(now[n]) for n, x in expected.items()}
    weights = parameter_names(state.weights)
    assert list(weights) == list(now)
    for name, leaf in weights.items():
        np.testing.assert_allclose(leaf, expected[name], rtol=1e-6, atol=1e-7)
    assert np.abs(weights["tmn/out/kernel"] - now["tmn/out/kernel"]).max() > 1e-5


def test_frozen_parameters_are_not_averaged():
    shapes = spec_on(ONE, **AVERAGE, optim__groups=(("text/.*", 0.0), (".*", 1.0)))[1].shapes
    assert set(shapes.params) - set(shapes.ema) == {"text"}
    assert parameter_names(shapes.weights).keys() == parameter_names(shapes.params).keys()


def test_annealed_masks_harden_with_the_step_in_one_program():
    annealed, soft, hard = (
        compiled(ONE, model__masks__kind=k) for k in ("annealed", "soft", "hard")
    )

    def loss(kind, at):
        state = dataclasses.replace(kind[1](), step=jnp.asarray(at, jnp.int32))
        return float(kind[2](state, batch_of(annealed[0], 0))[1]["loss"])

    # Ten steps, so hard from step 8 on.
    losses = [loss(annealed, at) for at in (0, 4, 8, 9)]
    assert losses[0] == pytest.approx(loss(soft, 0), rel=1e-6)
    assert losses[2] == losses[3] == pytest.approx(loss(hard, 8), rel=1e-6)
    assert losses[1] not in (losses[0], losses[2])


def test_without_an_average_the_parameters_are_evaluated():
    state = compiled(ONE)[1]()
    assert state.ema is None and state.weights is state.params


def test_the_first_moment_may_be_half_the_size():
    shapes = spec_on(ONE, optim__moment_dtype="bfloat16")[1].shapes
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(shapes.opt_state) if leaf.ndim]
    assert dtypes.count(jnp.bfloat16) == dtypes.count(jnp.float32) == len(dtypes) / 2
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes.params))


def equations(jaxpr, scope=""):
    """Every equation of a program with the named scopes that it is in."""
    for equation in jaxpr.eqns:
        inside = f"{scope}/{equation.source_info.name_stack}"
        held = [x for value in equation.params.values() for x in jax.tree.leaves(value)]
        inner = [getattr(x, "jaxpr", x) for x in held]
        inner = [x for x in inner if hasattr(x, "eqns")]
        for part in inner:
            yield from equations(part, inside)
        if not inner:
            yield inside, equation


@pytest.mark.parametrize("objective_name", ["full", "paper"])
def test_bfloat16_is_for_matrix_products_and_not_for_softmax_norms_and_losses(objective_name):
    config = tiny.config(objective_name, model__dtype="bfloat16")
    model = tiny.model(objective_name, model__dtype="bfloat16")

    def loss(batch):
        return objective(model, batch, config.losses)[0]

    products = collections.Counter()
    for scope, equation in equations(jax.make_jaxpr(loss)(tiny.batch()).jaxpr):
        half = any(x.aval.dtype == jnp.bfloat16 for x in (*equation.invars, *equation.outvars))
        name, in_network = equation.primitive.name, re.search("tower|tmn|cmn|head", scope)
        if name == "dot_general":
            products[half, bool(in_network)] += 1
        sums = {"exp", "log", "rsqrt", "sqrt", "div", "reduce_sum", "reduce_max", "cumsum"}
        assert not (half and name in sums), (name, scope)
        assert not (half and not in_network and name != "convert_element_type"), (name, scope)
    assert products[True, True] > 10 and products[True, False] == 0 < products[False, False]


def test_padded_rows_are_allowed():
    mesh, start, step = compiled(EIGHT)
    arrays = tiny.batch_arrays(ROWS)
    for name in ("frame_mask", "token_mask"):
        arrays[name][5:] = False
    state, metrics = step(start(), sharding.put_batch(mesh, arrays))
    assert metrics["finite"] == 1.0 and jnp.isfinite(metrics["loss"]) and state.step == 1
