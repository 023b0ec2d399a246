"""UltraVideo: clips in 4K and 8K with structured captions, a short and a long set.

    short.csv, long.csv    columns clip_id, Summarized Description, Detailed Description, Brief
                           Description (and url, fps, scores and others, which are not used)

One of the files suffices; if there are two, both are read. The summarized description is the
caption, the brief one an alternative; the detailed one is the caption where there is no summary.
`clip_id` is the name of the file with its extension; the owners' zips come in several sizes, of
which the folder should contain one. There are no published splits: `--splits` assigns the clips.

Columns of short.csv: public code that reads it. That long.csv has the same columns is assumed.
Sources differ on the number of clips (42 to 50 thousand short, 17 thousand long): none is checked.
"""

from pathlib import Path

from mova_jax.data.annotations.files import one_of, read_table
from mova_jax.data.annotations.intake import Dataset, Intake

_FILES = ("short.csv", "long.csv")


def read(annotations: Path, intake: Intake) -> None:
    """Reads the tables that are there; see `Dataset.read`."""
    first = one_of(annotations, *_FILES, alone=True)
    files = [annotations / name for name in _FILES if (annotations / name).is_file()]
    for file in files or [first]:
        needed = ["clip_id", "Summarized Description|Detailed Description"]
        optional = ["Detailed Description", "Brief Description"]
        for line, row, wrong in read_table(file, intake.warn, needed, optional):
            if wrong:
                intake.skip(row["clip_id"] or f"line {line}", f"{file.name} line {line}: {wrong}")
                continue
            whole = row["Summarized Description"].strip() or row.get("Detailed Description", "")
            brief = row.get("Brief Description", "")
            clip = row["clip_id"].strip()
            intake.add(clip, [whole], alternatives=[brief])


DATASET = Dataset(
    name="ultravideo",
    read=read,
    files="short.csv or long.csv, or both",
    licence="UltraVideo: CC BY 4.0, for non-commercial research only, say those who use it.",
    recipe="configs/ultravideo.py",
)
