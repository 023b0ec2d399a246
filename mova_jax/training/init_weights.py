"""The weights that `config.init_from` names, and the tokenizer that belongs to them.

They are read once, before a new run claims its workdir, so that weights which do not fit leave
nothing behind. A run that resumes has its parameters and its tokenizer in the workdir.
"""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mova_jax.config import Config
from mova_jax.data.tokenizer import is_tokenizer
from mova_jax.parallel.processes import log_main
from mova_jax.training.optim import split_trained
from mova_jax.training.state import TrainSpec, TrainState
from mova_jax.training.workdir import is_started, tokenizer_folder
from mova_jax.utils.trees import parameter_names, parameter_shapes, unflatten
from mova_jax.weights.load import find_vocabulary, load_weights


def vocabulary_folder(config: Config, data_vocabulary: Path, workdir: Path) -> Path:
    """The folder of a run's tokenizer: the data's, or the one that initial weights come with.

    Args:
        config: of the run.
        data_vocabulary: the tokenizer that was made with the shards.
        workdir: a run that was started has a copy of its tokenizer in it.

    Raises:
        WeightsError: when the initial weights have no tokenizer in their folder.
    """
    if not config.init_from:
        return data_vocabulary
    saved = tokenizer_folder(workdir)
    if is_started(workdir) and is_tokenizer(saved):
        return saved
    return find_vocabulary(config.init_from)


def init_weights(config: Config, spec: TrainSpec, workdir: Path) -> dict[str, np.ndarray]:
    """Loads the parameters that `config.init_from` has; prints how they were converted.

    Returns:
        float32 arrays by name; empty without `init_from`, and for a run that resumes.

    Raises:
        WeightsError: lists everything that does not fit the model.
    """
    if not config.init_from or is_started(workdir):
        return {}
    shapes = spec.shapes.params
    like = parameter_shapes(shapes)
    weights, report = load_weights(config.init_from, like, config.model)
    log_main(f"Weights of {config.init_from}", *(f"  {line}" for line in report.lines()))
    return weights


def with_weights(spec: TrainSpec, state: TrainState, weights: dict[str, np.ndarray]) -> TrainState:
    """The state with some of its parameters replaced; each keeps its sharding.

    Args:
        spec: of the run.
        state: of a run that took no step.
        weights: from `init_weights`; emptied, since it is a second copy of the model.
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
    # The average starts equal to the parameters, in buffers of its own: the step donates both.
    trained, _ = split_trained(spec.factors, params)
    return dataclasses.replace(state, params=params, ema=jax.tree.map(jnp.copy, trained))
