"""The galleries of the montage suite: the user's shards, or shards made of captioned pictures.

found = galleries(("flickr8k", "msrvtt_frames"), cache=".data", size=96, seed=0)
found[0].domain, found[0].items                # flickr8k, 1 (single pictures)
"""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mova_jax.data.montage.generate import (
    MontageSettings,
    PictureSettings,
    Source,
    make_montages,
    make_pictures,
)
from mova_jax.data.montage.plan import PlanSettings
from mova_jax.data.shards import MANIFEST, open_split
from mova_jax.training.workdir import RunError

TEST, VALIDATION = "test", "validation"
ITEMS = (4, 12, 48, 192)  # of a video: 40 seconds, 2, 8 and 32 minutes
NAMED = 4
VIDEOS = 128  # of a gallery at most; all galleries of a domain have the same number
_FEWEST = 16  # longer montages are left out when fewer fit
_PICTURES = 1000  # single ones
_TUNED = 12  # items of the videos on which the weight of the blend is chosen
_CAPTIONS = 5  # of an item at most, so that each video has as many queries
_EVERY = 5.0  # seconds between frames: one to three of each item, which are alike


class Gallery(NamedTuple):
    """Videos of one length from one domain."""

    domain: str
    folder: Path  # of the shards
    split: str
    videos: int
    items: float  # of a video, mean; 1: single pictures
    minutes: float  # of a video, mean
    frames: int  # of the longest video
    tuning: bool = False  # for the weight of the blend only

    @property
    def name(self) -> str:
        """Names it in the file of its figures."""
        return f"{self.domain}-{self.folder.name}-{self.split}"


def galleries(
    data: Sequence[str],
    cache: str | os.PathLike,
    size: int,
    seed: int,
    *,
    items: Sequence[int] = ITEMS,
    videos: int = VIDEOS,
    fewest: int = _FEWEST,
) -> list[Gallery]:
    """All galleries, those of a domain together, the shortest videos first.

    Args:
        data: folders, each with shards of montages or of pictures, or with a captions.jsonl of
            captioned pictures or clips (or this file). Shards belong to the domain that their
            parent folder is named after.
        cache: folder for the shards that are made.
        size: of their frames, pixels a side.
        seed: of them.
        items: numbers of items of a video to make.
        videos: in a gallery at most.
        fewest: videos in a gallery at least.

    Raises:
        RunError: there is nothing to ask about.
        InputError, ShardError: the data cannot be used.
    """
    found: list[Gallery] = []
    for name in data:
        path = Path(name)
        lines = path if path.suffix == ".jsonl" else path / "captions.jsonl"
        if (path / MANIFEST).is_file():
            found += _of_shards(path.resolve().parent.name, path, TEST, videos)
        elif lines.is_file():
            found += _made(lines, Path(cache), size, seed, items, videos, fewest)
        else:
            raise RunError(
                f"{name} has neither shards nor a captions.jsonl: give --data folders of captioned "
                "pictures or clips, or shards of python -m mova_jax.prepare montage"
            )
    if not found:
        raise RunError(
            "The suite montage needs data: give --data folders of captioned pictures or clips with "
            "a captions.jsonl (docs/data.md, Montage), the domain of the model first"
        )
    domains = list(dict.fromkeys(gallery.domain for gallery in found))
    return sorted(found, key=lambda g: (domains.index(g.domain), g.items))


def _of_shards(domain: str, folder: Path, split: str, limit: int) -> Iterator[Gallery]:
    """The gallery of a folder of shards, by the truth in its records."""
    source, events, seconds, frames = open_split(folder, split), [], [], []
    for index in range(len(source)):
        record = source[index]
        events.append(len(json.loads(record.truth)["events"]) if record.truth else 1)
        seconds.append(record.duration)
        frames.append(len(record.frames))
    count = len(source)
    yield Gallery(domain, folder, split, count, _mean(events), _mean(seconds) / 60, max(frames))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _made(
    lines: Path,
    cache: Path,
    size: int,
    seed: int,
    items: Sequence[int],
    videos: int,
    fewest: int,
) -> Iterator[Gallery]:
    """Makes the galleries of a domain, those that were not made before."""
    source = Source.read(lines)
    domain = lines.resolve().parent.name
    available = {split: len(of) for split, of in source.items.items()}
    source = dataclasses.replace(
        source,
        items={
            split: tuple(item._replace(captions=item.captions[:_CAPTIONS]) for item in of)
            for split, of in source.items.items()
            if split in (TEST, VALIDATION)
        },
    )
    room = cache / f"montage-{domain}-{source.digest}-{size}px-seed{seed}"
    pictures = {TEST: source.of(TEST)[:_PICTURES]}
    make_pictures(
        dataclasses.replace(source, items=pictures),
        room / "pictures",
        PictureSettings(size=size, seed=seed),
    )
    count = len(pictures[TEST])
    yield Gallery(domain, room / "pictures", TEST, count, 1.0, 0.0, 1)

    wanted = _fitting(available, items, videos, fewest)
    if not wanted:
        raise RunError(
            f"{lines} has {available[TEST]} pictures or clips of the split test, too few for "
            f"{fewest} videos of {min(items)}: give it more"
        )
    for split, most, count in wanted:
        plan = PlanSettings((most, most), named=(NAMED, NAMED), every=_EVERY)
        folder = room / f"{split}-{most}"
        settings = MontageSettings(size=size, seed=seed, videos={split: count}, plan=plan)
        info = make_montages(source, folder, settings).splits[split]
        minutes = info.frames * _EVERY / info.videos / 60
        frames = most * plan.frames[1]
        tuning = split == VALIDATION
        yield Gallery(domain, folder, split, info.videos, most, minutes, frames, tuning)


def _fitting(
    available: Mapping[str, int], items: Sequence[int], videos: int, fewest: int
) -> list[tuple[str, int, int]]:
    """Split, items of a video and number of videos of each gallery that there is enough for."""

    def fits(split: str, most: int) -> int:
        return min(videos, (available.get(split, 0) - max(0, most - NAMED)) // NAMED)

    kept = [most for most in items if fits(TEST, most) >= fewest]
    found = [(TEST, most, fits(TEST, max(kept))) for most in kept]
    if found and fits(VALIDATION, _TUNED) >= fewest:
        found.append((VALIDATION, _TUNED, fits(VALIDATION, _TUNED)))
    return found
