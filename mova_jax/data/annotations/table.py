"""Your own videos in a CSV: one caption of a video, or of a cut of it, a row.

    video     path of the file in the videos folder, or its name, with or without the extension
    caption   one text
    start,end optional, seconds: only this part of the video is used
    id        optional; otherwise the video (and the cut)
    split     optional; otherwise assigned by --splits

Further rows with the same id are alternative captions. `--annotations` is the CSV, or a folder with
one CSV.
"""

from pathlib import Path

from mova_jax.data.annotations.files import read_table
from mova_jax.data.annotations.intake import Dataset, Intake, seconds
from mova_jax.data.annotations.items import InputError, clean


def read(annotations: Path, intake: Intake) -> None:
    """Reads the table; see `Dataset.read`."""
    file = annotations
    if annotations.is_dir():
        tables = sorted(annotations.glob("*.csv"))
        if len(tables) != 1:
            names = ", ".join(table.name for table in tables[:8]) or "none"
            raise InputError(f"{annotations} must hold one CSV, got {names}; name the file.")
        file = tables[0]
    elif not annotations.is_file():
        raise InputError(f"There is no file {annotations}; --annotations is a CSV.")
    entries: dict[str, dict] = {}
    columns = ["video", "caption"], ["start", "end", "id", "split"]
    for line, row, wrong in read_table(file, intake.warn, *columns):
        try:
            if wrong:
                raise ValueError(wrong)
            _take(row, entries)
        except ValueError as error:
            intake.skip(f"line {line}", error)
    for name, entry in entries.items():
        texts = list(entry.pop("texts"))
        intake.add(name, texts[:1], alternatives=texts[1:], **entry)


def _take(row: dict[str, str], entries: dict[str, dict]) -> None:
    """Adds a row to the entry of its id."""
    video, text = clean(row["video"]), clean(row["caption"])
    if not video or not text:
        raise ValueError(f"`{'caption' if video else 'video'}` is empty")
    start, end = seconds(row.get("start"), "start"), seconds(row.get("end"), "end")
    cut = "" if start is None and end is None else f"#{start}-{end}"
    name = clean(row.get("id") or "") or video + cut
    split = (row.get("split") or "").strip()
    entry = {"files": (video,), "start": start, "end": end, "split": split}
    known = entries.setdefault(name, entry | {"texts": {}})
    if entry != {key: known[key] for key in entry}:
        raise ValueError(f"the id {name!r} was already used for another video, cut or split")
    if text in known["texts"]:
        raise ValueError(f"the id {name!r} has this caption already")
    known["texts"][text] = None


DATASET = Dataset(
    name="csv",
    read=read,
    files="a CSV with the columns video, caption and, where wanted, start, end, id, split",
)
