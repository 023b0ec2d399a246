"""Makes shards: montages of captioned pictures or clips, or the pictures themselves.

    made = Source.read("flickr8k/captions.jsonl")
    make_montages(made, "shards/montage", MontageSettings(videos={"test": 128}))
    make_pictures(made, "shards/pictures", PictureSettings(views=16))

A folder is made under another name and renamed when it is whole; one that was made of the same
lines with the same settings is left as it is.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mova_jax.data.annotations import InputError, assign_splits
from mova_jax.data.montage.items import CaptionedItem, Frames, read_items
from mova_jax.data.montage.plan import TRAIN, PlanSettings, draw_plans
from mova_jax.data.montage.records import montage, picture, views_of
from mova_jax.data.shards import (
    Manifest,
    ShardError,
    VideoRecord,
    open_split,
    read_manifest,
    write_manifest,
    write_split,
)
from mova_jax.data.tokenizer import MAX_TOKENS, Tokenizer, copy_tokenizer, train_tokenizer
from mova_jax.utils.atomic import replacing
from mova_jax.utils.lock import lock
from mova_jax.utils.progress_bar import bar_of

TOKENIZER = "tokenizer"
SPLITS = (("train", 0.8), ("validation", 0.1), ("test", 0.1))
_VERSION = 1  # of the bytes that the same settings give


@dataclasses.dataclass(frozen=True)
class Source:
    """Captioned pictures or clips by split, with the lines that could not be used."""

    items: Mapping[str, tuple[CaptionedItem, ...]]
    skipped: tuple[dict[str, str], ...]
    digest: str  # of the items, so that shards of others are not mistaken for theirs

    @classmethod
    def read(cls, path: str | os.PathLike, shares=SPLITS) -> "Source":
        """Reads a JSONL (`items.FIELDS`); `shares` are those of lines without a split.

        Raises:
            InputError: no line can be used.
        """
        found, skipped = read_items(path)
        items: dict[str, list[CaptionedItem]] = {}
        for item in assign_splits(found, shares):
            items.setdefault(item.split, []).append(item)
        lines = json.dumps([[i.id, i.split, i.captions, len(i.files)] for i in found])
        digest = hashlib.sha256(lines.encode()).hexdigest()[:16]
        return cls({k: tuple(v) for k, v in items.items()}, tuple(skipped), digest)

    def of(self, split: str) -> tuple[CaptionedItem, ...]:
        """The items of a split.

        Raises:
            InputError: there are none.
        """
        if split not in self.items:
            there = ", ".join(f"{name} ({len(of):,})" for name, of in sorted(self.items.items()))
            raise InputError(f"There are no pictures or clips of the split {split!r}; got {there}.")
        return self.items[split]


@dataclasses.dataclass(frozen=True)
class _Common:
    size: int = 224  # of the frames, pixels a side
    seed: int = 0
    vocab_size: int = 4096  # of the tokenizer that is trained on the captions
    tokenizer: str = ""  # a CLIP tokenizer to use instead
    name: str = "montage"
    licence: str = ""


@dataclasses.dataclass(frozen=True)
class MontageSettings(_Common):
    """Settings of montages."""

    videos: Mapping[str, int] = dataclasses.field(
        default_factory=lambda: {"train": 1000, "validation": 100, "test": 100}
    )
    plan: PlanSettings = dataclasses.field(default_factory=PlanSettings)
    captions: int = 5  # paragraphs of a video at most: its caption, and alternatives


@dataclasses.dataclass(frozen=True)
class PictureSettings(_Common):
    """Settings of single pictures."""

    views: int = 1  # frames of a picture of train: itself, and crops and flips of it
    name: str = "pictures"


def make_montages(source: Source, folder: str | os.PathLike, settings: MontageSettings) -> Manifest:
    """Makes shards of montages.

    Returns:
        The manifest, as it is in the folder.

    Raises:
        InputError: the settings, or the number of pictures, do not allow it; or a picture cannot
            be decoded.
        ShardError: the folder holds something else, or cannot be written.
    """
    settings.plan.check()
    if not settings.videos or min(settings.videos.values()) < 1 or settings.captions < 1:
        raise InputError(
            f"videos must be at least 1 in each split, and captions too; got {settings.videos} "
            f"and {settings.captions}."
        )
    low, high = settings.plan.frames
    frames = Frames(settings.size, low + high, 1 / settings.plan.every)
    plans = {
        split: draw_plans(settings.seed, split, len(source.of(split)), count, settings.plan)
        for split, count in settings.videos.items()
    }

    def records(split: str) -> Iterator[VideoRecord]:
        items = source.of(split)
        for index, plan in enumerate(plans[split]):
            name = f"{split}-{index:06d}"
            rng = np.random.default_rng([settings.seed, zlib.crc32(name.encode())])
            shown = [(items[one.item], one) for one in plan]
            yield montage(rng, name, shown, frames, settings.plan.every, settings.captions)

    return _make(source, Path(folder), settings, settings.videos, records)


def make_pictures(source: Source, folder: str | os.PathLike, settings: PictureSettings) -> Manifest:
    """Makes shards of the single pictures (one frame of a clip), to train towers on.

    A picture of `train` is a video whose frames are views of it (crops and flips), of which a step
    draws one, and whose sentences are its captions, of which a step draws one too
    (`data.caption_policy`). Elsewhere it is one frame; its first caption is the caption, the others
    are alternatives.

    Returns:
        The manifest, as it is in the folder.

    Raises:
        InputError, ShardError: as `make_montages`.
    """
    if settings.views < 1:
        raise InputError(f"views must be 1 or more, got {settings.views}.")
    frames = Frames(settings.size, 1)

    def records(split: str) -> Iterator[VideoRecord]:
        for item in source.of(split):
            (image,) = frames(item)
            views = settings.views if split == TRAIN else 1
            rng = np.random.default_rng([settings.seed, zlib.crc32(item.id.encode())])
            sentences = len(item.captions) if split == TRAIN else 1
            yield picture(item, views_of(rng, image, views), sentences, settings.size)

    counts = {split: len(items) for split, items in source.items.items()}
    return _make(source, Path(folder), settings, counts, records)


def _make(
    source: Source,
    folder: Path,
    settings: MontageSettings | PictureSettings,
    counts: Mapping[str, int],
    records: Callable[[str], Iterator[VideoRecord]],
) -> Manifest:
    """Makes the folder, or returns the manifest of one that was made so before."""
    noted = _as_json(source, settings)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with lock(folder.parent, wait=True):
        if manifest := _made_before(folder, settings.name, noted):
            return manifest
        for stale in folder.parent.glob(f".{folder.name}.*.partial"):  # of killed processes
            shutil.rmtree(stale)
        with replacing(folder) as aside, bar_of(settings.name, sum(counts.values())) as bar:

            def counted(split: str, texts: list[str]) -> Iterator[VideoRecord]:
                for record in records(split):
                    texts += [record.caption, *record.alternatives]
                    bar.update()
                    yield record

            texts: dict[str, list[str]] = {split: [] for split in counts}
            splits = {
                split: write_split(aside, split, counted(split, texts[split]), name=settings.name)
                for split in counts
            }
            if settings.tokenizer:
                copy_tokenizer(settings.tokenizer, aside / TOKENIZER)
            else:
                learn = texts.get(TRAIN) or [text for some in texts.values() for text in some]
                train_tokenizer(learn, settings.vocab_size, aside / TOKENIZER)
            encode = Tokenizer(aside / TOKENIZER, MAX_TOKENS).encode
            manifest = Manifest(
                name=settings.name,
                splits=splits,
                settings=noted,
                skipped=source.skipped,
                truncated_captions=sum(
                    encode(text).truncated for some in texts.values() for text in some
                ),
                licence=settings.licence,
            )
            write_manifest(aside, manifest)
    return manifest


def _as_json(source: Source, settings: MontageSettings | PictureSettings) -> dict[str, Any]:
    fields = dataclasses.asdict(settings)
    del fields["name"], fields["licence"]  # fields of the manifest itself
    return json.loads(
        json.dumps(
            {
                **fields,
                "max_tokens": MAX_TOKENS,
                "version": _VERSION,
                "items": source.digest,
                # Every caption of a video is a query (eval.queries).
                "dataset": {"name": settings.name, "queries": "all"},
            }
        )
    )


def _made_before(folder: Path, name: str, noted: dict[str, Any]) -> Manifest | None:
    """The manifest of a folder with the same settings, whole; None where there is no folder.

    Raises:
        ShardError: there is something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    with contextlib.suppress(ShardError):
        manifest = read_manifest(folder)
        if (manifest.name, manifest.settings) == (name, noted):
            for split in manifest.splits:
                open_split(folder, split)
            return manifest
    raise ShardError(
        f"{folder} is there and was not made with these settings, so it is left as it is; give "
        "another folder, or remove this one."
    )
