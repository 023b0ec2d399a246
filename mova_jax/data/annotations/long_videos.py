"""LoVR and FLARE: videos of 10 to 60 minutes, each with one long caption; paragraph to video.

    lovr    video_train.parquet, video_test.parquet {"vid", "cap"}, or the same as .jsonl;
            all_video.jsonl, which the owners' evaluation reads, is taken as the test set
    flare   datas/video-caption-vision.jsonl {"video_path", "caption"}; a test set only

The videos of LoVR come in clips: join them with the owners' scripts/merge_clips.py to <vid>.mp4.
Those of FLARE are the long ones of Video-MME. Both also caption single clips, without publishing
their times; these captions are not read. Of FLARE's captions the visual ones are read, because
sound is not. Several lines of one video are its sentences, in order of `start` where there is one.

Neither reader was tried on the owners' files, which could not be had. Formats: cards of both, and
evaluate/README.md of LoVR; the name of FLARE's caption is guessed from its other files. Counts:
FLARE's card. LoVR has 467 videos; its card does not say how many in each split.
"""

from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from mova_jax.data.annotations.files import json_object, read_rows
from mova_jax.data.annotations.intake import Dataset, Intake
from mova_jax.data.annotations.moments import text_field, videos_of

_VIDEO = "vid", "video_id", "video_path", "path", "video"
_TEXT = "cap", "caption", "vision_caption", "video_caption", "long_caption", "unified_caption"


def read(annotations: Path, intake: Intake, *, files: dict[str, tuple[str, ...]]) -> None:
    """Reads the file of each split; see `Dataset.read`."""
    for split, file in intake.split_files(annotations, files):
        videos = videos_of(file, read_rows(file, intake.warn), _caption, intake)
        for video, sentences in videos.items():
            # A path is often that of the owners' own machine, so the bare name counts, too.
            names = (video.lstrip("/"), PurePosixPath(video).name)
            intake.add_sentences(PurePosixPath(video).stem, sentences, split=split, files=names)


def _caption(row: str | dict[str, Any]) -> tuple[str, tuple]:
    fields = row if isinstance(row, dict) else json_object(row)
    video, text = text_field(fields, *_VIDEO), text_field(fields, *_TEXT)
    times = fields.get("start"), fields.get("end")
    return video, ((text,) if times == (None, None) else (text, *times))


LOVR = Dataset(
    name="lovr",
    read=partial(
        read,
        files={
            "train": ("video_train.parquet", "video_train.jsonl"),
            "test": ("video_test.parquet", "video_test.jsonl", "all_video.jsonl"),
        },
    ),
    files="video_train.parquet and video_test.parquet of caption_data, or all_video.jsonl",
    licence="LoVR: CC BY-NC-SA 4.0, for research; videos are those of LongVideoBench.",
    recipe="configs/lovr.py",
)
FLARE = Dataset(
    name="flare",
    read=partial(
        read,
        files={"test": ("datas/video-caption-vision.jsonl", "video-caption-vision.jsonl")},
    ),
    files="datas/video-caption-vision.jsonl",
    expected={"test": 399},
    licence="FLARE: CC BY 4.0; videos are those of Video-MME, for research.",
    recipe="configs/flare.py",
)
