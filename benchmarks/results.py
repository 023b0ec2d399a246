"""Makes the tables of docs/results.md that compare models: one command, from runs to Markdown.

    python -m benchmarks.results [--seeds 0 1 2] [--workdir runs/compare] [--read_only]

1. `benchmarks.compare_objectives` trains the objectives for an equal time, where runs are missing.
2. `python -m mova_jax.evaluate --suite ...` asks the rows of `MAIN` (every seed) the suites.
3. The blocks between `<!-- NAME:begin -->` and `<!-- NAME:end -->` of the document are replaced,
   and its pictures drawn beside it: R@1 against duration, and the masks of one video.

Whatever is complete is read and not repeated, so that the command resumes; `--read_only` runs
nothing and writes what there is.
"""

import argparse
import io
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import compare_objectives as compare
from mova_jax.report.interval_plot import interval_plot
from mova_jax.suites.page import as_text
from mova_jax.suites.suite import SuiteResult, SuiteTable, load_result
from mova_jax.utils import atomic

# The rows that the suites are asked for: the default, the best form with masks, MoVA over whole
# captions, and one vector a video.
MAIN = ("parts_ordered", "part_concepts_ordered", "full", "global_only")
SUITES = ("longform", "outdomain")
OWN = ("identifiability",)  # suites that train their own models
# Pictures of the document: {file: line of the suite longform}, {file: run whose report has it}.
CURVES = {"longform.png": "in domain", "longform_other.png": "out of domain"}
MASKS = {"masks_full.png": "full", "masks_parts.png": "part_masks_ordered"}
SHARE = re.compile(r"(-?[\d.]+) \(")  # a cell such as "98.4 (92 to 100)"


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


def suite_block(name: str, results: Mapping[str, Sequence[SuiteResult]]) -> str:
    """Markdown of one suite: the tables averaged over seeds, and the sentences.

    Of all but the first objective only the first table is shown, and of all but the first seed
    only the first sentence.

    Args:
        name: of the suite.
        results: of each objective, one a seed.
    """
    lines = [f"    python -m mova_jax.evaluate --model RUN --suite {name} --output OUT", ""]
    for number, (objective, found) in enumerate(results.items()):
        lines += [f"`{objective}`, number of seeds: {len(found)}", ""]
        for table in averaged(found)[: 1 if number else None]:
            lines += [f"{table.title}. {table.note}".strip(), "", as_text(table), ""]
        for seed, result in enumerate(found):
            said = result.verdict.splitlines()[: 1 if seed else None]
            lines += [f"- {'Another seed: ' if seed else ''}{line}" for line in said]
        lines.append("")
    return "\n".join(lines).strip("\n")


def averaged(results: Sequence[SuiteResult]) -> list[SuiteTable]:
    """The tables with each number averaged over seeds; other texts are those of the first.

    Shares with an interval over queries become the mean, and the lowest and highest of the seeds.
    """
    if len(results) == 1:
        return list(results[0].tables)
    tables = []
    for same in zip(*(result.tables for result in results), strict=True):
        rows = []
        for cells in zip(*(table.rows for table in same), strict=True):
            rows.append({key: _mean([row.get(key) for row in cells]) for key in cells[0]})
        columns = {
            key: label.replace("(95 %)", "(seeds)") for key, label in same[0].columns.items()
        }
        tables.append(same[0]._replace(rows=rows, columns=columns))
    return tables


def _mean(values: Sequence):
    if all(isinstance(value, int | float) for value in values):
        return round(float(np.mean(values)), 1)
    shares = [SHARE.match(value) for value in values if isinstance(value, str)]
    if len(shares) < len(values) or not all(shares):
        return values[0]
    return compare.cell([float(share[1]) for share in shares])


def duration_plot(results: Mapping[str, Sequence[SuiteResult]], line: str) -> bytes:
    """R@1 against duration for each objective, as PNG bytes.

    Args:
        results: of the suite longform, of each objective one a seed.
        line: `in domain` or `out of domain`.
    """
    series = {}
    for objective, found in results.items():
        lines = np.array([result.curves[0].series[line] for result in found])  # [seeds points 4]
        minutes, share = lines[0, :, 0], lines[:, :, 1]
        ends = (share.min(0), share.max(0)) if len(found) > 1 else lines[0, :, 2:].T
        series[objective] = list(zip(minutes, share.mean(0), *ends, strict=True))
    return interval_plot(series, "minutes", f"R@1 T2V, %, {line}", log_x=True)


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
        command += ["--objectives", *compare.OBJECTIVES, *compare.ABLATION]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        for run in (args.workdir / f"{name}-{seed}" for name in MAIN for seed in args.seeds):
            ask(args.workdir, run, SUITES)
        ask(args.workdir, None, OWN)
    blocks = {"comparison": compare.tables(args.workdir, args.seeds)}
    if any(
        compare.split_metrics(args.workdir / f"{n}-{s}", "test")
        for n in compare.ABLATION
        for s in args.seeds
    ):
        rows = ("full", *compare.ABLATION, "global_only")
        blocks["ablation"] = compare.tables(args.workdir, args.seeds, rows, "full")
    for suite in (*SUITES, *OWN):
        found = answers(args.workdir, suite, args.seeds)
        if found:
            blocks[suite] = suite_block(suite, found)
        if found and suite == "longform":
            for file, line in CURVES.items():
                atomic.write_bytes(args.document.with_name(file), duration_plot(found, line))
    for file, objective in MASKS.items():
        picture = args.workdir / f"{objective}-{args.seeds[0]}" / "plots" / "concepts_1.png"
        if picture.exists():
            small = io.BytesIO()
            Image.open(picture).convert("RGB").quantize(256).save(small, "PNG", optimize=True)
            atomic.write_bytes(args.document.with_name(file), small.getvalue())
    document = args.document.read_text(encoding="utf-8")
    for name, text in blocks.items():
        document = replace_block(document, name, text)
    atomic.write_text(args.document, document)
    print(f"{args.document}: {', '.join(blocks)}")


def answers(workdir: Path, suite: str, seeds: Sequence[int]) -> dict[str, list[SuiteResult]]:
    """The answers to a suite that are there, one a seed, by objective."""
    runs = {name: [workdir / f"{name}-{seed}" for seed in seeds] for name in MAIN}
    if suite in OWN:
        runs = {"own models": [None]}
    found = {
        name: [load_result(suite_folder(workdir, run) / "suites" / suite) for run in models]
        for name, models in runs.items()
    }
    found = {name: [result for result in results if result] for name, results in found.items()}
    return {name: results for name, results in found.items() if results}


if __name__ == "__main__":
    main()
