"""The shard folder: records, manifest, writing, reading.

Out: a folder that `open_split` reads at random, from any number of threads and processes:

    manifest.json                                  what is in it; written last, so it marks the end
    features.json, dataset_info.json               what TFDS needs to read it as a data set
    <name>-<split>.array_record-00000-of-00004     ArrayRecord, one tf.train.Example a video

    splits = {"train": write_split(folder, "train", records, name="clips")}
    write_manifest(folder, Manifest(name="clips", splits=splits))
    source = open_split(folder, "train")
    len(source), source[0].captions

Shards at a URL are copied first, see `cache.py`.
"""

from mova_jax.data.shards.manifest import (
    MANIFEST,
    Manifest,
    ShardError,
    ShardInfo,
    SplitInfo,
    read_manifest,
    reraise_as_shard_error,
    write_manifest,
)
from mova_jax.data.shards.reader import SplitSource, open_split, read_shard
from mova_jax.data.shards.records import (
    SCHEMA_VERSION,
    Caption,
    VideoRecord,
    check_texts,
    parse,
    serialize,
)
from mova_jax.data.shards.writer import (
    SHARD_BYTES,
    SHARD_RECORDS,
    shard_file,
    stem_of,
    write_shard,
    write_split,
)
