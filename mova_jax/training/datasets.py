"""Opens the data that a config names: makes the Storyboard data, copies shards from URLs."""

import os
from pathlib import Path

import jax

from mova_jax.config import Config
from mova_jax.data.pipeline.batching import settings_of
from mova_jax.data.pipeline.dataset import Mixture, TrainDataset, can_fill, train_dataset
from mova_jax.data.shards.cache import local_folder
from mova_jax.data.sources import is_tfds
from mova_jax.data.storyboard.concepts import SPLITS
from mova_jax.data.storyboard.generate import ensure
from mova_jax.data.tokenizer import Tokenizer
from mova_jax.parallel import sharding

STORYBOARD = "storyboard"
STORYBOARD_SEED = 1  # the same for every `config.seed`, so that galleries can be compared


def open_data(config: Config) -> Path | str:
    """Returns the shard folder or the TFDS name of `data.source`; makes or copies shards first."""
    data, size = config.data, config.model.vision.image_size
    if data.source != STORYBOARD:
        return _open_source(data.source, data.cache)
    counts = dict.fromkeys(SPLITS, data.eval_videos) | {"train": data.train_videos}
    # One folder for each setting: runs with other settings must not replace each other's data.
    name = f"{STORYBOARD}-{data.train_videos}-{data.eval_videos}-{size}px"
    return ensure(
        Path(data.cache) / name,
        STORYBOARD_SEED,
        counts,
        workers=os.cpu_count() or 1,
        image_size=size,
    )


def train_batches(
    config: Config, folder: Path | str, tokenizer: Tokenizer, mesh: jax.sharding.Mesh
) -> TrainDataset:
    """The training batches of this process.

    Args:
        config: of the run.
        folder: `open_data(config)`.
        tokenizer: of the captions.
        mesh: gives each process its share of the global batch.
    """
    index, count = sharding.process_share(mesh)
    return train_dataset(
        _mixture(config, folder),
        "train",
        tokenizer,
        settings_of(config, config.data.frames),
        seed=config.seed,
        batch_size=config.train.batch_size // count,
        image_steps=image_steps(config),
        image_batch_size=image_batch_size(config, folder) // count,
        process_index=index,
        process_count=count,
    )


def image_steps(config: Config) -> int:
    """Number of steps, the first of the run, that train on image-caption data."""
    return round(config.train.image_share * config.train.steps)


def image_batch_size(config: Config, folder: Path | str) -> int:
    """Frames in an image step: four times the batch size, or the multiple that train can fill."""
    sizes = [times * config.train.batch_size for times in (4, 3, 2, 1)]
    mixture = _mixture(config, folder)
    return next((size for size in sizes if can_fill(mixture, "train", size)), sizes[-1])


def _mixture(config: Config, folder: Path | str) -> Mixture:
    """The training data by weight; `data.mixture` may name `data.source` as a part."""
    if not config.data.mixture:
        return [(folder, 1)]
    opened = {config.data.source: folder}
    return [
        (opened.get(name) or _open_source(name, config.data.cache), weight)
        for name, weight in config.data.mixture
    ]


def _open_source(source: str, cache: str) -> Path | str:
    """The name by which the pipeline opens a source; shards at a URL are copied to the cache."""
    return source if is_tfds(source) else local_folder(source, cache)
