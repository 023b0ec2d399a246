"""The suite `outdomain`: how much of a model's recall is left in domains that it never saw?

Storyboard's `test` against `ood_time` (the same things, other durations) and `ood_domain`
(surveillance and science), and shards of the user, each a domain by its name, or several where
their records have a `domain` (docs/data.md). Every gallery is one split, with all its domains.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

from mova_jax.data.sources import data_and_split, open_source
from mova_jax.evaluation.intervals import difference_interval, wilson
from mova_jax.evaluation.query_ranks import load_ranks
from mova_jax.suites.suite import Suite, SuiteInput, SuiteResult, SuiteTable
from mova_jax.training.datasets import STORYBOARD
from mova_jax.training.evaluate_model import EvaluatedModel, evaluate_model
from mova_jax.training.workdir import RANKS

KNOWN, SPLITS = "test", ("test", "ood_time", "ood_domain")
FEWEST = 10  # queries of a domain for which recall says something
_COLUMNS = {
    "data": "data",
    "domain": "domain",
    "queries": "queries",
    "gallery": "gallery",
    "t2v": "R@1 T2V (95 %)",
    "r10": "R@10 T2V",
    "v2t": "R@1 V2T (95 %)",
    "global": "R@1 T2V, global vector (95 %)",
    "chance": "R@1 by chance",
}


def outdomain(suite_input: SuiteInput) -> SuiteResult:
    """Asks the suite's question.

    Raises:
        RunError, ShardError: data of the user cannot be read.
    """
    model, rows = suite_input.model, []
    made = evaluate_model(model, STORYBOARD, suite_input.output / STORYBOARD, splits=SPLITS)
    for split in SPLITS:
        rows += _rows(made, f"{STORYBOARD}, {split}", made.source, split)
    for number, data in enumerate(suite_input.data):
        folder, split = data_and_split(data)
        output = suite_input.output / f"own-{number}"
        own = evaluate_model(model, folder, output, splits=[split] if split else [])
        for name in own.splits:
            rows += _rows(own, f"{Path(folder).name}, {name}", own.source, name)
    table = SuiteTable("Recall by domain", _COLUMNS, rows, made.protocols[KNOWN])
    return SuiteResult(verdict(rows), made.protocols[KNOWN], [table])


SUITE = Suite(
    outdomain,
    "Out of domain",
    "The same model on videos like those of its training, on videos with other durations and more "
    "emptiness, and in domains that it never saw.",
)


def _rows(evaluated: EvaluatedModel, label: str, folder: str, split: str) -> list[dict[str, Any]]:
    """A row for each domain of a split."""
    path = evaluated.folder / RANKS / f"{split}.npz"
    found = {way: load_ranks(path, way) for way in ("t2v", "v2t")}
    found["global"] = load_ranks(path, "t2v", "global")
    source = open_source(folder, split)
    domain_of = {record.id: domain(record) for record in source}
    rows = []
    for name in dict.fromkeys(domain_of.values()):
        row: dict[str, Any] = {"data": label, "domain": name or "(not named)"}
        for key, (ranks, videos) in found.items():
            values = ranks.values[[domain_of[str(video)] == name for video in videos]]
            hits = float((values <= 1).sum())
            low, high = wilson(hits, len(values))
            share = 100 * hits / len(values)
            row |= {key: f"{share:.1f} ({low:.0f} to {high:.0f})", f"{key}_hits": hits}
            if key == "t2v":
                row |= {
                    "queries": len(values),
                    "gallery": ranks.gallery,
                    "r10": round(100 * float(np.mean(values <= 10)), 1),
                    "chance": round(100 / ranks.gallery, 1),
                }
        rows.append(row)
    return rows


def domain(record) -> str:
    """The domain of a record; '' where it names none."""
    try:
        truth = json.loads(record.truth or "{}")
    except ValueError:
        return ""
    return str(truth.get("domain", "")) if isinstance(truth, dict) else ""


def verdict(rows: list[dict[str, Any]]) -> str:
    """What is left of R@1 in each other domain, in one sentence each."""
    known, said = rows[0], []
    for row in rows[1:]:
        name = f"{row['data']} ({row['domain']})"
        if row["queries"] < FEWEST:
            said.append(f"{name} has {row['queries']} queries, too few to say how much is left.")
            continue
        for score, hits in (("", "t2v_hits"), (", by the global vector", "global_hits")):
            difference, low, high = difference_interval(
                (row[hits], known[hits]), (row["queries"], known["queries"])
            )
            before, after = (100 * one[hits] / one["queries"] for one in (known, row))
            said.append(
                f"R@1 T2V{score} goes from {before:.1f} % in {known['data']} to {after:.1f} % in "
                f"{name}: {difference:+.1f} points ({low:+.1f} to {high:+.1f}), other queries."
            )
    return "\n".join(said)
