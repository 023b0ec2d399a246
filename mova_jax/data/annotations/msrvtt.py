"""MSR-VTT: web clips with 20 captions each, in the two divisions that papers use.

    MSRVTT_data.json            {"videos": [{"video_id", "split", ...}, ...],
                                 "sentences": [{"sen_id", "video_id", "caption"}, ...]}
                                or train_val_videodatainfo.json and test_videodatainfo.json
    MSRVTT_train.9k.csv         column video_id
    MSRVTT_JSFUSION_test.csv    columns key, vid_key, video_id, sentence

`msrvtt` is 9k / 1k-A: 9,000 videos to train on, 1,000 to test with the one sentence of the table
each. There is no validation split. `msrvtt_full` is the owner's division by "split" (train,
validate, test) and needs the JSON alone; there every caption is a query. The first caption of a
video is its caption, the other 19 are alternatives.

Format: CLIP4Clip, dataloaders/dataloader_msrvtt_retrieval.py, and the data set's own readme.
Counts: github.com/danieljf24/hybrid_space, dataset/README.md.
"""

import collections
from pathlib import Path

from mova_jax.data.annotations.files import check, one_of, read_json, read_table
from mova_jax.data.annotations.intake import Dataset, Intake
from mova_jax.data.annotations.items import ALL

_JSON, _TRAIN, _TEST = "MSRVTT_data.json", "MSRVTT_train.9k.csv", "MSRVTT_JSFUSION_test.csv"
_OWNERS = "train_val_videodatainfo.json", "test_videodatainfo.json"  # in the owner's two zips


def read_1k_a(annotations: Path, intake: Intake) -> None:
    """Reads 9k / 1k-A; see `Dataset.read`."""
    _, captions = _read_videos(annotations, intake)
    train = read_table(one_of(annotations, _TRAIN), intake.warn, ["video_id"])
    test = read_table(one_of(annotations, _TEST), intake.warn, ["video_id", "sentence"])
    # The test set first, so that a video in both lists is tested on and not trained on.
    for _, row, wrong in test:
        if wrong:
            intake.skip(row["video_id"], f"{_TEST}: {wrong}")
        else:
            intake.add(row["video_id"].strip(), [row["sentence"]], split="test")
    for _, row, _ in train:
        _add(row["video_id"].strip(), captions, "train", intake)


def read_full(annotations: Path, intake: Intake) -> None:
    """Reads the owner's division; see `Dataset.read`."""
    splits, captions = _read_videos(annotations, intake, alone=True)
    for video, split in splits:
        _add(video, captions, split, intake)


def _read_videos(annotations: Path, intake: Intake, alone: bool = False):
    """The (video, split) pairs, and the captions of each video."""
    files = [annotations / name for name in _OWNERS]
    if (annotations / _JSON).is_file() or not all(file.is_file() for file in files):
        files = [one_of(annotations, _JSON, alone=alone)]
    splits, captions = [], collections.defaultdict(list)
    for file in files:
        data, _ = read_json(file, intake.warn)
        fits = isinstance(data, dict) and all(
            isinstance(data.get(name), list) for name in ("videos", "sentences")
        )
        check(file, fits, 'an object with the lists "videos" and "sentences"', data)
        for position, entry in enumerate(data["sentences"]):
            video = entry.get("video_id") if isinstance(entry, dict) else None
            if not isinstance(video, str) or not isinstance(entry.get("caption"), str):
                intake.skip(f"{file.name} sentence {position}", "no `video_id` or no `caption`")
                continue
            captions[video].append(entry["caption"])
        check(file, bool(captions), '"sentences" of {"video_id", "caption"}', data["sentences"])
        videos = [entry for entry in data["videos"] if isinstance(entry, dict)]
        splits += [(str(entry.get("video_id", "")), entry.get("split")) for entry in videos]
    return splits, captions


def _add(video: str, captions, split: str, intake: Intake) -> None:
    texts = captions.get(video, [])
    intake.add(video, texts[:1], alternatives=texts[1:], split=split)


_LICENCE = "MSR-VTT: see its owner's page; the clips are their uploaders'."

DATASET = Dataset(
    name="msrvtt",
    read=read_1k_a,
    files=f"{_JSON} (or the owner's two), {_TRAIN} and {_TEST}",
    expected={"train": 9_000, "test": 1_000},
    licence=_LICENCE,
    recipe="configs/msrvtt.py",
)
FULL = Dataset(
    name="msrvtt_full",
    read=read_full,
    files=f"{_JSON}, or {' and '.join(_OWNERS)}",
    expected={"train": 6_513, "validation": 497, "test": 2_990},
    licence=_LICENCE,
    recipe="configs/msrvtt.py",
    queries=ALL,
)
