"""Storyboard, the embedded data: generated videos of events on a timeline, with known truth.

In:  a seed. Nothing is downloaded, and the same (seed, split, index) gives the same bytes anywhere.
Out: `make_record(seed, split, index)`, a `VideoRecord`; `ensure(folder, seed, counts)`, a folder of
     frame shards with its tokenizer, made when it is not there yet:

    folder = ensure("data/storyboard", seed=0, counts={"train": 4000, "validation": 256})

A video has 16 to 48 frames (up to 120 out of domain), one a second. Events hold for the seconds
start <= t < end; each named one has a timed sentence, and `truth` has the rest as JSON (see
`storyboard_plan.truth`). Splits:

    train            ordinary videos
    validation       at least one named event is a (subject, colour, place) that train never shows
    test             the same, with combinations of its own
    ood_time         other order and duration statistics, long emptiness
    ood_domain       surveillance (even index) and science (odd index)
"""

import contextlib
import fcntl
import json
import multiprocessing
import os
import shutil
import sys
import types
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from mova_jax.data.images import encode_jpeg
from mova_jax.data.shards import (
    MANIFEST,
    SCHEMA_VERSION,
    Caption,
    Manifest,
    ShardError,
    VideoRecord,
    read_manifest,
    write_manifest,
    write_split,
)
from mova_jax.data.storyboard import captions as captions_lib
from mova_jax.data.storyboard import plan as plan_lib
from mova_jax.data.storyboard import scenes
from mova_jax.data.storyboard.concepts import SPLITS, style_of
from mova_jax.data.tokenizer import train_tokenizer
from mova_jax.data.worker_pool import exit_with_parent
from mova_jax.utils.progress_bar import bar_of

NAME = "storyboard"
VERSION = 2  # of what is drawn and said; a cache of another version is made anew
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
    style = style_of(split, index)
    plan = plan_lib.draw_plan(events, split, style)
    frames = scenes.render(pictures, plan, size)
    told = captions_lib.sentences(words, plan)
    return VideoRecord(
        id=f"{split}-{index:06d}",
        frames=tuple(encode_jpeg(frame, subsampling="444") for frame in frames),
        height=size,
        width=size,
        timestamps=np.arange(len(frames), dtype=np.float32),
        duration=float(len(frames)),
        captions=tuple(Caption(text, float(event.start), float(event.end)) for event, text in told),
        alternatives=captions_lib.short_captions(words, plan),
        source=f"{NAME} {plan.domain} seed {seed}",
        truth=plan_lib.truth(plan),
    )


def ensure(
    folder: str | os.PathLike,
    seed: int,
    counts: dict[str, int],
    workers: int = 2,
    image_size: int = 64,
    vocab_size: int = 1024,
) -> Path:
    """Makes the shards and the tokenizer, unless the folder has just these already.

    The folder is made aside and renamed when whole; a process that finds another one at work
    waits for it. The bytes do not depend on `workers`.

    Args:
        folder: of the data set; a Storyboard of other settings in it is replaced.
        seed: not negative.
        counts: videos of each split; `train` is needed, for the tokenizer learns from it.
        workers: processes that draw, 0 or 1 for none beside this one.
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
    folder = Path(folder).resolve()
    settings = {
        "version": VERSION,
        "seed": seed,
        "counts": {split: counts[split] for split in SPLITS if counts.get(split)},
        "image_size": image_size,
        "vocab_size": vocab_size,
    }
    if _is_made(folder, settings):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _alone(folder.parent):
        if not _is_made(folder, settings):  # another process may have made it meanwhile
            _check_replaceable(folder)
            aside = folder.with_name(f".{folder.name}.partial")
            shutil.rmtree(aside, ignore_errors=True)
            try:
                _make(aside, settings, workers)
                if folder.exists():
                    shutil.rmtree(folder)
                aside.rename(folder)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
    return folder


def _read(folder: Path) -> dict:
    """The manifest's fields as they stand, {} when there is none."""
    try:
        fields = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _is_made(folder: Path, settings: dict) -> bool:
    fields = _read(folder)
    made = [fields.get(key) for key in ("name", "schema_version", "settings")]
    return made == [NAME, SCHEMA_VERSION, settings] and _is_whole(folder)


def _is_whole(folder: Path) -> bool:
    """Whether every shard is there in its size: what was cut short is drawn again."""
    shards = (s for info in read_manifest(folder).splits.values() for s in info.shards)
    return all(
        (folder / s.file).is_file() and (folder / s.file).stat().st_size == s.bytes for s in shards
    )


def _check_replaceable(folder: Path) -> None:
    """Raises ShardError when the folder holds anything but a Storyboard."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if _read(folder).get("name") != NAME:
        raise ShardError(
            f"{folder} is there but is no Storyboard cache (no {MANIFEST} that says so), so it is "
            "left as it is; give another folder, or remove this one."
        )


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Only one process at a time is inside for a folder; a killed one is out by itself."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _make(folder: Path, settings: dict, workers: int) -> None:
    """Writes all splits, the tokenizer and, last, the manifest."""
    counts = settings["counts"]
    texts: list[str] = []
    splits = {}
    with (
        _Painters(workers) as painters,
        bar_of(NAME, sum(counts.values())) as bar,
    ):

        def records(split: str) -> Iterator[VideoRecord]:
            for record in painters.records(settings, split):
                if split == "train":
                    texts.extend((record.caption, *record.alternatives))
                bar.update()
                yield record

        for split in counts:
            splits[split] = write_split(folder, split, records(split), name=NAME)
    train_tokenizer(texts, settings["vocab_size"], folder / TOKENIZER)
    licence = "generated by this package, under its own licence"
    write_manifest(folder, Manifest(name=NAME, splits=splits, settings=settings, licence=licence))


class _Painters:
    """Makes records in order, on a pool of processes if there are to be any."""

    def __init__(self, workers: int):
        self._workers = workers
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "_Painters":
        if self._workers > 1:
            self._stack.enter_context(_bare_main())
            self._pool = ProcessPoolExecutor(
                self._workers,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=exit_with_parent,
                initargs=(os.getpid(),),
            )
            self._stack.callback(self._pool.shutdown, wait=True, cancel_futures=True)
        return self

    def __exit__(self, *error) -> None:
        self._stack.close()

    def records(self, settings: dict, split: str) -> Iterator[VideoRecord]:
        count = settings["counts"][split]
        tasks = [
            (settings["seed"], split, start, min(start + _CHUNK, count), settings["image_size"])
            for start in range(0, count, _CHUNK)
        ]
        if self._workers <= 1:
            for task in tasks:
                yield from _make_chunk(*task)
            return
        ahead: deque = deque()
        for task in tasks:
            ahead.append(self._pool.submit(_make_chunk, *task))
            if len(ahead) >= 4 * self._workers:  # bounds what waits for the writer
                yield from ahead.popleft().result()
        while ahead:
            yield from ahead.popleft().result()


def _make_chunk(seed: int, split: str, start: int, stop: int, size: int) -> list[VideoRecord]:
    return [make_record(seed, split, index, size) for index in range(start, stop)]


@contextlib.contextmanager
def _bare_main() -> Iterator[None]:
    """Processes that are spawned meanwhile do not import the program's main module.

    They need nothing of it, and it may have no `__main__` guard, or import a library that takes
    the accelerator.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
