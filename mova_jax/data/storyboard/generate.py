"""Storyboard, the embedded data: generated videos of events on a timeline, with known truth.

    folder = ensure("data/storyboard", seed=0, counts={"train": 4000, "validation": 256})
    record = make_record(seed=0, split="train", index=7)

`ensure` makes a folder of frame shards with its tokenizer, unless it exists. Nothing is downloaded,
and the same (seed, split, index) gives the same bytes on every machine.

A video has 16 to 48 frames (up to 120 out of domain), one a second. Events hold for the seconds
start <= t < end; each named one has a timed sentence, and `truth` has the rest as JSON (see
`plan.truth`). Splits:

    train            ordinary videos
    validation       at least one named event is a (subject, colour, place) that train never shows
    test             the same, with combinations of its own
    ood_time         other order and duration statistics, long emptiness
    ood_domain       surveillance (even index) and science (odd index)
    confusable       groups of 16 videos of the same things, bound and ordered in other ways: videos
                     16 i to 16 i + 15 are a group, four orders of a binding next to each other
"""

import dataclasses
import functools
import os
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mova_jax.data.images import encode_jpeg
from mova_jax.data.shards import Caption, Manifest, VideoRecord, write_manifest, write_split
from mova_jax.data.storyboard.captions import sentences, short_captions
from mova_jax.data.storyboard.concepts import CONFUSABLE, SPLITS, style_of
from mova_jax.data.storyboard.folder import LICENCE, NAME, draw, drawing_pool, ensure_folder
from mova_jax.data.storyboard.groups import GROUP_SIZE, draw_group
from mova_jax.data.storyboard.plan import Plan, draw_distractors, draw_plan, truth
from mova_jax.data.storyboard.scenes import render
from mova_jax.data.tokenizer import train_tokenizer
from mova_jax.utils.progress_bar import bar_of

VERSION = 3  # of pictures and captions; a cache of another version is replaced
TOKENIZER = "tokenizer"

_CHUNK = 16  # videos a task


def make_record(seed: int, split: str, index: int, size: int = 64) -> VideoRecord:
    """Makes one video.

    Args:
        seed: of the whole data set, not negative.
        split: one of SPLITS.
        index: of the video in its split.
        size: pixels a side.

    Returns:
        The record; its bytes depend on the arguments only.

    Raises:
        ValueError: on an unknown split or a negative seed.
    """
    if split not in SPLITS:
        raise ValueError(f"Unknown split {split!r}; Storyboard has {', '.join(SPLITS)}.")
    key = np.random.SeedSequence([seed, zlib.crc32(split.encode()), index])
    events, pictures, words = (np.random.Generator(np.random.Philox(k)) for k in key.spawn(3))
    plan = _draw_plan(events, seed, split, index)
    frames = render(pictures, plan, size)
    timed = sentences(words, plan)
    return VideoRecord(
        id=f"{split}-{index:06d}",
        frames=tuple(encode_jpeg(frame, subsampling="444") for frame in frames),
        height=size,
        width=size,
        timestamps=np.arange(len(frames), dtype=np.float32),
        duration=float(len(frames)),
        captions=tuple(
            Caption(text, float(event.start), float(event.end)) for event, text in timed
        ),
        alternatives=short_captions(words, plan),
        source=f"{NAME} {plan.domain} seed {seed}",
        truth=truth(plan),
    )


def _draw_plan(rng: np.random.Generator, seed: int, split: str, index: int) -> Plan:
    """The plan of a video; one of `confusable` shares all but distractors with its group."""
    style = style_of(split, index)
    if split != "confusable":
        return draw_plan(rng, split, style)
    plan = _group(seed, index // GROUP_SIZE)[index % GROUP_SIZE]
    distractors = draw_distractors(rng, style, len(plan.places))
    return dataclasses.replace(plan, distractors=distractors)


@functools.lru_cache(maxsize=2)  # its videos are mostly drawn one after the other
def _group(seed: int, group: int) -> tuple[Plan, ...]:
    key = np.random.SeedSequence([seed, zlib.crc32(b"confusable group"), group])
    return draw_group(np.random.Generator(np.random.Philox(key)), CONFUSABLE)


def ensure(
    folder: str | os.PathLike,
    seed: int,
    counts: dict[str, int],
    workers: int = 2,
    image_size: int = 64,
    vocab_size: int = 1024,
) -> Path:
    """Makes the shards and the tokenizer, unless the folder has just these already.

    The folder is made under another name and renamed when it is whole; a process that finds another
    one at work waits for it. The bytes do not depend on `workers`.

    Args:
        folder: of the data set; a Storyboard of other settings in it is replaced.
        seed: not negative.
        counts: videos of each split; `train` is needed, for the tokenizer learns from it.
        workers: processes that draw; with 0 or 1 this process draws.
        image_size: pixels a side.
        vocab_size: tokens at most.

    Returns:
        The folder; the tokenizer is in its `tokenizer`.

    Raises:
        ValueError: on counts that cannot be made.
        ShardError: when the folder holds something else, or cannot be written.
    """
    unknown = sorted(set(counts) - set(SPLITS))
    if unknown or counts.get("train", 0) < 1 or min(counts.values()) < 0:
        raise ValueError(
            f"Storyboard counts must be numbers of videos for splits of {', '.join(SPLITS)}, with "
            f"at least 1 for train; got {counts}."
        )
    settings = {
        "version": VERSION,
        "seed": seed,
        "counts": {split: counts[split] for split in SPLITS if counts.get(split)},
        "image_size": image_size,
        "vocab_size": vocab_size,
    }
    return ensure_folder(folder, settings, functools.partial(_make, workers=workers))


def _make(folder: Path, settings: dict, workers: int) -> None:
    """Writes all splits, the tokenizer and, last, the manifest."""
    counts = settings["counts"]
    texts: list[str] = []
    splits = {}
    with drawing_pool(workers) as pool, bar_of(NAME, sum(counts.values())) as bar:

        def records(split: str) -> Iterator[VideoRecord]:
            for record in draw(pool, _make_chunk, _tasks(settings, split)):
                if split == "train":
                    texts.extend((record.caption, *record.alternatives))
                bar.update()
                yield record

        for split in counts:
            splits[split] = write_split(folder, split, records(split), name=NAME)
    train_tokenizer(texts, settings["vocab_size"], folder / TOKENIZER)
    write_manifest(folder, Manifest(name=NAME, splits=splits, settings=settings, licence=LICENCE))


def _tasks(settings: dict, split: str) -> list[tuple]:
    """The arguments of `_make_chunk` for the videos of a split."""
    count = settings["counts"][split]
    return [
        (settings["seed"], split, start, min(start + _CHUNK, count), settings["image_size"])
        for start in range(0, count, _CHUNK)
    ]


def _make_chunk(seed: int, split: str, start: int, stop: int, size: int) -> list[VideoRecord]:
    return [make_record(seed, split, index, size) for index in range(start, stop)]
