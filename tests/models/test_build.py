"""A model from its config, without allocating, and with given parameters."""

import jax
import numpy as np
from flax import nnx

from mova_jax.models.build import make_model_spec
from mova_jax.utils.trees import parameter_names
from tests import tiny


def test_a_spec_makes_the_model_of_given_parameters():
    spec = make_model_spec(tiny.config().model)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), spec.abstract_params)
    model = spec.model(params)
    assert model.cfg == tiny.config().model
    found = parameter_names(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    for name, leaf in parameter_names(params).items():
        np.testing.assert_array_equal(found.pop(name), leaf)
    assert not found


def test_initial_parameters_have_the_abstract_shapes():
    spec = make_model_spec(tiny.config().model)
    made = jax.eval_shape(lambda: spec.init_params(3))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), made) == jax.tree.map(
        lambda x: (x.shape, x.dtype), spec.abstract_params
    )
