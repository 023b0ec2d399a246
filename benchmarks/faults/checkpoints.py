"""One flipped byte in each file of a checkpoint: refused by name, or trained on bit for bit.

A byte at a random place is changed by a random mask. Where the change touches nothing that is read,
the run goes on and must end as an undisturbed one. Where it is refused, the advice of the message
(the best checkpoint in its place) must lead to that end, too.
"""

import functools
import random
import shutil
from pathlib import Path
from typing import Any

from benchmarks.faults import trouble
from benchmarks.faults.case import Case
from benchmarks.faults.commands import commands
from benchmarks.faults.materials import Materials

COLUMNS = trouble.COLUMNS | {"trouble": "flipped byte"}


def cases(m: Materials, scratch: Path, seed: int = 0, flips: int = 0, **_) -> list[Case]:
    """A case for each file of the last checkpoint; with `flips`, for so many of them."""
    workdir = trouble.stopped_run(m)
    files = [p for p in sorted((workdir / "checkpoints/last").rglob("*")) if p.is_file()]
    named = [str(path.relative_to(workdir)) for path in files]
    if flips:
        named = random.Random(seed).sample(named, flips)
    return [
        Case(f"{number:02d}", functools.partial(_flip, m, scratch / str(number), name, seed))
        for number, name in enumerate(named)
    ]


def _flip(m: Materials, folder: Path, name: str, seed: int) -> dict[str, Any]:
    rng = random.Random(
        f"{seed}-{Path(name).parent}-{(m.folder / 'stopped' / name).stat().st_size}"
    )
    shutil.rmtree(folder, ignore_errors=True)
    work = folder / "run"
    shutil.copytree(m.folder / "stopped", work)
    data = bytearray((work / name).read_bytes())
    place, mask = rng.randrange(len(data)), rng.randrange(1, 256)
    data[place] ^= mask
    (work / name).write_bytes(data)
    (argv,) = commands(m)["train"].start(work)
    outcome = m.call(f"flip-{folder.name}", argv)

    def again() -> str:
        last, best = work / "checkpoints" / "last", work / "checkpoints" / "best"
        shutil.rmtree(last)
        shutil.copytree(best, last)
        return trouble.run_again(m, "train", work)

    what = f"{name.removeprefix('checkpoints/')}, byte {place:,} of {len(data):,}"
    step = Path(name).parts[2]
    options = {"codes": (0, 1), "says": f"last(/{step})?", "again": again}
    return trouble.row(m, what, "train", outcome, work, **options)
