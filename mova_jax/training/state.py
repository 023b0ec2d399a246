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
from mova_jax.parallel import mesh as mesh_lib
from mova_jax.training.optim import group_factors, make_optimizer, split_trained
from mova_jax.utils.trees import merged


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
    # Average of the trained parameters by `optim.ema`, a part of the nested dict; None without.
    ema: Any = None

    @property
    def weights(self) -> Any:
        """The parameters to evaluate and export: the average of those that are averaged."""
        return self.params if self.ema is None else merged(self.params, self.ema)


@dataclasses.dataclass(frozen=True)
class TrainSpec:
    """The fixed part of a run: how to make a model of parameters, and how to update them."""

    config: Config
    graphdef: Any
    optimizer: optax.GradientTransformation
    factors: dict[str, float]  # on the learning rate, by parameter name; 0 = frozen
    shapes: TrainState  # of `jax.ShapeDtypeStruct`
    initial: Any  # jitted () -> TrainState, on the mesh

    def model(self, params) -> Mova:
        """The model with these parameters."""
        return nnx.merge(self.graphdef, params)


def make_train_spec(config: Config, mesh: jax.sharding.Mesh) -> TrainSpec:
    """Prepares a run without allocating anything.

    Args:
        config: with `model.text.vocab_size` set.
        mesh: that `initial` lays the state out on, also one of devices that are not there.
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
    factors = group_factors(config.optim, abstract)

    def state_of(params) -> TrainState:
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            opt_state=optimizer.init(params),
            finite=jnp.ones((), bool),
            ema=split_trained(factors, params)[0] if config.optim.ema else None,
        )

    def initial() -> TrainState:
        return state_of(build()[1])

    # Not of `initial`: building the model again would be traced twice before anything is run.
    state = jax.eval_shape(state_of, abstract)
    start = jax.jit(initial, out_shardings=mesh_lib.state_sharding(mesh, state))
    return TrainSpec(config, captured["graphdef"], optimizer, factors, state, start)
