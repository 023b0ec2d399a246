"""The input and the result of a suite; a result is kept as JSON.

result = SUITES["longform"].fn(suite_input)
save_result("out/base/suites/longform", result, {"model": "runs/base"})
load_result("out/base/suites/longform")            # None while there is none
"""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from mova_jax.training.load_model import LoadedModel
from mova_jax.training.workdir import RunError
from mova_jax.utils import atomic

RESULT = "result.json"


@dataclasses.dataclass(frozen=True)
class SuiteInput:
    """What a suite is asked with."""

    model: LoadedModel | None  # None for a suite that trains its own
    mesh: jax.sharding.Mesh
    output: Path  # the suite's own folder; files that it writes there let it resume
    cache: Path  # for data that it makes, shared by all models
    data: tuple[str, ...] = ()  # shard folders of the user
    seed: int = 0


class SuiteTable(NamedTuple):
    """A table of figures."""

    title: str
    columns: Mapping[str, str]  # {key of a row: its label}, in this order
    rows: Sequence[Mapping[str, Any]]  # a missing key is an empty cell
    note: str = ""  # the protocol: gallery, split, frames, seed ...


class Curve(NamedTuple):
    """Lines over one axis, each point with its interval."""

    title: str
    x_label: str
    y_label: str
    series: Mapping[str, Sequence[tuple[float, float, float, float]]]  # {label: (x, y, low, high)}
    log_x: bool = False


@dataclasses.dataclass(frozen=True)
class SuiteResult:
    """The answer of a suite."""

    verdict: str  # plain sentences, computed from the figures; a line for each finding
    protocol: str  # how the figures were made: data, galleries, frames, seeds
    tables: Sequence[SuiteTable] = ()
    curves: Sequence[Curve] = ()


@dataclasses.dataclass(frozen=True)
class Suite:
    """One entry of `SUITES`."""

    fn: Callable[[SuiteInput], SuiteResult]
    title: str
    text: str = ""  # what it asks, and how to read the figures
    needs_model: bool = True


def save_result(
    folder: str | os.PathLike, result: SuiteResult, asked: Mapping[str, Any] | None = None
) -> Path:
    """Writes `result.json`, whole or not at all.

    Args:
        folder: of the suite.
        result: its answer.
        asked: what was asked with, as JSON: the model, the data ...
    """
    path = Path(folder) / RESULT
    value = {
        "asked": dict(asked or {}),
        "verdict": result.verdict,
        "protocol": result.protocol,
        "tables": [table._asdict() for table in result.tables],
        "curves": [curve._asdict() for curve in result.curves],
    }
    atomic.write_text(path, json.dumps(value, indent=1, default=float))
    return path


def load_result(
    folder: str | os.PathLike, asked: Mapping[str, Any] | None = None
) -> SuiteResult | None:
    """Reads a result; None where there is none.

    Args:
        folder: of the suite.
        asked: what it has to have been asked with; None takes any.

    Raises:
        RunError: it is that of another model, other data or another seed.
    """
    path = Path(folder) / RESULT
    if not path.exists():
        return None
    value = json.loads(path.read_text(encoding="utf-8"))
    if asked is not None and value["asked"] != dict(asked):
        raise RunError(
            f"{path} was asked with {value['asked']}, and now got {dict(asked)}: choose another "
            "--output, or delete the folder"
        )
    curves = []
    for curve in value["curves"]:
        series = {
            label: [tuple(point) for point in line] for label, line in curve["series"].items()
        }
        curves.append(Curve(**curve | {"series": series}))
    tables = [SuiteTable(**table) for table in value["tables"]]
    return SuiteResult(value["verdict"], value["protocol"], tables, curves)
