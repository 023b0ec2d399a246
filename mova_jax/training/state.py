"""What a run carries from step to step, and how it starts."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Bool, Int

from mova_jax.config import Config
from mova_jax.models.mova import Mova
from mova_jax.training.optim import make_optimizer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that training changes; saved and restored as one."""

    step: Int[Array, ""]  # finished steps
    params: Any  # nested dict of float32 arrays
    opt_state: Any
    # False from the first loss or gradient that was not finite: later steps then change nothing,
    # so that the state at hand is the last good one however late the host looks.
    finite: Bool[Array, ""]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The fixed part of a run: how to make a model of parameters, and how to update them."""

    config: Config
    graphdef: Any
    optimizer: optax.GradientTransformation
    initial: Any  # jitted () -> TrainState

    def model(self, params) -> Mova:
        """The model with these parameters."""
        return nnx.merge(self.graphdef, params)


def make_recipe(config: Config, sharding: jax.sharding.Sharding) -> Recipe:
    """Prepares a run without allocating anything.

    Args:
        config: with `model.text.vocab_size` set.
        sharding: of the state's arrays.
    """

    def build():
        graphdef, variables = nnx.split(Mova(config.model, rngs=nnx.Rngs(config.seed)))
        return graphdef, nnx.to_pure_dict(variables)

    captured = {}

    def shapes():
        captured["graphdef"], params = build()
        return params

    abstract = jax.eval_shape(shapes)
    optimizer = make_optimizer(config.optim, config.train.steps, abstract)

    def initial() -> TrainState:
        _, params = build()
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=optimizer.init(params),
            finite=jnp.ones((), bool),
        )

    return Recipe(config, captured["graphdef"], optimizer, jax.jit(initial, out_shardings=sharding))
