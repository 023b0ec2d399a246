"""Writes the frame vectors of an index as one Parquet file, for engines and data frames.

    export_parquet(open_index("index"), "frames.parquet")

One row a frame, for engines index one vector a row and find it by its columns:

    video     string     id in the index
    path      string     of the file, as in the index
    frame     int32      from 0
    time      float32    seconds
    duration  float32    of the video, seconds
    vector    float32[d] not normalised: compare by cosine

Vectors are float32, which everything reads; float16, which the index has, is unknown to many
readers. Their lower bytes are zeros, so byte-stream-split and zstd bring them back to the size of
float16. The schema's metadata has `mova_jax.model`, `.fingerprint`, `.fps` and `.dim`: vectors of
two fingerprints or rates do not compare.
"""

import os
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa  # comes with tensorflow-datasets
from pyarrow import parquet

from mova_jax.search.store import Entry, Index, StoreError
from mova_jax.utils import atomic
from mova_jax.utils.progress_bar import bar_of

ROWS = 16384  # of a row group at most: 32 MiB of vectors at a width of 512


def export_parquet(index: Index, path: str | os.PathLike) -> int:
    """Writes the file, whole or not at all, in constant memory; returns its rows.

    Args:
        index: of `open_index`.
        path: of the file; one that is there is replaced.

    Raises:
        StoreError: the vectors of a video cannot be read.
    """
    schema, rows = _schema(index.manifest), 0
    with (
        atomic.replacing(path) as aside,
        parquet.ParquetWriter(
            aside,
            schema,
            compression="zstd",
            use_dictionary=["video", "path", "duration"],
            column_encoding={"vector.list.element": "BYTE_STREAM_SPLIT"},
        ) as writer,
    ):
        for columns in _groups(index):
            vectors = columns.pop("vector").astype(np.float32)
            made = [pa.array(columns[name], schema.field(name).type) for name in columns]
            made.append(pa.FixedSizeListArray.from_arrays(vectors.ravel(), vectors.shape[1]))
            table = pa.Table.from_arrays(made, schema=schema)
            writer.write_table(table, row_group_size=ROWS)
            rows += len(table)
    return rows


def _schema(manifest: Mapping[str, Any]) -> pa.Schema:
    about = {f"mova_jax.{name}": str(manifest[name]) for name in ("model", "fingerprint", "fps")}
    return pa.schema(
        [
            ("video", pa.string()),
            ("path", pa.string()),
            ("frame", pa.int32()),
            ("time", pa.float32()),
            ("duration", pa.float32()),
            ("vector", pa.list_(pa.float32(), manifest["dim"])),
        ],
        metadata=about | {"mova_jax.dim": str(manifest["dim"])},
    )


def _groups(index: Index) -> Iterator[dict[str, Any]]:
    """Columns of a row group: short videos share one, a long one has several."""
    parts, count = [], 0
    for entry in bar_of("export", len(index.entries), index.entries, delay=1.0):
        for start in range(0, entry.frames, ROWS):
            part = slice(start, min(entry.frames, start + ROWS))
            if count + part.stop - part.start > ROWS:
                yield _columns(index, parts)
                parts, count = [], 0
            parts.append((entry, part))
            count += part.stop - part.start
    if parts:
        yield _columns(index, parts)


def _columns(index: Index, parts: list[tuple[Entry, slice]]) -> dict[str, Any]:
    """The columns of some frames of some videos.

    Raises:
        StoreError: a video does not have the frames of its entry.
    """
    for entry, part in parts:
        if min(len(index.vectors(entry.id)), len(index.times(entry.id))) < part.stop:
            raise StoreError(
                f"the video {entry.source} ({entry.id}) does not have the {entry.frames} frames of "
                "its entry: delete its folder in the index, and embed it again"
            )
    lengths = [part.stop - part.start for _, part in parts]

    def repeated(values: list[Any]) -> np.ndarray:
        return np.repeat(np.array(values), lengths)

    return {
        "video": repeated([entry.id for entry, _ in parts]),
        # Names of files need not be text.
        "path": repeated([os.fsencode(e.source).decode("utf-8", "replace") for e, _ in parts]),
        "frame": np.concatenate([np.arange(part.start, part.stop) for _, part in parts]),
        "time": np.concatenate([index.times(entry.id)[part] for entry, part in parts]),
        "duration": repeated([entry.duration for entry, _ in parts]),
        "vector": np.concatenate([index.vectors(entry.id)[part] for entry, part in parts]),
    }
