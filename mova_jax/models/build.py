"""From the model section of a config to a model: abstract, initialised, or with given parameters.

spec = make_model_spec(config.model)             # nothing is computed or allocated
params = jax.jit(lambda: spec.init_params(0))()  # nested dict of float32 arrays
video = spec.model(params).encode_video(frames, frame_mask)
"""

import dataclasses
from typing import Any

import jax
from flax import nnx

from mova_jax.models.mova import Mova


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """A model without its parameters: all that evaluation and export need of a training run."""

    config: Any  # the section `config.model`, with `text.vocab_size` set
    graphdef: nnx.GraphDef
    abstract_params: Any  # nested dict of `jax.ShapeDtypeStruct`

    def model(self, params) -> Mova:
        """The model with these parameters, a nested dict like `abstract_params`."""
        return nnx.merge(self.graphdef, params)

    def init_params(self, seed: int) -> Any:
        """Randomly initialised parameters, a nested dict of float32 arrays."""
        return _split(self.config, seed)[1]


def make_model_spec(config: Any) -> ModelSpec:
    """Traces the construction of a model once; allocates nothing.

    Args:
        config: the section `config.model`, with `text.vocab_size` set.
    """
    graphdef = None

    def params():
        nonlocal graphdef
        graphdef, made = _split(config, seed=0)
        return made

    abstract = jax.eval_shape(params)
    return ModelSpec(config, graphdef, abstract)


def _split(config: Any, seed: int) -> tuple[nnx.GraphDef, Any]:
    graphdef, variables = nnx.split(Mova(config, rngs=nnx.Rngs(seed)))
    return graphdef, nnx.to_pure_dict(variables)
