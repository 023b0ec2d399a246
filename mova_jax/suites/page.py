"""The page of a suite's result: its verdict, curves with intervals, and tables."""

import base64
import io
import os
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from mova_jax.report import page
from mova_jax.report.plots import COLOURS, OTHERS, STYLE
from mova_jax.suites.suite import Curve, Suite, SuiteResult, SuiteTable
from mova_jax.utils import atomic

PAGE = "report.html"
_LINES = (*(COLOURS[name] for name in ("global", "modular", "blend")), *OTHERS)
_INCHES = (8.0, 3.0)


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
        image = draw_curve(curve)
        atomic.write_bytes(folder / "plots" / f"curve_{number}.png", image)
        url = "data:image/png;base64," + base64.b64encode(image).decode()
        figures.append(page.figure(url, curve.title, "", wide=True))
    sections = [
        page.section(
            "What came out", result.verdict, [page.table("", ["", ""], [["how", result.protocol]])]
        ),
        page.section("Curves", "Bars: 95 % intervals." if figures else "", figures),
        page.section("Figures", "", [_table(table) for table in result.tables]),
    ]
    title = f"{suite.title}: {model}" if model else suite.title
    path = folder / PAGE
    atomic.write_text(
        path, page.document(title, [], [page.section("The question", suite.text, [" "]), *sections])
    )
    return path


def draw_curve(curve: Curve) -> bytes:
    """One plot of all lines, each point with its interval, as PNG bytes."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=_INCHES, layout="constrained")
        axes = figure.subplots()
        for i, (label, points) in enumerate(curve.series.items()):
            x, y, low, high = zip(*points, strict=True)
            errors = [
                [a - b for a, b in zip(y, low, strict=True)],
                [b - a for a, b in zip(y, high, strict=True)],
            ]
            axes.errorbar(
                x,
                y,
                errors,
                label=label,
                color=_LINES[i % len(_LINES)],
                marker="o",
                markersize=3.5,
                elinewidth=0.8,
                capsize=2,
            )
        if curve.log_x:
            axes.set_xscale("log")
            ticks = sorted({point[0] for points in curve.series.values() for point in points})
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylim(bottom=0)
        axes.set_xlabel(curve.x_label)
        axes.set_ylabel(curve.y_label)
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=150)
        return stream.getvalue()


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
