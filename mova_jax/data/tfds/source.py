"""Any TFDS data set with videos and captions as a source of `VideoRecord`s.

    source = open_tfds("tfds:msr_vtt/1.0.0?frames=video&captions=caption/text&fps=3", "train")
    len(source), source[0].captions
    tfds_splits("tfds:msr_vtt/1.0.0")         # {"test": 1000, "train": 9000}

`names.py` has the syntax of the names, `fields.py` the features that a data set may have. Records
are read at random, from any number of threads and processes, without TensorFlow; the data set must
have been made as ArrayRecord. JPEG frames stay as they are, others become PPM.

The import of TFDS takes a second and replaces Python's own import for that time, in all threads: it
happens with the import of this module, which `data/sources.py` does before any thread reads.
"""

import operator
import os
from collections.abc import Sequence

from tensorflow_datasets import decode
from tensorflow_datasets.core import dataset_info
from tensorflow_datasets.core.features import FeaturesDict
from tensorflow_datasets.core.read_only_builder import ReadOnlyBuilder

from mova_jax.data.shards import ShardError, VideoRecord, parse
from mova_jax.data.shards.tfds_info import features_dict
from mova_jax.data.tfds.fields import choose_fields, leaves_of
from mova_jax.data.tfds.names import TfdsName, find_folder, parse_name
from mova_jax.data.tfds.records import record_of
from mova_jax.utils.text_files import parse_json


class TfdsSource(Sequence):
    """The records of a split at random: `len(source)`, `source[i]`.

    A Grain data source: unpickling opens the data set again.
    """

    def __init__(self, name: TfdsName, split: str, data, fields: dict[str, str]):
        """Wraps a data source of TFDS; use `open_tfds`. Without fields its records are ours."""
        self._name, self._split = name, split
        self._data, self._fields = data, fields

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index) -> VideoRecord:
        """Reads record `index`.

        Raises:
            IndexError: when there is no such record.
            ShardError: when it is damaged, or has no frames or no captions; names the record.
        """
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of split {self._split!r}, which has {len(self)}")
        try:
            values = self._data[index]
        except Exception as error:  # protobuf, ArrayRecord and TFDS raise a dozen kinds
            raise ShardError(
                f"{self._place(index)} cannot be read ({error}); make the data set again."
            ) from error
        try:
            if not self._fields:
                return parse(values)
            named = {field: values[path] for field, path in self._fields.items()}
            fallback = f"{self._split}/{index}"
            return record_of(named, fallback, self._name.fps or 1.0, self._name.text)
        except ValueError as error:
            raise ShardError(
                f"{self._place(index)} is no video with captions ({error}); make the data set "
                "without it."
            ) from error

    def __repr__(self) -> str:
        return f"TfdsSource({self._name.text!r}, {self._split!r})"

    def __reduce__(self):
        return open_tfds, (self._name.text, self._split)

    def _place(self, index: int) -> str:
        return f"Record {index} of split {self._split!r} of {self._name.text}"


def open_tfds(name: str, split: str) -> TfdsSource:
    """Opens a split of a TFDS data set.

    Args:
        name: see `names.py`.
        split: its name, or a part of it as TFDS writes it ("train[:90%]").

    Raises:
        ShardError: the name is not well spelled; the data set, the split or one of its files is
            missing; it is not stored as ArrayRecord; or its features are not those of videos with
            captions. Lists what there is.
    """
    parsed = parse_name(name)
    folder, info = _read_info(parsed)
    try:
        leaves = leaves_of(_read_json(folder / "features.json"))
        own = leaves_of(features_dict().to_json())
        fields: dict[str, str] = {}
        method = decode.DeserializeMethod.RAW_BYTES
        if parsed.fields or parsed.fps or _shown(leaves) != _shown(own):
            fields = choose_fields(leaves, parsed.fields)
            if parsed.fps:
                fields.pop("timestamps", None)  # the feature of this name
            method = decode.DeserializeMethod.DESERIALIZE_AND_DECODE
    except ShardError as error:
        raise ShardError(f"{name}: {error}") from error
    paths = fields.values() or own
    features = FeaturesDict({path: leaves[path].feature for path in paths})
    # These replace the features of features.json, some of which need TensorFlow.
    info.features.CopyFrom(features.to_proto())
    return TfdsSource(parsed, split, _data_source(folder, info, split, method, name), fields)


def tfds_splits(name: str) -> dict[str, int]:
    """The splits of a TFDS data set, and the number of records in each.

    Raises:
        ShardError: the name is not well spelled, or there is no such data set.
    """
    _, info = _read_info(parse_name(name))
    return {split.name: sum(split.shard_lengths) for split in info.splits}


def _read_info(name: TfdsName):
    """The folder of a data set, and TFDS's description of it (a `DatasetInfo` message)."""
    folder = find_folder(name)
    try:
        return folder, dataset_info.read_proto_from_builder_dir(folder)
    except Exception as error:  # of JSON, of protobuf and of the file system
        raise ShardError(f"{name.text}: {folder} has no readable metadata ({error}).") from error


def _read_json(path) -> dict:
    try:
        return parse_json(path.read_text())
    except (OSError, ValueError) as error:
        raise ShardError(f"{path} cannot be read ({error}); make the data set again.") from error


def _shown(leaves) -> dict[str, str]:
    return {path: leaf.shown for path, leaf in leaves.items()}


def _data_source(folder, info, split: str, method, name: str):
    """TFDS's own source of a split, after a check that all its files exist."""
    formats = {info.file_format or "tfrecord", *info.alternative_file_formats}
    if "array_record" not in formats:
        raise ShardError(
            f"{name} is stored as {', '.join(sorted(formats))}, which cannot be read at random "
            "without TensorFlow. Make it again with tfds build --file_format=array_record, or copy "
            "it with tfds convert_format --out_file_format=array_record."
        )
    try:
        builder = ReadOnlyBuilder(os.fspath(folder), info_proto=info)
        data = builder.as_data_source(split, deserialize_method=method, file_format="array_record")
        files = [file.filename for file in builder.info.splits[split].file_instructions]
    except Exception as error:  # TFDS raises a dozen kinds
        splits = ", ".join(sorted(split.name for split in info.splits)) or "none"
        raise ShardError(
            f"{name}: split {split!r} cannot be opened ({error}). The splits are: {splits}."
        ) from error
    for file in files:
        if not type(folder)(file).exists():
            raise ShardError(f"{name}: its file {file} is not there; copy it, or make it again.")
    return data
