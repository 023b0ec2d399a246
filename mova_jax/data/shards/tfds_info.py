"""The two files that make a shard folder a TFDS data set: features.json and dataset_info.json.

    features_dict().save_config(folder)       # features.json
    text = dataset_info_json("clips", {"train": [(512, 70_000_000), (88, 12_000_000)]}, licence="")

With them `tfds.builder_from_directory(folder).as_data_source("train")` reads the folder, and so
does `tfds.data_source("clips/train", data_dir=D)` when it is at `D/clips/1.0.0`. The names of the
shards are those that TFDS expects. The same input gives the same text (no date, no path), and
TensorFlow is not needed.

TFDS is imported where it is used: that takes half a second, and no reader of shards needs it.
"""

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from mova_jax.data.shards.records import SCHEMA_VERSION

DATASET_INFO = "dataset_info.json"
VERSION = f"{SCHEMA_VERSION}.0.0"  # of the data set, for TFDS
DESCRIPTION = (
    "Videos with captions: a sequence of encoded frames, their times in seconds, sentences with "
    "start and end in seconds (both -1 where unknown), and further captions of the whole "
    "video."
)
_SHARD_NAME = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


@functools.cache
def features_dict():
    """The fields of a record, as `records.serialize` writes them, as a TFDS `FeaturesDict`."""
    from tensorflow_datasets import features as tfds

    caption = {
        "text": tfds.Text(),
        "start": tfds.Scalar(np.float32),
        "end": tfds.Scalar(np.float32),
    }
    return tfds.FeaturesDict(
        {
            "id": tfds.Text(),
            "frames": tfds.Sequence(tfds.Tensor(shape=(), dtype=np.bytes_)),
            "height": tfds.Scalar(np.int32),
            "width": tfds.Scalar(np.int32),
            "timestamps": tfds.Sequence(tfds.Scalar(np.float32)),
            "duration": tfds.Scalar(np.float32),
            "captions": tfds.Sequence(caption),
            "alternatives": tfds.Sequence(tfds.Text()),
            "source": tfds.Text(),
            "truth": tfds.Text(),
        }
    )


def dataset_info_json(
    name: str, shards: Mapping[str, Sequence[tuple[int, int]]], *, licence: str
) -> str:
    """The metadata of a folder of ArrayRecord shards, as TFDS stores it.

    Args:
        name: of the data set.
        shards: (records, bytes) of each shard of each split, in order.
        licence: a note, may be ''.
    """
    from google.protobuf import json_format
    from tensorflow_datasets.core.proto import dataset_info_pb2 as protos

    info = protos.DatasetInfo(
        name=name,
        version=VERSION,
        description=DESCRIPTION,
        file_format="array_record",
        disable_shuffling=True,  # the order of the records is the order they were given in
        splits=[
            protos.SplitInfo(
                name=split,
                shard_lengths=[records for records, _ in sizes],
                num_bytes=sum(size for _, size in sizes),
                filepath_template=_SHARD_NAME,
            )
            for split, sizes in shards.items()
        ],
    )
    if licence:
        info.redistribution_info.license = licence
    return json_format.MessageToJson(info, sort_keys=True) + "\n"
