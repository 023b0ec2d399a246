"""LSMDC 2016: short clips of movies, one described action each.

    LSMDC16_annos_training.csv, LSMDC16_annos_val.csv, LSMDC16_challenge_1000_publictect.csv
        clip id, start aligned, end aligned, start extracted, end extracted, sentence

Tab-separated, without a header; times are "hh.mm.ss.mmm" in the movie. A clip goes from the
extracted start to the extracted end; the aligned times, within it, are those of the sentence. The
test set is the 1,000 clips of the challenge. A clip can have several lines: further sentences are
alternatives (other code makes pairs of them). Files are named by the clip id, in folders by movie
or not.

Format and numbers of sentences: the owners' readme of the challenge; the 1,000 of the test set:
collaborative-experts, misc/datasets/lsmdc/README.md.
"""

from pathlib import Path

from mova_jax.data.annotations.files import check, read_lines
from mova_jax.data.annotations.intake import SENTENCES, Dataset, Intake

_FILES = {
    "train": "LSMDC16_annos_training.csv",
    "validation": "LSMDC16_annos_val.csv",
    "test": "LSMDC16_challenge_1000_publictect.csv",
}


def read(annotations: Path, intake: Intake) -> None:
    """Reads the three files; see `Dataset.read`."""
    for split, file in intake.split_files(annotations, _FILES):
        rows = [line.split("\t") for line in read_lines(file, intake.warn)]
        fits = any(len(row) == 6 for row in rows)
        check(file, fits, "lines of 6 tab-separated cells", f"{rows[0] if rows else 'no line'}")
        clips: dict[str, list[tuple]] = {}
        for number, row in enumerate(rows, 1):
            if len(row) != 6:
                intake.skip(f"{file.name} line {number}", f"it has {len(row)} cells in place of 6")
                continue
            clips.setdefault(row[0].strip(), []).append(_sentence(row))
        for clip, sentences in clips.items():
            others = [text for text, *_ in sentences[1:]]
            more = {"alternatives": others, "split": split, "count": len(sentences)}
            intake.add(clip, sentences[:1], **more)


def _sentence(row: list[str]) -> tuple:
    """The text of a line, with its times in the clip if these are valid."""
    begin, end, first, last = map(_seconds, row[1:5])
    if None in (begin, end, first, last) or not first <= begin < end <= last:
        return (row[5],)
    return row[5], begin - first, end - first


def _seconds(text: str) -> float | None:
    """Seconds of "hh.mm.ss.mmm"; None for anything else."""
    parts = text.strip().split(".")
    if len(parts) != 4 or not all(part.isdecimal() for part in parts):
        return None
    hours, minutes, whole, thousandths = map(int, parts)
    return 3600.0 * hours + 60 * minutes + whole + thousandths / 1000


DATASET = Dataset(
    name="lsmdc",
    read=read,
    files=", ".join(_FILES.values()),
    expected={"train": 101_079, "validation": 7_408, "test": 1_000},
    unit=SENTENCES,
    licence="LSMDC: clips and annotations only with the permission of their owners (MPII).",
    recipe="configs/lsmdc.py",
)
