"""DiDeMo: personal videos of up to 30 seconds, several sentences each; paragraph to video.

    train_data.json, val_data.json, test_data.json
        [{"video": "<owner>_<number>_<hash>.mov", "description": "...", "times": [[0, 1], ...],
          "num_segments": 6, "annotation_id": 1, "dl_link": "..."}, ...]

A time is a pair of segments of 5 seconds, from the start of the first to the end of the second, as
marked by one annotator; the most frequent pair is used. Annotators saw the first 30 seconds only,
so only these are used. The caption is all sentences of a video in the order of the file.

A video may be listed with two extensions (`.mov`, `.mp4`): 1,094 names of val are 1,065 videos,
1,037 of test are 1,004. The name without its extension is the id, and its sentences are joined.

Format: github.com/LisaAnne/LocalizingMoments, README.md and data/. Counts: of val and test from
those files; of train (8,395) from the paper, by collaborative-experts,
misc/datasets/didemo/README.md.
"""

import collections
import os
from pathlib import Path

from mova_jax.data.annotations.files import check, read_json
from mova_jax.data.annotations.intake import Dataset, Intake

SEGMENT = 5.0  # seconds
SEEN = 30.0  # seconds of a video that annotators saw
_FILES = {"train": "train_data.json", "validation": "val_data.json", "test": "test_data.json"}


def read(annotations: Path, intake: Intake) -> None:
    """Reads the three files; see `Dataset.read`."""
    for split, file in intake.split_files(annotations, _FILES):
        entries, _ = read_json(file, intake.warn)
        check(file, isinstance(entries, list), "a list of descriptions", entries)
        fits = any(isinstance(e, dict) and {"video", "description"} <= set(e) for e in entries)
        check(file, fits, 'a list of {"video", "description", "times"}', entries)
        sentences, files = collections.defaultdict(list), collections.defaultdict(dict)
        for position, entry in enumerate(entries):
            try:
                video, caption = _caption(entry)
            except ValueError as error:
                intake.skip(f"{file.name} entry {position}", error)
                continue
            stem = os.path.splitext(video)[0]
            sentences[stem].append(caption)
            files[stem][video] = None
        for stem, captions in sentences.items():
            names = (*files[stem], stem)
            intake.add(stem, captions, split=split, files=names, end=SEEN)


def _caption(entry) -> tuple[str, tuple]:
    """The video of an entry, and its sentence with its times in seconds."""
    if not isinstance(entry, dict):
        raise ValueError(f"it must be an object, got {type(entry).__name__}")
    video, text = entry.get("video"), entry.get("description")
    if not isinstance(video, str) or not video or not isinstance(text, str):
        raise ValueError("`video` and `description` must be texts")
    times = entry.get("times")
    pairs = [tuple(pair) for pair in times if _is_pair(pair)] if isinstance(times, list) else []
    if not pairs:
        return video, (text,)
    (first, last), _ = collections.Counter(pairs).most_common(1)[0]
    return video, (text, first * SEGMENT, (last + 1) * SEGMENT)


def _is_pair(pair) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(type(place) is int for place in pair)


DATASET = Dataset(
    name="didemo",
    read=read,
    files="train_data.json, val_data.json and test_data.json of LocalizingMoments",
    expected={"train": 8_395, "validation": 1_065, "test": 1_004},
    licence="Annotations BSD-2-Clause; videos Creative Commons, each its own (video_licenses.txt).",
    recipe="configs/didemo.py",
)
