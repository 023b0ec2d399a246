"""The data sets that `prepare` knows by name.

    reading = read_dataset("activitynet", annotations="captions", videos="videos")

A new one is a module with a `DATASET` (see `intake.py`) and a line here.
"""

import os
from pathlib import Path

from mova_jax.data.annotations import (
    activitynet,
    didemo,
    lsmdc,
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

DATASETS = {
    dataset.name: dataset
    for dataset in (
        activitynet.DATASET,
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
        annotations: the folder of the files as their owner publishes them, or the one file.
        videos: the folder of the videos, at any depth.

    Raises:
        InputError: when a folder or a file is missing, or a file is of another form.
    """
    dataset = DATASETS[name]
    annotations = Path(annotations)
    if not annotations.exists():
        raise InputError(f"There is no {annotations}; --annotations is to have {dataset.files}.")
    intake = Intake(dataset, VideoFolder(videos, dataset.extensions))
    dataset.read(annotations, intake)
    return intake.reading()
