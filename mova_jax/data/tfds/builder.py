"""Your videos as a TFDS data set that `tfds build` makes: the records that `prepare` makes.

    python -m tensorflow_datasets.scripts.cli.main build own_videos \
        --imports=mova_jax.data.tfds.builder --manual_dir=FOLDER --file_format=array_record

FOLDER holds captions.jsonl (its fields: `mova_jax.prepare --help`) and the videos. The command of
TFDS needs TensorFlow, which is not among our requirements; the same without it:

    if __name__ == "__main__":  # the processes that decode import the script
        builder = OwnVideos(data_dir="data", file_format="array_record")
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(manual_dir="FOLDER")
        )

Other settings, as a config: `--config='{"name": "dense", "fps": 4.0}'`. Another name, or another
folder: a subclass in a file of its own, which `tfds build FILE` takes. There is no tokenizer in
such a data set, and what was skipped is in the log, not in a manifest.
"""

import dataclasses
import functools
import os
from collections.abc import Iterator
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from absl import logging

from mova_jax.data.annotations import InputError, Item, assign_splits, read_annotations
from mova_jax.data.ingest.decode_item import decode_all, decode_item
from mova_jax.data.ingest.ingest import IngestSettings
from mova_jax.data.shards import serialize
from mova_jax.data.shards.tfds_info import DESCRIPTION, VERSION, features_dict

ANNOTATIONS = "captions.jsonl"
_DEFAULT = IngestSettings()


@dataclasses.dataclass
class OwnVideosConfig(tfds.core.BuilderConfig):
    """Settings, with the names that they have in `prepare`.

    Attributes:
        fps: frames a second.
        short_side: of the stored frames, pixels; 0 stores the videos' own size.
        workers: processes that decode; the records do not depend on it.
    """

    fps: float = _DEFAULT.fps
    short_side: int = _DEFAULT.short_side
    workers: int = os.cpu_count() or 1


class OwnVideos(tfds.core.GeneratorBasedBuilder):
    """Videos and captions of a folder with a captions.jsonl."""

    VERSION = tfds.core.Version(VERSION)
    BUILDER_CONFIGS: ClassVar = [OwnVideosConfig(name="default")]
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        f"--manual_dir is a folder with {ANNOTATIONS} (one video a line, see python -m "
        "mova_jax.prepare --help) and the videos that it names."
    )
    # TFDS would find this with importlib_resources, which it does not require.
    code_path = tfds.core.Path(__file__)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=DESCRIPTION,
            features=features_dict(),
            disable_shuffling=True,  # the order of the file, as in the shards of `prepare`
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        config = self.builder_config
        dataclasses.replace(_DEFAULT, fps=config.fps, short_side=config.short_side).check()
        reading = read_annotations(dl_manager.manual_dir / ANNOTATIONS)
        for entry in reading.warnings:
            logging.warning("%s: %s", entry["id"], entry["reason"])
        for entry in reading.skipped:
            logging.warning("%s is skipped: %s", entry["id"], entry["reason"])
        if not reading.items:
            raise InputError(f"No line of {ANNOTATIONS} can be used: {reading.skipped[:3]}.")
        items = assign_splits(reading.items, _DEFAULT.splits)
        return {
            split: self._generate_examples([item for item in items if item.split == split])
            for split in sorted({item.split for item in items})
        }

    def _generate_examples(self, items: list[Item]) -> Iterator[tuple[str, dict[str, Any]]]:
        config, reasons = self.builder_config, []
        work = functools.partial(decode_item, fps=config.fps, short_side=config.short_side)
        for item, (record, reason, warnings) in decode_all(items, work, config.workers):
            for warning in warnings:
                logging.warning("%s: %s", item.id, warning)
            if record is None:
                reasons.append(f"{item.id}: {reason}")
                logging.warning("%s is skipped: %s", item.id, reason)
                continue
            # `serialize` alone defines the example of a record.
            yield item.id, features_dict().deserialize_example_np(serialize(record))
        if len(reasons) == len(items):  # TFDS makes no empty split
            raise InputError(
                f"No video of split {items[0].split!r} could be used: {'; '.join(reasons[:3])}."
            )
