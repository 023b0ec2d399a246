"""Data sets of moments: each line has a sentence, its video and its time.

    charades_sta     charades_sta_train.txt, charades_sta_test.txt; people at home
    animal_kingdom   train.txt, test.txt of its video grounding; animals in the wild
                     lines "<id> <start> <end>##<sentence>", times in seconds or as "mm:ss.s"
    qvhighlights     highlight_train_release.jsonl, and val, test; web videos of 150 s
                     {"vid", "query", "relevant_windows": [[72, 82], [84, 94], ...], ...}
    tvr              tvr_train_release.jsonl, tvr_val_release.jsonl; clips of television
                     {"vid_name", "desc", "ts": [16.5, 33.9], ...}

The caption of a video is all its sentences in order of time, so that one folder of shards serves
paragraphs, sentences and moments. A sentence of QVHighlights has all its windows, the longest one
first, and its place is that of the longest. Its test set has no windows. Times past the end of a
video are cut when it is decoded, so files of durations are not read. A line that is there twice
counts twice, as it does for the owners.

Formats and counts: the owners' files; TVR's train set: its paper.
"""

import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from mova_jax.data.annotations.files import check, json_object, read_rows
from mova_jax.data.annotations.intake import SENTENCES, Dataset, Intake
from mova_jax.data.annotations.items import is_span, longest_first

_SPAN = re.compile(r"(\S+)\s+(\S+)\s+(\S+?)\s*##(.*)")
_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+(?:\.\d+)?)")

# A row (a line, or an object) -> the id of its video, and (text,), (text, start, end), or these and
# a list of further windows.
Parser = Callable[[Any], tuple[str, tuple]]


def videos_of(
    file: Path, rows: Iterable[Any], parse: Parser, intake: Intake
) -> dict[str, list[tuple]]:
    """The sentences of each video; rows that are not understood are skipped with a reason.

    Raises:
        InputError: when no row is understood.
    """
    rows, videos, faults = list(rows), {}, []
    for number, row in enumerate(rows, 1):
        try:
            video, sentence = parse(row)
            videos.setdefault(video, []).append(sentence)
        except ValueError as error:
            faults.append((f"{file.name} line {number}", error))
    fault = f"{rows[0]!r:.100}: {faults[0][1]}" if faults else "no line"
    check(file, bool(videos), "a file of lines for this data set", fault)
    for name, error in faults:
        intake.skip(name, error)
    return videos


def read(annotations: Path, intake: Intake, *, files: dict[str, Any], parse: Parser) -> None:
    """Reads the file of each split, see `Intake.split_files`, and adds its videos."""
    for split, file in intake.split_files(annotations, files):
        rows = read_rows(file, intake.warn)
        for video, sentences in videos_of(file, rows, parse, intake).items():
            intake.add_sentences(video, sentences, split=split)


def span_line(line: str) -> tuple[str, tuple]:
    """A line "<id> <start> <end>##<sentence>".

    Raises:
        ValueError: when it has another form.
    """
    found = _SPAN.fullmatch(line)
    if not found:
        raise ValueError("it must be `id start end##sentence`")
    video, start, end, text = found.groups()
    return video, (text, _seconds(start), _seconds(end))


def _seconds(text: str) -> float | str:
    """Seconds of "6.9", "01:09.8" or "1:01:09.8"; the text itself when it is no time."""
    clock = _CLOCK.fullmatch(text)
    if clock:
        hours, minutes, rest = clock.groups()
        return 3600 * float(hours or 0) + 60 * float(minutes) + float(rest)
    try:
        return float(text)
    except ValueError:
        return text


def text_field(fields: dict[str, Any], *names: str) -> str:
    """The first of the fields that is a text with content.

    Raises:
        ValueError: when none is.
    """
    for name in names:
        if isinstance(fields.get(name), str) and fields[name].strip():
            return fields[name]
    raise ValueError(f"it has no text `{'` or `'.join(names)}`")


def _qvhighlights(line: str) -> tuple[str, tuple]:
    fields = json_object(line)
    video, text = text_field(fields, "vid"), text_field(fields, "query")
    if not fields.get("relevant_windows"):
        return video, (text,)
    return video, (text, *longest_first(fields["relevant_windows"], "relevant_windows"))


def _tvr(line: str) -> tuple[str, tuple]:
    fields = json_object(line)
    video, text = text_field(fields, "vid_name"), text_field(fields, "desc")
    if not is_span(fields.get("ts")):
        raise ValueError(f"`ts` must be [start, end] in seconds, got {fields.get('ts')!r}")
    return video, (text, *fields["ts"])


def _dataset(name: str, files: dict[str, str], parse: Parser, **fields) -> Dataset:
    names = list(files.values())
    listed = f"{', '.join(names[:-1])} and {names[-1]}"
    return Dataset(name, partial(read, files=files, parse=parse), listed, unit=SENTENCES, **fields)


CHARADES_STA = _dataset(
    "charades_sta",
    {"train": "charades_sta_train.txt", "test": "charades_sta_test.txt"},
    span_line,
    expected={"train": 12_408, "test": 3_720},
    licence="Charades-STA: see its owners' page; videos are those of Charades (non-commercial).",
    recipe="configs/charades_sta.py",
)
ANIMAL_KINGDOM = _dataset(
    "animal_kingdom",
    {"train": "train.txt", "test": "test.txt"},
    span_line,
    expected={"train": 14_995, "test": 3_749},
    licence="Animal Kingdom: see its owners' page, which asks for a request.",
    recipe="configs/animal_kingdom.py",
)
QVHIGHLIGHTS = _dataset(
    "qvhighlights",
    {
        "train": "highlight_train_release.jsonl",
        "validation": "highlight_val_release.jsonl",
        "test": "highlight_test_release.jsonl",
    },
    _qvhighlights,
    expected={"train": 7_218, "validation": 1_550, "test": 1_542},
    licence="QVHighlights: annotations CC BY-NC-SA 4.0; videos are their uploaders'.",
    recipe="configs/qvhighlights.py",
)
TVR = _dataset(
    "tvr",
    {"train": "tvr_train_release.jsonl", "validation": "tvr_val_release.jsonl"},
    _tvr,
    expected={"train": 87_175, "validation": 10_895},
    licence="TVR: annotations MIT; frames only with the permission of the owners of TVQA.",
)
