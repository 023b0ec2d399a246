"""What a run reads: the data of its configuration, made or copied where they are not at hand."""

import os
from pathlib import Path

import jax

from mova_jax.config import Config
from mova_jax.data import sources
from mova_jax.data.pipeline import dataset as pipeline
from mova_jax.data.shards.cache import local_folder
from mova_jax.data.storyboard import generate as storyboard
from mova_jax.data.tokenizer import Tokenizer
from mova_jax.parallel import mesh as mesh_lib

STORYBOARD = "storyboard"
STORYBOARD_SEED = 1  # of the data, the same for every `config.seed`: galleries stay comparable


def open_data(config: Config) -> Path | str:
    """The shards or TFDS data set of `data.source`: made for Storyboard, copied from a URL."""
    data, size = config.data, config.model.vision.image_size
    if data.source != STORYBOARD:
        return _at_hand(data.source, data.cache)
    counts = dict.fromkeys(storyboard.SPLITS, data.eval_videos) | {"train": data.train_videos}
    # One folder a setting: two runs of different settings must not replace each other's data.
    name = f"{STORYBOARD}-{data.train_videos}-{data.eval_videos}-{size}px"
    return storyboard.ensure(
        Path(data.cache) / name,
        STORYBOARD_SEED,
        counts,
        workers=os.cpu_count() or 1,
        image_size=size,
    )


def _at_hand(source: str, cache: str) -> Path | str:
    """A source by the name that the pipeline opens: shards at a URL are copied to the cache."""
    return source if sources.is_tfds(source) else local_folder(source, cache)


def _mixture(config: Config, folder: Path | str) -> pipeline.Mixture:
    """What is trained on, by weight; `data.source` may be a part of the mixture by its name."""
    if not config.data.mixture:
        return [(folder, 1)]
    named = {config.data.source: folder}
    return [
        (named.get(name) or _at_hand(name, config.data.cache), weight)
        for name, weight in config.data.mixture
    ]


def train_batches(
    config: Config, folder: Path | str, tokenizer: Tokenizer, mesh: jax.sharding.Mesh
) -> pipeline.TrainDataset:
    """The training batches of this process."""
    part, parts = mesh_lib.process_share(mesh)
    return pipeline.train_dataset(
        _mixture(config, folder),
        "train",
        tokenizer,
        pipeline.settings_of(config, config.data.frames),
        seed=config.seed,
        batch_size=config.train.batch_size // parts,
        image_steps=image_steps(config),
        image_batch_size=image_batch_size(config, folder) // parts,
        process_index=part,
        process_count=parts,
    )


def image_steps(config: Config) -> int:
    """How many of the first steps are on image-caption data."""
    return round(config.train.image_share * config.train.steps)


def image_batch_size(config: Config, folder: Path | str) -> int:
    """Frames in a step on images: a multiple of the batch size that the train split can fill."""
    if config.train.image_batch_size:
        return config.train.image_batch_size
    sizes = [times * config.train.batch_size for times in (4, 3, 2, 1)]
    train = _mixture(config, folder)
    return next((size for size in sizes if pipeline.can_fill(train, "train", size)), sizes[-1])
