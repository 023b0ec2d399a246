"""Breaks what the program works on, kills it, and says in tables what it did.

    python -m benchmarks.faults [KIND ...] [--kills 100] [--seed 0] [--small] --workdir DIR

Kinds: see `KINDS`; all of them by default. Each case is kept in DIR/results, and a case that is
there is read, not repeated: the same command goes on where it was stopped. The exit code is 1 where
a case found a fault. Some cases mount a small disk, for which they need root on Linux; elsewhere
they say that they were left out. docs/reliability.md has the tables of a whole campaign.
"""

import argparse
import random
import sys
from pathlib import Path

from benchmarks.faults import bad_input, checkpoints, disks, hostile, kills, machine
from benchmarks.faults.case import run_cases, table
from benchmarks.faults.materials import make
from benchmarks.results import replace_block
from mova_jax.utils import atomic

KINDS = {
    "bad_input": bad_input,
    "hostile": hostile,
    "kills": kills,
    "disks": disks,
    "checkpoints": checkpoints,
    "machine": machine,
}
SMALL = 4


def main() -> int:
    """Runs the kinds and prints their tables; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--kills", type=int, default=100, help="of all commands together")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and places")
    parser.add_argument("--small", action="store_true", help=f"{SMALL} cases of each kind")
    parser.add_argument("--workdir", type=Path, required=True, help="of this campaign")
    parser.add_argument("--document", type=Path, help="put the tables into docs/reliability.md")
    args = parser.parse_args()
    if unknown := [kind for kind in args.kinds if kind not in KINDS]:
        parser.error(f"got {', '.join(unknown)}, expected some of {', '.join(KINDS)}")
    folder = args.workdir.resolve()
    materials, faults = make(folder / "materials"), 0
    for kind in args.kinds or KINDS:
        chosen = {"kills": args.kills, "seed": args.seed}
        cases = KINDS[kind].cases(materials, folder / "scratch" / kind, **chosen)
        if args.small:
            kept = random.Random(args.seed).sample(range(len(cases)), min(SMALL, len(cases)))
            cases = [cases[number] for number in sorted(kept)]
        rows = run_cases(kind, cases, folder)
        rows = getattr(KINDS[kind], "summary", list)(rows)
        bad = [row for row in rows if row["fault"]]
        columns = KINDS[kind].COLUMNS | ({"fault": "fault"} if bad else {})
        text = table(rows, columns)
        print(f"\n## {kind}: {len(rows)} cases, {len(bad)} faults\n\n{text}", flush=True)
        if args.document:
            document = args.document.read_text(encoding="utf-8")
            atomic.write_text(args.document, replace_block(document, kind, text))
        faults += len(bad)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
