"""ActivityNet Captions: long videos, several sentences each with their times; paragraph to video.

    train.json, val_1.json   {"v_<id>": {"duration": 82.7, "timestamps": [[0.8, 19.9], ...],
                              "sentences": ["...", ...]}}

The caption of a video is all its sentences in order. Papers test on `val_1`, so it is the split
`test`; `val_2` has other captions of the videos of `val_1` and is not read. There is no further
split for model selection. Files are named by the key, with or without its `v_`.

Counts: collaborative-experts, misc/datasets/activity-net/README.md. Format: CLIP4Clip,
dataloaders/dataloader_activitynet_retrieval.py.
"""

from pathlib import Path

from mova_jax.data.annotations.files import check, one_of, read_json
from mova_jax.data.annotations.intake import Dataset, Intake

_FILES = {"train": "train.json", "test": "val_1.json"}


def read(annotations: Path, intake: Intake) -> None:
    """Reads both files; see `Dataset.read`."""
    for split, name in _FILES.items():
        file = one_of(annotations, name)
        videos, repeated = read_json(file)
        check(file, isinstance(videos, dict), "an object of videos by their id", videos)
        entries = [entry for entry in videos.values() if isinstance(entry, dict)]
        fits = any({"sentences", "timestamps"} <= set(entry) for entry in entries)
        check(file, fits, 'an object {"v_...": {"duration", "timestamps", "sentences"}}', videos)
        for key, entry in videos.items():
            _add(key, entry, split, intake)
        for key in repeated:
            intake.skip(key, f"{name} has it twice; the first was used")


def _add(key: str, entry, split: str, intake: Intake) -> None:
    sentences = entry.get("sentences") if isinstance(entry, dict) else None
    times = entry.get("timestamps") if isinstance(entry, dict) else None
    if not isinstance(sentences, list) or not isinstance(times, list):
        intake.skip(key, "it must have lists of `sentences` and `timestamps`")
        return
    times = [pair if isinstance(pair, list) and len(pair) == 2 else [None, None] for pair in times]
    times += [[None, None]] * (len(sentences) - len(times))
    captions = [(text, *pair) for text, pair in zip(sentences, times, strict=False)]
    intake.add(key, captions, split=split, files=(key, key.removeprefix("v_")))


DATASET = Dataset(
    name="activitynet",
    read=read,
    files="train.json and val_1.json of ActivityNet Captions",
    expected={"train": 10_009, "test": 4_917},
    licence="ActivityNet Captions: see its owners' page; videos are their uploaders'.",
    recipe="configs/activitynet.py",
)
