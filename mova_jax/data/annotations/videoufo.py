"""VideoUFO: a million clips with a detailed and a brief caption each.

    VideoUFO.csv    columns ID, Detailed Caption, Brief Caption (and Topic, Start Time, End Time,
                    scores, which are not used)

The detailed caption is the caption, the brief one an alternative. A clip is `<ID>.mp4`, already cut
out of its source. The owners publish no splits: `--splits` assigns the clips. The paper of the
method does not say which clips it tests on.

Columns, names of files: the data set's card, and code that prepares it for video generation. The
card says "over 1.09 million" clips; the exact number could not be confirmed, so none is checked.
"""

from pathlib import Path

from mova_jax.data.annotations.files import one_of, read_table
from mova_jax.data.annotations.intake import Dataset, Intake


def read(annotations: Path, intake: Intake) -> None:
    """Reads the table; see `Dataset.read`."""
    file = one_of(annotations, "VideoUFO.csv", alone=True)
    # The card's viewer has the same columns with underscores.
    needed = ["ID", "Detailed Caption|Detailed_Caption", "Brief Caption|Brief_Caption"]
    for line, row, wrong in read_table(file, intake.warn, needed):
        if wrong:
            intake.skip(row["ID"] or f"line {line}", f"line {line}: {wrong}")
            continue
        brief = [row["Brief Caption"]]
        intake.add(row["ID"].strip(), [row["Detailed Caption"]], alternatives=brief)


DATASET = Dataset(
    name="videoufo",
    read=read,
    files="VideoUFO.csv",
    licence="VideoUFO: CC BY 4.0.",
    recipe="configs/videoufo.py",
)
