"""Makes the tables of docs/results.md that compare models: one command, from runs to Markdown.

    python -m benchmarks.results [--seeds 0 1 2] [--workdir runs/compare] [--read_only]

1. `benchmarks.compare_objectives` trains the objectives for an equal time, where runs are missing.
2. `python -m mova_jax.evaluate --suite ...` asks the rows of `MAIN` (every seed) the suites.
3. The blocks between `<!-- NAME:begin -->` and `<!-- NAME:end -->` of the document are replaced.

Whatever is complete is read and not repeated, so that the command resumes; `--read_only` runs
nothing and writes what there is.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks import compare_objectives as compare
from mova_jax.suites.page import as_text
from mova_jax.suites.suite import SuiteResult, load_result
from mova_jax.utils import atomic

# The rows that the suites are asked for: the default, the best form with masks, MoVA over whole
# captions, and one vector a video.
MAIN = ("parts_ordered", "part_concepts_ordered", "full", "global_only")
SUITES = ("longform", "outdomain")
OWN = ("identifiability",)  # suites that train their own models


def ask(workdir: Path, model: Path | None, suites: Sequence[str]) -> None:
    """Asks a run, or nothing, some suites; results that are there are not made again."""
    output = suite_folder(workdir, model)
    missing = [name for name in suites if load_result(output / "suites" / name) is None]
    if not missing:
        return
    command = [sys.executable, "-m", "mova_jax.evaluate", "--output", str(output)]
    command += ["--suite", *missing, *(["--model", str(model)] if model else [])]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def suite_folder(workdir: Path, model: Path | None) -> Path:
    """Where the answers of a run are kept."""
    return workdir / "suites" / (model.name if model else "own")


def suite_block(name: str, results: dict[str, list[SuiteResult]]) -> str:
    """Markdown of one suite: the tables averaged over seeds, and each seed's sentence.

    Of all but the first objective only the first table is shown.

    Args:
        name: of the suite.
        results: of each objective, one a seed.
    """
    lines = [f"    python -m mova_jax.evaluate --model RUN --suite {name} --output OUT", ""]
    for number, (objective, found) in enumerate(results.items()):
        lines += [f"`{objective}`, number of seeds: {len(found)}", ""]
        for table in averaged(found)[: 1 if number else None]:
            lines += [f"{table.title}. {table.note}".strip(), "", as_text(table), ""]
        lines += [f"- {line}" for result in found for line in result.verdict.splitlines()] + [""]
    return "\n".join(lines).strip("\n")


def averaged(results: Sequence[SuiteResult]) -> list:
    """The tables of several seeds with their numbers averaged; texts are those of the first."""
    tables = []
    for same in zip(*(result.tables for result in results), strict=True):
        rows = []
        for cells in zip(*(table.rows for table in same), strict=True):
            rows.append({key: _mean([row.get(key) for row in cells]) for key in cells[0]})
        tables.append(same[0]._replace(rows=rows))
    return tables


def _mean(values: list):
    numbers = [value for value in values if isinstance(value, int | float)]
    return float(np.mean(numbers)) if len(numbers) == len(values) else values[0]


def replace_block(document: str, name: str, text: str) -> str:
    """The document with the text between the two marks of a name replaced.

    Raises:
        ValueError: the document does not have both marks, in order.
    """
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    head, found, rest = document.partition(begin)
    _, ended, tail = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"expected {begin} and {end} in the document, one after the other")
    return f"{head}{begin}\n\n{text}\n\n{end}{tail}"


def main() -> None:
    """Makes what is missing and writes the document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--workdir", type=Path, default=Path("runs/compare"))
    parser.add_argument("--document", type=Path, default=Path("docs/results.md"))
    parser.add_argument("--read_only", action="store_true", help="runs nothing")
    args = parser.parse_args()
    if not args.read_only:
        command = [sys.executable, "-m", "benchmarks.compare_objectives"]
        command += ["--workdir", str(args.workdir), "--seeds", *map(str, args.seeds)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        for run in (args.workdir / f"{name}-{seed}" for name in MAIN for seed in args.seeds):
            ask(args.workdir, run, SUITES)
        ask(args.workdir, None, OWN)
    document = args.document.read_text(encoding="utf-8")
    blocks = {"comparison": compare.tables(args.workdir, args.seeds)}
    for suite in (*SUITES, *OWN):
        models = {name: [args.workdir / f"{name}-{seed}" for seed in args.seeds] for name in MAIN}
        if suite in OWN:
            models = {"own models": [None]}
        found = {
            name: [
                result
                for run in runs
                if (result := load_result(suite_folder(args.workdir, run) / "suites" / suite))
            ]
            for name, runs in models.items()
        }
        if found := {name: results for name, results in found.items() if results}:
            blocks[suite] = suite_block(suite, found)
    for name, text in blocks.items():
        document = replace_block(document, name, text)
    atomic.write_text(args.document, document)
    print(f"{args.document}: {', '.join(blocks)}")


if __name__ == "__main__":
    main()
