"""What a run starts from besides its seed: the weights that `config.init_from` names.

Read once, before a new run claims its workdir, so that weights which do not fit leave nothing
behind. A run that goes on has its parameters and its vocabulary in the workdir, and needs neither.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mova_jax.config import Config
from mova_jax.data.tokenizer import is_tokenizer
from mova_jax.parallel.processes import log_main
from mova_jax.training.checkpoint import is_started
from mova_jax.training.optim import split_trained
from mova_jax.training.state import TrainSpec, TrainState
from mova_jax.training.workdir import tokenizer_folder
from mova_jax.utils.trees import parameter_names, unflatten
from mova_jax.weights.load import find_vocabulary, load_weights


def vocabulary_folder(config: Config, of_data: Path, workdir: Path) -> Path:
    """The tokenizer of a run: the data's, or with initial weights the one that belongs to them.

    Args:
        config: of the run.
        of_data: the tokenizer that was made with the shards.
        workdir: a started run has a copy of its tokenizer in it.

    Raises:
        WeightsError: when there is none beside the initial weights.
    """
    if not config.init_from:
        return of_data
    kept = tokenizer_folder(workdir)
    if is_started(workdir) and is_tokenizer(kept):
        return kept
    return find_vocabulary(config.init_from)


def init_weights(config: Config, spec: TrainSpec, workdir: Path) -> dict[str, np.ndarray]:
    """The parameters that `config.init_from` has, by name; what was done to them is printed.

    Returns:
        float32 arrays; none without `init_from`, and for a run that goes on from a checkpoint.

    Raises:
        WeightsError: with all that does not fit the model.
    """
    if not config.init_from or is_started(workdir):
        return {}
    shapes = spec.shapes.params
    like = {name: leaf.shape for name, leaf in parameter_names(shapes).items()}
    bias = config.model.masks.init_bias
    ours, report = load_weights(config.init_from, like, config.model.activation, init_bias=bias)
    log_main(f"Weights of {config.init_from}", *(f"  {line}" for line in report.lines()))
    return ours


def with_weights(spec: TrainSpec, state: TrainState, weights: dict[str, np.ndarray]) -> TrainState:
    """The state with some of its parameters replaced, each laid out as the one before it.

    Args:
        recipe: of the run.
        state: of a run that took no step.
        weights: from `initial_weights`; emptied, for it is a second copy of the model.
    """
    if not weights:
        return state
    placed = parameter_names(state.params)
    for name, value in weights.items():
        placed[name] = jax.device_put(value, placed[name].sharding)
    weights.clear()
    params = unflatten(placed, state.params)
    if state.ema is None:
        return dataclasses.replace(state, params=params)
    # The average starts where the parameters do, in buffers of its own: both are donated.
    trained, _ = split_trained(spec.factors, params)
    return dataclasses.replace(state, params=params, ema=jax.tree.map(jnp.copy, trained))
