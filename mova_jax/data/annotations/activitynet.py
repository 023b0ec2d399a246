"""ActivityNet Captions, and data sets of its form: long videos, several sentences with their times.

    {"v_<id>": {"duration": 82.7, "timestamps": [[0.8, 19.9], ...], "sentences": ["...", ...]}}

    activitynet   train.json, val_1.json (or val.json)
    uca           UCFCrime_Train.json, UCFCrime_Val.json, UCFCrime_Test.json, or the same as .txt:
                  lines "<id> <start> <end> ##<sentence>" with times "mm:ss.s"; surveillance
    longvale      longvale-annotations-training.json, longvale-annotations-eval.json
    youcook2      yc2_train.json, yc2_val.json; cooking
    tacos         train.json, val.json, test.json; times in frames, of which "fps" are a second

The caption of a video is all its sentences: in ActivityNet in the order of the file, as papers join
them, elsewhere in order of time. Where papers test on a validation set, it is the split `test`, and
there is none for model selection: ActivityNet's `val_1` (`val_2` has other captions of its videos
and is not read) and YouCook2's `val`. Files are named by the key, with or without a `v_`.

Formats: CLIP4Clip, dataloaders/dataloader_activitynet_retrieval.py; the owners' files of UCA; PDVC,
data/yc2; 2D-TAN, data/TACoS; LongVALE, longvalellm/eval/eval.py. Counts: collaborative-experts,
misc/datasets/activity-net/README.md; the owners' readme of LongVALE; the others' files.
"""

from functools import partial
from pathlib import Path

from mova_jax.data.annotations.files import check, read_json, read_lines
from mova_jax.data.annotations.intake import Dataset, Intake
from mova_jax.data.annotations.items import is_time
from mova_jax.data.annotations.moments import span_line, videos_of


def read(
    annotations: Path,
    intake: Intake,
    *,
    files: dict[str, str | tuple[str, ...]],
    in_frames: bool = False,
    file_order: bool = False,
) -> None:
    """Reads the files; see `Dataset.read`.

    Args:
        annotations: folder of the files.
        intake: takes the videos.
        files: the file of each split, or its possible names.
        in_frames: whether times are numbers of frames, and each video has its `fps`.
        file_order: whether sentences stay in the order of the file.
    """
    for split, file in intake.split_files(annotations, files):
        if file.suffix == ".txt":
            lines = read_lines(file, intake.warn)
            for video, sentences in videos_of(file, lines, span_line, intake).items():
                intake.add_sentences(video, sentences, split=split)
            continue
        videos, repeated = read_json(file, intake.warn)
        check(file, isinstance(videos, dict), "an object of videos by their id", videos)
        entries = [entry for entry in videos.values() if isinstance(entry, dict)]
        fits = any({"sentences", "timestamps"} <= set(entry) for entry in entries)
        check(file, fits, 'an object {"v_...": {"duration", "timestamps", "sentences"}}', videos)
        add = intake.add if file_order else intake.add_sentences
        for key, entry in videos.items():
            try:
                captions = _captions(entry, in_frames)
            except ValueError as error:
                intake.skip(key, error)
                continue
            add(key, captions, split=split, files=(key, key.removeprefix("v_")))
        for key in repeated:
            intake.skip(key, f"{file.name} has it twice; the first was used")


def _captions(entry, in_frames: bool) -> list[tuple]:
    """The sentences of an entry with their times in seconds, as far as these are numbers."""
    sentences = entry.get("sentences") if isinstance(entry, dict) else None
    times = entry.get("timestamps") if isinstance(entry, dict) else None
    if not isinstance(sentences, list) or not isinstance(times, list):
        raise ValueError("it must have lists of `sentences` and `timestamps`")
    times = [pair if isinstance(pair, list) and len(pair) == 2 else [None, None] for pair in times]
    times += [[None, None]] * (len(sentences) - len(times))
    if in_frames:
        rate = entry.get("fps")
        if not is_time(rate) or not rate:
            raise ValueError(f"its times are in frames, so `fps` must be a number, got {rate!r}")
        times = [[time / rate if is_time(time) else time for time in pair] for pair in times]
    return [(text, *pair) for text, pair in zip(sentences, times, strict=False)]


def _dataset(name: str, files: dict[str, str | tuple[str, ...]], *, more=None, **fields) -> Dataset:
    names = [known if isinstance(known, str) else known[0] for known in files.values()]
    listed = f"{', '.join(names[:-1])} and {names[-1]}"
    return Dataset(name, partial(read, files=files, **(more or {})), listed, **fields)


DATASET = _dataset(
    "activitynet",
    {"train": "train.json", "test": ("val_1.json", "val.json")},
    more={"file_order": True},
    expected={"train": 10_009, "test": 4_917},
    licence="ActivityNet Captions: see its owners' page; videos are their uploaders'.",
    recipe="configs/activitynet.py",
)
UCA = _dataset(
    "uca",
    {
        "train": ("UCFCrime_Train.json", "UCFCrime_Train.txt"),
        "validation": ("UCFCrime_Val.json", "UCFCrime_Val.txt"),
        "test": ("UCFCrime_Test.json", "UCFCrime_Test.txt"),
    },
    expected={"train": 1_165, "validation": 379, "test": 310},
    licence="UCA: for academic research, says its readme; videos are those of UCF-Crime.",
    recipe="configs/uca.py",
)
LONGVALE = _dataset(
    "longvale",
    {
        "train": ("longvale-annotations-training.json", "train_set_info_7240.json"),
        "test": ("longvale-annotations-eval.json", "test_set_info_1171.json"),
    },
    expected={"train": 7_240, "test": 1_171},
    licence="LongVALE: see its card; videos are their uploaders'.",
    recipe="configs/longvale.py",
)
YOUCOOK2 = _dataset(
    "youcook2",
    {"train": "yc2_train.json", "test": "yc2_val.json"},
    expected={"train": 1_333, "test": 457},
    licence="YouCook2: see its owners' page; videos are their uploaders'.",
)
TACOS = _dataset(
    "tacos",
    {"train": "train.json", "validation": "val.json", "test": "test.json"},
    more={"in_frames": True},
    expected={"train": 75, "validation": 27, "test": 25},
    licence="TACoS: see its owners' page (MPII Cooking).",
)
