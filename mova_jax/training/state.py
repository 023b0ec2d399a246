"""The state that training carries from step to step, and the fixed recipe for making it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Int

from mova_jax.config import Config
from mova_jax.models.build import ModelSpec, make_model_spec
from mova_jax.models.mova import Mova
from mova_jax.parallel import sharding
from mova_jax.training.optim import group_factors, make_optimizer, split_trained
from mova_jax.utils.trees import merged


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that training changes; saved and restored as one."""

    step: Int[Array, ""]  # finished steps
    params: Any  # nested dict of float32 arrays
    opt_state: Any
    # False from the first loss or gradient that was not finite. Later steps then change nothing, so
    # the state stays the last good one however late the host looks.
    finite: Bool[Array, ""]
    # Moving average of the trained parameters by `optim.ema`, a nested dict; None without.
    ema: Any = None

    @property
    def weights(self) -> Any:
        """The parameters to evaluate and export: averages where there are any."""
        return self.params if self.ema is None else merged(self.params, self.ema)


@dataclasses.dataclass(frozen=True)
class TrainSpec:
    """The fixed part of a run: how to make a model from parameters, and how to update them."""

    config: Config
    model_spec: ModelSpec
    optimizer: optax.GradientTransformation
    factors: dict[str, float]  # on the learning rate, by parameter name; 0 = frozen
    shapes: TrainState  # of `jax.ShapeDtypeStruct`
    initial: Callable[[], TrainState]  # jitted, on the mesh

    def model(self, params) -> Mova:
        """The model with these parameters."""
        return self.model_spec.model(params)


def make_train_spec(config: Config, mesh: jax.sharding.Mesh) -> TrainSpec:
    """Prepares a run without allocating anything.

    Args:
        config: with `model.text.vocab_size` set.
        mesh: `initial` lays the state out on it; its devices need not exist.
    """
    model_spec = make_model_spec(config.model)
    abstract = model_spec.abstract_params
    optimizer = make_optimizer(config.optim, config.train.steps, abstract)
    factors = group_factors(config.optim, abstract)

    def state_of(params) -> TrainState:
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=optimizer.init(params),
            finite=jnp.ones((), bool),
            ema=split_trained(factors, params)[0] if config.optim.ema else None,
        )

    # `eval_shape(initial)` would trace the construction of the model a second time.
    shapes = jax.eval_shape(state_of, abstract)
    initial = jax.jit(
        lambda: state_of(model_spec.init_params(config.seed)),
        out_shardings=sharding.state_sharding(mesh, shapes),
    )
    return TrainSpec(config, model_spec, optimizer, factors, shapes, initial)
