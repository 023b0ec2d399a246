"""The images of a report, as PNG bytes: curves, timelines and concept masks.

They have a light background, so that they look the same on a light and a dark page.
"""

import io
import textwrap
from collections.abc import Callable, Mapping
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mova_jax.evaluation.grounding import frame_edges, predicted_run
from mova_jax.evaluation.timeline import Timeline
from mova_jax.report.run_metrics import Curve

CARD, INK, FAINT, GRID = "#fcfcfa", "#2b2f36", "#8b9099", "#e4e5e1"
SHADE = "#f2f0e8"  # of the warm-up
COLOURS = {"": "#44566c", "global": "#2f6db3", "modular": "#c9691c", "blend": "#1f8a63"}
OTHERS = ("#7a55a6", "#b23a55", "#4d7f8c", "#8a7a2f")
TRUTH = "#f3d68b"
STYLE = {
    "figure.facecolor": CARD,
    "axes.facecolor": CARD,
    "axes.edgecolor": "#c9cbc6",
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 9.5,
    "axes.titlecolor": INK,
    "axes.titlepad": 7,
    "axes.labelsize": 8,
    "axes.labelcolor": FAINT,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "font.size": 8.5,
    "text.color": INK,
    "text.parse_math": False,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
}
WIDTH = 10.0  # inches of a figure that takes the whole page
PANELS_WIDTH = 8.0  # of one with text to its right, so that letters have the same size on the page
MARGIN = 0.4
THUMBNAILS = 12


class Panel(NamedTuple):
    """One small plot: its lines by label, and the level of chance (nan: none)."""

    title: str
    lines: Mapping[str, Curve]
    chance: float = float("nan")
    percent: bool = False


def small_multiples(panels: list[Panel], columns: int, warmup: int = 0) -> bytes:
    """A grid of panels over training steps, each with its own scale and labels at its lines.

    The first `warmup` steps, whose batches are of single frames, are shaded.
    """
    with matplotlib.rc_context(STYLE):
        columns = min(columns, len(panels))
        rows = -(-len(panels) // columns)
        figure = Figure(figsize=(PANELS_WIDTH, 0.35 + 1.85 * rows), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1, wspace=0.03, hspace=0.04)
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in grid[len(panels) :]:
            axes.axis("off")
        for i, (axes, panel) in enumerate(zip(grid, panels, strict=False)):
            _draw_panel(axes, panel)
            axes.axvspan(0, warmup, color=SHADE, linewidth=0, zorder=0)
            if i + columns >= len(panels):
                axes.set_xlabel("step")
        return as_png(figure)


def timeline(item: Timeline) -> bytes:
    """The strip of frames, and below it each sentence with its score over time.

    The true span is shaded, a dot is at the best frame, and the bar at the foot is the segment
    that the score predicts (`grounding.predicted_run`).
    """
    edges = frame_edges(item.timestamps)
    texts = [textwrap.wrap(text, 132) or [""] for text in item.sentences]
    heights = [0.2 + 0.16 * len(text) + 0.62 for text in texts]
    with matplotlib.rc_context(STYLE):
        figure, place = _stack(item, extra=sum(heights) + 0.4)
        _draw_strip(place(_strip_height(item)), item, edges)
        for i, text in enumerate(texts):
            place(0.2 + 0.16 * len(text)).axis("off")
            axes = place(0.62)
            axes.set_title("\n".join(text), fontsize=8.5, linespacing=1.25, pad=5)
            _draw_sentence(axes, item.timestamps, item.scores[i], item.windows[i], edges)
            axes.set_xlim(edges[0], edges[-1])
            axes.tick_params(labelbottom=i == len(texts) - 1)
        axes.set_xlabel("seconds", labelpad=1)
        return as_png(figure)


def concepts(item: Timeline) -> bytes:
    """Both concept masks as [d f] images below the frames that they belong to.

    Both images list the dimensions in the same order: those most often open in mᵀ at the top, and
    among equals those most often open in mⱽ.
    """
    masks = {"mᵀ, from the text": item.text_concepts, "mⱽ, from the video": item.video_concepts}
    masks = {name: np.asarray(m, np.float32) for name, m in masks.items() if m is not None}
    order = np.lexsort([-mask.mean(0) for mask in reversed(masks.values())])
    indices = np.arange(len(item.frames) + 1.0)
    with matplotlib.rc_context(STYLE):
        figure, place = _stack(item, extra=len(masks) * 1.85 + 0.35)
        _draw_strip(place(_strip_height(item)), item, indices)
        for name, mask in masks.items():
            place(0.35).axis("off")
            axes = place(1.5)
            wide = np.repeat(mask[:, order].T, -(-3000 // len(mask)), axis=1)  # sharp at the sides
            axes.imshow(
                wide,
                cmap=matplotlib.colors.LinearSegmentedColormap.from_list(
                    "", ["#ebece8", "#274c77"]
                ),
                vmin=0,
                vmax=1,
                aspect="auto",
                interpolation="antialiased",  # more dimensions than pixels: blend, do not drop
                extent=(0, len(mask), mask.shape[1], 0),
            )
            axes.grid(False)
            axes.tick_params(labelbottom=False)
            axes.set_yticks([])
            axes.set_ylabel(f"{mask.shape[1]} dimensions")
            axes.set_title(f"{name}: {100 * mask.mean():.0f} % of the dimensions open")
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("frame", labelpad=1)
        return as_png(figure)


def _draw_panel(axes: Axes, panel: Panel) -> None:
    ends = []
    spare = iter(OTHERS)
    for label, curve in panel.lines.items():
        colour = COLOURS.get(label) or next(spare, INK)
        if len(curve.steps) > 60:  # noisy: a faint raw line, its running mean on top
            axes.plot(*curve, color=colour, alpha=0.25, linewidth=0.7)
            curve = _smooth(curve)
        axes.plot(*curve, color=colour, marker="o" if len(curve.steps) < 3 else None, markersize=3)
        ends.append((curve.values[-1], label, colour))
    if np.isfinite(panel.chance):
        axes.axhline(panel.chance, color=FAINT, linewidth=0.9, linestyle=(0, (2, 2)))
        ends.append((panel.chance, "chance", FAINT))
    axes.set_title(panel.title)
    axes.set_xlim(0, max(curve.steps[-1] for curve in panel.lines.values()) * 1.01)
    if panel.percent:
        axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(
        matplotlib.ticker.MaxNLocator(4, integer=True, steps=[1, 2, 5, 10])
    )
    axes.yaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:.4g}")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}k" if x >= 10_000 else f"{x:g}")
    show = "{:.1f} %".format if panel.percent else "{:.3g}".format
    _label_ends(axes, [(y, f"{name} {show(y)}".strip(), c) for y, name, c in ends])


def _label_ends(axes: Axes, ends: list[tuple[float, str, str]]) -> None:
    """Writes labels right of the axes at the height of their lines, without overlap."""
    low, high = axes.get_ylim()
    floor = -1.0
    for value, label, colour in sorted(ends):
        height = max((value - low) / (high - low), floor)
        axes.text(
            1.015, height, label, color=colour, transform=axes.transAxes, fontsize=7.5, va="center"
        )
        floor = height + 0.1


def _draw_sentence(
    axes: Axes, times: np.ndarray, scores: np.ndarray, windows: np.ndarray, edges: np.ndarray
) -> None:
    colour = COLOURS["global"]
    for window in windows:
        axes.axvspan(*window, color=TRUTH, alpha=0.65, linewidth=0)
    axes.plot(times, scores, color=colour, linewidth=1.4)
    peak = int(np.argmax(scores))
    axes.plot(times[peak], scores[peak], "o", color=colour, markersize=4.5)
    low, high = float(scores.min()), float(scores.max())
    room = (high - low) or 1.0
    first, last = predicted_run(scores, peak)
    foot = low - 0.28 * room
    axes.plot(
        [edges[first], edges[last + 1]],
        [foot, foot],
        color=colour,
        linewidth=3,
        alpha=0.45,
        solid_capstyle="butt",
    )
    axes.set_ylim(low - 0.42 * room, high + 0.22 * room)
    axes.set_yticks([low, high] if high > low else [low])
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:.2f}")
    axes.tick_params(axis="y", labelsize=6.5)
    axes.spines["left"].set_visible(False)


def _stack(item: Timeline, extra: float) -> tuple[Figure, Callable[[float], Axes]]:
    """A figure whose axes are placed from the top down, by height in inches."""
    height = 0.2 + _strip_height(item) + extra
    figure = Figure(figsize=(WIDTH, height))
    top = height - 0.15

    def place(inches: float) -> Axes:
        nonlocal top
        top -= inches
        return figure.add_axes(
            (MARGIN / WIDTH, top / height, 1 - 1.5 * MARGIN / WIDTH, inches / height)
        )

    return figure, place


def _strip_height(item: Timeline) -> float:
    _, rows, columns, _ = item.frames.shape
    return (WIDTH - 1.5 * MARGIN) / min(THUMBNAILS, len(item.frames)) * rows / columns


def _draw_strip(axes: Axes, item: Timeline, edges: np.ndarray) -> None:
    """Thumbnails of equal width, each the frame whose part of the axis has its middle."""
    count = min(THUMBNAILS, len(item.frames))
    borders = np.linspace(edges[0], edges[-1], count + 1)
    chosen = np.searchsorted(edges, (borders[:-1] + borders[1:]) / 2, side="right") - 1
    for i, frame in enumerate(np.clip(chosen, 0, len(item.frames) - 1)):
        axes.imshow(
            item.frames[frame], extent=(borders[i], borders[i + 1], 0, 1), aspect="auto", zorder=2
        )
    axes.vlines(borders[1:-1], 0, 1, color=CARD, linewidth=1.5, zorder=3)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, 1)
    axes.axis("off")


def _smooth(curve: Curve) -> Curve:
    """A running mean over a thirtieth of the run, with shorter windows at both ends."""
    half = max(1, len(curve.values) // 60)
    total = np.concatenate([[0.0], np.cumsum(curve.values)])
    index = np.arange(len(curve.values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(index))
    return Curve(curve.steps, (total[high] - total[low]) / (high - low))


def as_png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()
