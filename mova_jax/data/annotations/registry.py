"""The data sets that `prepare` knows by name.

    reading = read_dataset("activitynet", annotations="captions", videos="videos")

A new one is a module with a `DATASET` (see `intake.py`) and its line here.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mova_jax.data import storage
from mova_jax.data.annotations import (
    activitynet,
    didemo,
    long_videos,
    lsmdc,
    moments,
    msrvtt,
    msvd,
    sharegpt4v,
    subtitles,
    table,
    ultravideo,
    videoufo,
)
from mova_jax.data.annotations.intake import Intake
from mova_jax.data.annotations.items import InputError, Reading
from mova_jax.data.annotations.videos import VideoFolder

_TEXTS = (".json", ".jsonl", ".csv", ".tsv", ".txt", ".pkl", ".parquet", ".vtt", ".srt")

DATASETS = {
    dataset.name: dataset
    for dataset in (
        activitynet.DATASET,
        activitynet.UCA,
        activitynet.LONGVALE,
        activitynet.YOUCOOK2,
        activitynet.TACOS,
        moments.CHARADES_STA,
        moments.ANIMAL_KINGDOM,
        moments.QVHIGHLIGHTS,
        moments.TVR,
        long_videos.LOVR,
        long_videos.FLARE,
        didemo.DATASET,
        msvd.DATASET,
        msrvtt.DATASET,
        msrvtt.FULL,
        lsmdc.DATASET,
        videoufo.DATASET,
        ultravideo.DATASET,
        sharegpt4v.DATASET,
        table.DATASET,
        subtitles.DATASET,
    )
}


def read_dataset(name: str, annotations: str | os.PathLike, videos: str | os.PathLike) -> Reading:
    """Reads the annotations of a data set and finds its videos.

    Args:
        name: a key of `DATASETS`.
        annotations: the folder of the published files, or the one file; a path or a URL.
        videos: the folder of the videos, at any depth; a path or a URL.

    Raises:
        InputError: when a folder or a file is missing, or a file has another format.
    """
    dataset = DATASETS[name]
    intake = Intake(dataset, VideoFolder(videos, dataset.extensions))
    with _on_this_machine(annotations) as folder:
        if not folder.exists():
            raise InputError(f"There is no {folder}; --annotations is to have {dataset.files}.")
        dataset.read(folder, intake)
    return intake.reading()


@contextlib.contextmanager
def _on_this_machine(annotations: str | os.PathLike) -> Iterator[Path]:
    """The local annotations, or a copy of those at a URL without other files in their folder."""
    if not storage.is_url(annotations):
        yield Path(annotations)
        return
    remote = storage.Folder(annotations)
    names = [name for name in remote.stamps() if name.lower().endswith(_TEXTS)]
    with tempfile.TemporaryDirectory(prefix="mova_jax-") as scratch:
        for name in names:
            storage.Folder(scratch).write(name, remote.read(name))
        if names:
            yield Path(scratch)
            return
    try:
        with storage.local_file(annotations) as file:
            yield file
    except FileNotFoundError as error:
        raise InputError(f"There is no {annotations}, or nothing of annotations in it.") from error
