"""Opens all that a run needs: data, tokenizer, mesh, model and checkpoints."""

import dataclasses
import os
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from mova_jax.config import Config
from mova_jax.data.pipeline.dataset import TrainDataset
from mova_jax.data.sources import is_tfds, splits_of
from mova_jax.data.storyboard.generate import TOKENIZER
from mova_jax.data.tokenizer import Tokenizer
from mova_jax.evaluation.evaluator import Evaluator
from mova_jax.parallel import mesh as mesh_lib
from mova_jax.parallel import sharding
from mova_jax.parallel.processes import barrier, is_main, log_main
from mova_jax.training import workdir as workdir_lib
from mova_jax.training.checkpoint import Checkpoints
from mova_jax.training.datasets import open_data, train_batches
from mova_jax.training.init_weights import init_weights, vocabulary_folder
from mova_jax.training.state import TrainSpec, make_train_spec
from mova_jax.training.workdir import RunError
from mova_jax.utils import environment
from mova_jax.utils.trackers import check_tracker
from mova_jax.weights.files import WeightsError


@dataclasses.dataclass(frozen=True)
class RunContext:
    """Everything that the parts of a run share."""

    config: Config
    workdir: Path
    folder: Path | str  # of the shards, or the name of a TFDS data set
    splits: tuple[str, ...]  # that the data have
    tokenizer: Tokenizer
    mesh: jax.sharding.Mesh
    spec: TrainSpec
    evaluator: Evaluator
    checkpoints: Checkpoints
    batches: TrainDataset
    init_weights: dict[str, np.ndarray]  # parameters by name that a new run does not draw
    started: float  # when the process began, by `time.monotonic`
    profile_steps: tuple[int, int]  # first and last step to trace, (0, 0) for none


def build_context(
    config: Config,
    workdir: str | os.PathLike,
    profile_steps: tuple[int, int] = (0, 0),
    publish: Callable[[], None] = lambda: None,
) -> RunContext:
    """Opens data, tokenizer, model and checkpoints; makes the Storyboard data when needed.

    Args:
        config: of the run; `model.text.vocab_size` 0 takes the tokenizer's.
        workdir: of the run; claimed only when everything fits together.
        profile_steps: see `RunContext`.
        publish: uploads the workdir, where it is the copy of one in a bucket.

    Raises:
        RunError, ShardError, WeightsError, TrackerError: what is wrong and what to do.
    """
    started, workdir = time.monotonic(), Path(workdir)
    if problem := environment.refused():
        raise RunError(problem)
    enable_compilation_cache(config)
    workdir_lib.check(workdir, config)  # before anything that takes time
    check_tracker(config.log.tracker)
    folder = open_data(config)
    splits = tuple(splits_of(folder))
    _check_source(config, folder, splits)
    try:
        vocabulary = vocabulary_folder(config, Path(folder, TOKENIZER), workdir)
        tokenizer = Tokenizer(vocabulary, config.model.text.context)
        config = _with_vocabulary(config, tokenizer)
        mesh = mesh_lib.make_mesh(config.mesh)
        sharding.check_run(mesh, config)
        spec = make_train_spec(config, mesh)
        batches = train_batches(config, folder, tokenizer, mesh)
        weights = init_weights(config, spec, workdir)
    except WeightsError:
        raise
    except (ValueError, FileNotFoundError) as error:
        raise RunError(str(error)) from error
    if is_main():
        _claim(workdir, config, tokenizer)
        publish()
    barrier("the workdir is claimed")
    return RunContext(
        config=config,
        workdir=workdir,
        folder=folder,
        splits=splits,
        tokenizer=tokenizer,
        mesh=mesh,
        spec=spec,
        evaluator=Evaluator(spec.model_spec, config, mesh, folder, tokenizer),
        checkpoints=Checkpoints(workdir, config, publish),
        batches=batches,
        init_weights=weights,
        started=started,
        profile_steps=profile_steps,
    )


def _claim(workdir: Path, config: Config, tokenizer: Tokenizer) -> None:
    """Writes what a workdir holds from the start."""
    workdir_lib.claim(workdir, config)
    workdir_lib.save_tokenizer(workdir, tokenizer)
    try:
        lines = environment.record(workdir)
    except ValueError as error:
        raise RunError(str(error)) from error
    for line in lines:
        log_main(line)


def enable_compilation_cache(config: Config) -> None:
    """Turns on JAX's compilation cache in `data.cache`/programs, so that a restart compiles less.

    A folder that JAX_COMPILATION_CACHE_DIR or JAX's own flag names is left as it is.
    """
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(Path(config.data.cache) / "programs"))


def _check_source(config: Config, folder: Path | str, splits: tuple[str, ...]) -> None:
    """Checks that the data have a train split and a tokenizer.

    Raises:
        RunError: when one is missing.
    """
    if "train" not in splits and not config.data.mixture:
        raise RunError(
            f"{folder} has the splits {', '.join(splits)}, but none named train: name one in the "
            "JSONL, or let python -m mova_jax.prepare --splits share the videos out"
        )
    if is_tfds(folder) and not config.init_from:
        raise RunError(
            f"{folder} has no tokenizer: give init=CLIP, a folder of initial weights with theirs, "
            "or make SHARDS data.source and name it in data.mixture"
        )


def _with_vocabulary(config: Config, tokenizer: Tokenizer) -> Config:
    """The config with `model.text.vocab_size` set to the tokenizer's where it is 0.

    Raises:
        ValueError: when the config has room for fewer tokens than the tokenizer has.
    """
    size = config.model.text.vocab_size
    if size and size < tokenizer.vocab_size:
        raise ValueError(
            f"model.text.vocab_size is {size}, but the tokenizer in {tokenizer.folder} has "
            f"{tokenizer.vocab_size} tokens: set it to at least that, or to 0"
        )
    text = dataclasses.replace(config.model.text, vocab_size=size or tokenizer.vocab_size)
    return dataclasses.replace(config, model=dataclasses.replace(config.model, text=text))
