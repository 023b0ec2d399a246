"""A plot of lines whose points have intervals, such as a recall against duration."""

from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from mova_jax.report.plots import COLOURS, OTHERS, STYLE, as_png

Point = tuple[float, float, float, float]  # x, y, low, high
_LINES = (*(COLOURS[name] for name in ("global", "modular", "blend")), *OTHERS)
_INCHES = (8.0, 3.0)


def interval_plot(
    series: Mapping[str, Sequence[Point]], x_label: str, y_label: str, *, log_x: bool = False
) -> bytes:
    """One plot of all lines, each point with its interval, as PNG bytes.

    Args:
        series: points `(x, y, low, high)` by the label of their line.
        x_label: of the axis.
        y_label: of the axis, which begins at 0.
        log_x: whether x is logarithmic; then every x has a tick.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=_INCHES, layout="constrained")
        axes = figure.subplots()
        for i, (label, points) in enumerate(series.items()):
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
        if log_x:
            axes.set_xscale("log")
            ticks = sorted({point[0] for points in series.values() for point in points})
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylim(bottom=0)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
        return as_png(figure)
