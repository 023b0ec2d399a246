"""The initial state: the same from the same seed, and allocated only when it is made."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mova_jax.parallel import mesh as mesh_lib
from mova_jax.training.init_weights import with_weights
from mova_jax.training.state import make_train_spec
from mova_jax.utils.trees import parameter_names
from tests import tiny


@pytest.fixture(scope="module")
def mesh():
    return mesh_lib.make_mesh(data=1, fsdp=2, tensor=2)


@pytest.fixture(scope="module")
def spec(mesh):
    return make_train_spec(tiny.config(), mesh)


@pytest.fixture(scope="module")
def state(spec):
    return tiny.initial(spec)


def test_a_run_starts_at_step_zero_on_every_device(state, mesh):
    assert state.step == 0 and state.step.dtype == jnp.int32
    assert state.finite and state.finite.dtype == jnp.bool_
    for leaf in jax.tree.leaves(state):
        assert leaf.sharding.mesh == mesh and len(leaf.sharding.device_set) == 4
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(state.params))
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert len(moments) == 2 * sum(leaf.ndim > 0 for leaf in jax.tree.leaves(state.params))
    assert not any(leaf.any() for leaf in moments)


def test_weights_depend_on_the_seed_alone(spec, state, mesh):
    again = tiny.initial(make_train_spec(tiny.config(), mesh))
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    other = tiny.initial(make_train_spec(dataclasses.replace(spec.config, seed=1), mesh))
    kernels = [
        (a, b)
        for (name, a), b in zip(
            parameter_names(state.params).items(), jax.tree.leaves(other.params), strict=True
        )
        if name.endswith("kernel")
    ]
    assert kernels and all(np.abs(a - b).max() > 1e-3 for a, b in kernels)


def test_scales_start_at_those_of_the_config(spec, state):
    model = spec.model(state.params)
    np.testing.assert_allclose(model.scale, spec.config.model.scale, rtol=1e-5)
    np.testing.assert_allclose(model.modular_scale, spec.config.model.modular_scale, rtol=1e-5)


def test_a_spec_allocates_nothing(mesh):
    config = tiny.config(model__text__vocab_size=2**40)  # petabytes
    spec = make_train_spec(config, mesh)
    table = jax.eval_shape(spec.initial).params["text"]["token_embedding"]
    assert table.shape == (2**40, tiny.W)


def test_the_average_starts_at_the_initial_weights(mesh):
    spec = make_train_spec(tiny.config(optim__ema=0.9), mesh)
    kernel = np.full((tiny.W, tiny.D), 3.0, np.float32)
    drawn = tiny.initial(spec)
    state = with_weights(spec, drawn, {"text/projection/kernel": kernel})
    for tree in (state.params, state.ema):
        placed = tree["text"]["projection"]["kernel"]
        np.testing.assert_array_equal(placed, kernel)
        assert placed.sharding.shard_shape(kernel.shape) == (tiny.W // 2, tiny.D)
    np.testing.assert_array_equal(state.params["logit_scale"], drawn.params["logit_scale"])
    # They have buffers of their own: the step donates both.
    flipped = jax.jit(lambda *trees: jax.tree.map(jnp.negative, trees), donate_argnums=(0, 1))
    _, average = flipped(state.params, state.ema)
    np.testing.assert_array_equal(average["text"]["projection"]["kernel"], -kernel)


def test_a_misspelt_group_is_refused_before_the_state_is_made(mesh):
    config = tiny.config(optim__groups=(("vison/.*", 0.1), (".*", 1.0)))
    with pytest.raises(ValueError, match=r"\['vison/\.\*'\] fit no parameter name.*cmn/"):
        make_train_spec(config, mesh)
