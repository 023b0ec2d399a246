"""The page of a suite's result: its verdict, curves with intervals, and tables."""

import base64
import os
from pathlib import Path

from mova_jax.report import page
from mova_jax.report.interval_plot import interval_plot
from mova_jax.suites.suite import Suite, SuiteResult, SuiteTable
from mova_jax.utils import atomic

PAGE = "report.html"


def write_page(folder: str | os.PathLike, suite: Suite, model: str, result: SuiteResult) -> Path:
    """Writes `report.html` and `plots/*.png` of a suite, each whole or not at all.

    Args:
        folder: of the suite's result.
        suite: its title and text are shown.
        model: its name.
        result: of the suite.
    """
    folder, figures = Path(folder), []
    for number, curve in enumerate(result.curves, 1):
        image = interval_plot(curve.series, curve.x_label, curve.y_label, log_x=curve.log_x)
        atomic.write_bytes(folder / "plots" / f"curve_{number}.png", image)
        url = "data:image/png;base64," + base64.b64encode(image).decode()
        figures.append(page.figure(url, curve.title, "Bars: 95 % intervals.", wide=True))
    findings = page.paragraphs(result.verdict.splitlines())
    how = page.table("", ["", ""], [["how", result.protocol]])
    sections = [
        page.section("The question", suite.text, [how]),
        page.section("What came out", "", [findings, *figures, *map(_table, result.tables)]),
    ]
    title = f"{suite.title}: {model}" if model else suite.title
    path = folder / PAGE
    atomic.write_text(path, page.document(title, [], sections))
    return path


def _table(table: SuiteTable) -> str:
    rows = [[_cell(row.get(key)) for key in table.columns] for row in table.rows]
    caption = f"{table.title}. {table.note}" if table.note else table.title
    return page.table(caption, list(table.columns.values()), rows)


def _cell(value) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def as_text(table: SuiteTable) -> str:
    """The table as Markdown."""
    lines = ["| " + " | ".join(table.columns.values()) + " |", "|---" * len(table.columns) + "|"]
    for row in table.rows:
        lines.append("| " + " | ".join(_cell(row.get(key)) for key in table.columns) + " |")
    return "\n".join(lines)
