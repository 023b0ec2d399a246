"""Statistics of the splits of a shard folder: counts, durations, sizes, lengths of captions.

figures = SplitFigures()
figures.add(record, tokens=len(tokenizer.encode(record.caption).ids))
print(table({"train": figures}))
"""

import collections
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mova_jax.data.shards import VideoRecord

LIMITS = (77, 248)  # tokens: the context of CLIP, and of Long-CLIP
_SIZES = 4  # the most frequent frame sizes have rows of their own


@dataclasses.dataclass
class SplitFigures:
    """Counts of a split, with one number a video where the distribution matters.

    Attributes:
        durations: of the videos, seconds.
        frames: number of frames of each video.
        tokens: length of each video's whole caption, with start and end; empty when unknown.
        sizes: number of videos by (width, height) in pixels.
        sentences: number of sentences of all videos.
        timed: number of sentences with times.
        alternatives: number of alternative captions of all videos.
    """

    durations: list[float] = dataclasses.field(default_factory=list)
    frames: list[int] = dataclasses.field(default_factory=list)
    tokens: list[int] = dataclasses.field(default_factory=list)
    sizes: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    sentences: int = 0
    timed: int = 0
    alternatives: int = 0

    def add(self, record: VideoRecord, tokens: int | None) -> None:
        """Adds a record; `tokens` is the length of its whole caption, None when unknown."""
        self.durations.append(record.duration)
        self.frames.append(len(record.frames))
        self.sizes[record.width, record.height] += 1
        self.sentences += len(record.captions)
        self.timed += sum(caption.timed for caption in record.captions)
        self.alternatives += len(record.alternatives)
        if tokens is not None:
            self.tokens.append(tokens)

    @property
    def counts(self) -> tuple[int, int, int]:
        """Numbers of videos, frames and sentences, as in a manifest."""
        return len(self.durations), sum(self.frames), self.sentences


def table(splits: dict[str, SplitFigures]) -> str:
    """The statistics as text, one column a split; '-' where nothing is known."""
    sizes = sum((figures.sizes for figures in splits.values()), collections.Counter())
    common = [size for size, _ in sizes.most_common(_SIZES)]
    others = len(sizes) - len(common)
    rows = [("", list(splits))]
    for cells in zip(*(_rows(figures, common, others) for figures in splits.values()), strict=True):
        rows.append((cells[0][0], [cell for _, cell in cells]))
    label = max(len(name) for name, _ in rows)
    widths = [max(map(len, cells)) for cells in zip(*(cells for _, cells in rows), strict=True)]
    return "\n".join(
        "  ".join([name.ljust(label), *map(str.rjust, cells, widths)]) for name, cells in rows
    )


def _rows(
    figures: SplitFigures, common: Sequence[tuple[int, int]], others: int
) -> Iterator[tuple[str, str]]:
    """Yields the rows of one split: the name and the cell.

    Args:
        figures: of the split.
        common: frame sizes (width, height) with rows of their own.
        others: number of further sizes, which share a row.
    """
    videos, frames, sentences = figures.counts
    yield "videos", f"{videos:,}"
    yield "frames", f"{frames:,}"
    yield "captions (sentences)", f"{sentences:,}"
    yield "  with times", f"{figures.timed:,}"
    yield "alternative captions", f"{figures.alternatives:,}"
    yield "seconds a video: shortest", _cell(figures.durations, min, ",.1f")
    yield "  median", _cell(figures.durations, np.median, ",.1f")
    yield "  longest", _cell(figures.durations, max, ",.1f")
    yield "  hours in all", f"{sum(figures.durations) / 3600:,.2f}"
    yield "frames a video: fewest", _cell(figures.frames, min, ",d")
    yield "  median", _cell(figures.frames, np.median, ",g")
    yield "  most", _cell(figures.frames, max, ",d")
    for width, height in common:
        yield f"videos of {width} x {height} pixels", f"{figures.sizes[width, height]:,}"
    if others:
        rest = videos - sum(figures.sizes[size] for size in common)
        yield f"  of {others:,} other sizes", f"{rest:,}"
    yield "tokens a whole caption: median", _cell(figures.tokens, np.median, ",g")
    yield "  90 % have at most", _cell(figures.tokens, _most, ",d")
    yield "  longest", _cell(figures.tokens, max, ",d")
    for limit in LIMITS:
        over = [tokens > limit for tokens in figures.tokens]
        yield f"  over {limit}", _cell(over, np.mean, ".1%")


def _most(lengths: Sequence[int]) -> int:
    """The smallest length that 90 % of the captions do not exceed."""
    return int(np.quantile(lengths, 0.9, method="inverted_cdf"))


def _cell(numbers: Sequence, figure: Callable, format_spec: str) -> str:
    return format(figure(numbers), format_spec) if numbers else "-"
