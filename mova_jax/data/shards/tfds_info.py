"""What makes a shard folder a TFDS data set: dataset_info.json beside features.json.

In:  name, licence and the shards of every split.
Out: the text of dataset_info.json, the same for the same input (no date, no path):

    text = dataset_info_json("clips", {"train": [(512, 70_000_000), (88, 12_000_000)]}, licence="")
    (folder / DATASET_INFO).write_text(text)

With it `tfds.builder_from_directory(folder).as_data_source("train")` reads the folder, and
`tfds.data_source("clips/train", data_dir=D)` where it lies at `D/clips/1.0.0`. The names of the
shards are those that TFDS expects. TensorFlow is not needed.
"""

from collections.abc import Mapping, Sequence

from mova_jax.data.shards.records import SCHEMA_VERSION, TFDS_IMPORT

DATASET_INFO = "dataset_info.json"
VERSION = f"{SCHEMA_VERSION}.0.0"  # of the data set, for TFDS
DESCRIPTION = (
    "Videos with captions: a sequence of encoded frames, their times in seconds, sentences with "
    "start and end in seconds (both -1 where nobody said when), and further captions of the whole "
    "video."
)
_SHARD_NAME = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


def dataset_info_json(
    name: str, shards: Mapping[str, Sequence[tuple[int, int]]], *, licence: str
) -> str:
    """The metadata of a folder of ArrayRecord shards, as TFDS stores it.

    Args:
        name: of the data set.
        shards: (records, bytes) of each shard of each split, in order.
        licence: a note, may be ''.
    """
    with TFDS_IMPORT:
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
