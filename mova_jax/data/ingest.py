"""A folder of videos with annotations to frame shards: what `python -m mova_jax.prepare` does.

In:  captions.jsonl, or what `annotations.registry.read_dataset` made of a data set's own files.
Out: shards of every split, `tokenizer/`, the manifest with all that was skipped and why, and
     `missing.txt`, where a data set names videos that were not found:

    manifest = ingest("clips/captions.jsonl", "shards", IngestSettings(fps=1.0), workers=4)
    manifest = ingest(read_dataset("msvd", "captions", "videos"), "shards", IngestSettings())

The output is the same, byte for byte, for any number of workers. All is made in `.partial` in the
output folder and moved when whole, the manifest last; an error or Ctrl-C leaves nothing behind.
"""

import collections
import contextlib
import dataclasses
import fcntl
import functools
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from mova_jax.data.annotations import (
    SPLIT_NAME,
    InputError,
    Reading,
    assign_splits,
    read_annotations,
)
from mova_jax.data.annotations.counts import counts_of
from mova_jax.data.bars import bar_of
from mova_jax.data.decode_items import decode_all, decode_item
from mova_jax.data.manifest import MANIFEST, ClearErrors, Manifest, ShardError, write_manifest
from mova_jax.data.shards import ShardWriter
from mova_jax.data.tokenizer import (
    MAX_TOKENS,
    MIN_VOCAB,
    Tokenizer,
    copy_tokenizer,
    train_tokenizer,
)

TOKENIZER = "tokenizer"
MISSING = "missing.txt"  # split and id of every video without a file, a line each
_PARTIAL = ".partial"


@dataclasses.dataclass(frozen=True)
class IngestSettings:
    """What is asked of `ingest`.

    Attributes:
        fps: frames a second.
        short_side: of the stored frames, pixels; 0 keeps the videos' own size.
        splits: share of each split, for videos that name none.
        vocab_size: of the tokenizer that is learned.
        tokenizer: folder of a pretrained CLIP tokenizer to use instead, or ''.
        max_tokens: longer captions are counted in the manifest.
        name: of the data set.
        licence: a note for the manifest.
    """

    fps: float = 1.0
    short_side: int = 224
    splits: tuple[tuple[str, float], ...] = (("train", 0.8), ("validation", 0.1), ("test", 0.1))
    vocab_size: int = 4096
    tokenizer: str = ""
    max_tokens: int = MAX_TOKENS
    name: str = "clips"
    licence: str = ""

    def check(self) -> None:
        """Finds settings that cannot work before any video is read.

        Raises:
            InputError: names the setting, what it is and what it must be.
        """
        names = [split for split, _ in self.splits]
        shares = [share for _, share in self.splits]
        wrong = [
            ("fps", self.fps, "positive", 0 < self.fps < math.inf),
            ("short_side", self.short_side, "0 or more pixels", self.short_side >= 0),
            (
                "splits",
                self.splits,
                "different lower case names with shares of 0 or more, not all 0",
                all(map(SPLIT_NAME.fullmatch, names))
                and len(set(names)) == len(names)
                and all(0 <= share < math.inf for share in shares)
                and sum(shares) > 0,
            ),
            ("vocab_size", self.vocab_size, f"{MIN_VOCAB} or more", self.vocab_size >= MIN_VOCAB),
            ("name", self.name, "a lower case name", SPLIT_NAME.fullmatch(self.name)),
        ]
        for key, value, expected, fits in wrong:
            if not fits:
                raise InputError(f"{key} must be {expected}, got {value!r}.")
        if self.tokenizer:
            try:
                Tokenizer(self.tokenizer, self.max_tokens)
            except (OSError, ValueError) as error:
                raise InputError(f"tokenizer: {error}") from error


def ingest(
    annotations: str | os.PathLike | Reading,
    folder: str | os.PathLike,
    settings: IngestSettings,
    workers: int = 1,
    progress: bool = True,
) -> Manifest:
    """Makes frame shards of the videos of a JSONL or of a data set.

    Args:
        annotations: the JSONL, in whose folder the videos lie; or a data set that was read.
        folder: of the shards; made when absent, must be empty.
        settings: what is asked for.
        workers: processes that decode, 0 or 1 for none beside this one.
        progress: whether to show a bar on stderr.

    Returns:
        The manifest, as it is in the folder.

    Raises:
        InputError: on settings or annotations of which nothing can be made.
        ShardError: when the folder is in use or cannot be written; it is then as it was.
    """
    settings.check()
    reading = annotations if isinstance(annotations, Reading) else _read_jsonl(annotations)
    items = assign_splits(reading.items, settings.splits)
    folder = Path(folder).absolute()
    with _whole_or_nothing(folder) as partial:
        splits, texts, failed, warnings = _write_splits(items, partial, settings, workers, progress)
        skipped = reading.skipped + failed
        if not splits:
            reasons = "; ".join(f"{entry['id']}: {entry['reason']}" for entry in skipped[:3])
            raise InputError(
                f"No video of {reading.source} could be used ({len(skipped)} skipped"
                + (f": {reasons}" if reasons else "")
                + f"); {reading.hint}."
            )
        truncated = _write_tokenizer(texts, partial / TOKENIZER, settings)
        _write_missing(reading, partial / MISSING)
        manifest = Manifest(
            name=settings.name,
            splits={split: splits[split] for split in sorted(splits)},
            settings=_as_json(settings, reading),
            skipped=tuple(skipped),
            warnings=tuple(warnings),
            truncated_captions=truncated,
            licence=settings.licence,
        )
        write_manifest(partial, manifest)
    return manifest


def _read_jsonl(path: str | os.PathLike) -> Reading:
    items, skipped = read_annotations(path)
    hint = 'the lines must look like {"video": "a.mp4", "caption": "A cat sits."}'
    return Reading(items, skipped, source=str(path), hint=hint)


def _write_missing(reading: Reading, path: Path) -> None:
    lines = [f"{split}\t{name}\n" for split, names in reading.missing.items() for name in names]
    if lines:
        with ClearErrors(f"{path} cannot be written"):
            path.write_text("".join(lines), encoding="utf-8")


def _as_json(settings: IngestSettings, reading: Reading) -> dict:
    fields = dataclasses.asdict(settings)
    del fields["name"], fields["licence"]  # they have their own places
    if counts := counts_of(reading):
        fields["dataset"] = counts
    return {**fields, "splits": dict(settings.splits)}


@contextlib.contextmanager
def _whole_or_nothing(folder: Path) -> Iterator[Path]:
    """A folder to write to, whose files move up to `folder` when the block ends without error."""
    new, made = not folder.exists(), False
    partial = folder / _PARTIAL
    moved: list[Path] = []
    with ClearErrors(f"{folder} cannot be written"):
        folder.mkdir(parents=True, exist_ok=True)
        lock = _lock(folder)
    try:
        with ClearErrors(f"{folder} cannot be written"):
            if any(path.name != _PARTIAL for path in folder.iterdir()):
                what = "has shards already" if (folder / MANIFEST).exists() else "is not empty"
                raise ShardError(f"{folder} {what} and stays as it is; give another output folder.")
            shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
            partial.mkdir()
            made = True
        yield partial
        with ClearErrors(f"{folder} cannot be written"):
            for path in sorted(partial.iterdir(), key=lambda path: path.name == MANIFEST):
                moved.append(folder / path.name)
                path.rename(moved[-1])
    except BaseException:
        for path in moved:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        raise
    finally:
        if made:
            shutil.rmtree(partial, ignore_errors=True)
        if new and not any(folder.iterdir()):
            folder.rmdir()
        os.close(lock)


def _lock(folder: Path) -> int:
    """Keeps a second run out of the folder, until the handle is closed."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise ShardError(
            f"Another process is writing to {folder}; wait for it, or give another output folder."
        ) from error
    except OSError:
        pass  # some network file systems have no locks
    return handle


def _write_splits(items, folder: Path, settings: IngestSettings, workers: int, progress: bool):
    """Decodes and stores; returns splits, their texts, and who was skipped or warned about."""
    work = functools.partial(decode_item, fps=settings.fps, short_side=settings.short_side)
    texts = collections.defaultdict(list)
    writers: dict[str, ShardWriter] = {}
    skipped: list[dict[str, str]] = []
    warnings: list[dict[str, str]] = []
    with contextlib.ExitStack() as stack:
        results = stack.enter_context(contextlib.closing(decode_all(items, work, workers)))
        bar = bar_of("videos", len(items), results, disable=not progress)
        for item, (record, reason, notes) in bar:
            if record is None:
                skipped.append({"id": item.id, "reason": reason})
                continue
            if item.split not in writers:
                writer = ShardWriter(folder, item.split, name=settings.name)
                writers[item.split] = stack.enter_context(writer)
            writers[item.split].write(record)
            texts[item.split] += [record.caption, *record.alternatives]
            warnings += [{"id": item.id, "reason": note} for note in notes]
    return {split: writer.info for split, writer in writers.items()}, texts, skipped, warnings


def _write_tokenizer(texts: dict[str, list[str]], folder: Path, settings: IngestSettings) -> int:
    """Learns it from the first split (train) or copies it; returns how many texts it cuts."""
    try:
        if settings.tokenizer:
            copy_tokenizer(settings.tokenizer, folder)
        else:
            known = [split for split, _ in settings.splits if split in texts]
            learn_from = "train" if "train" in texts else [*known, *sorted(texts)][0]
            train_tokenizer(texts[learn_from], settings.vocab_size, folder)
        encode = Tokenizer(folder, settings.max_tokens).encode
    except Exception as error:  # the library's Rust raises bare exceptions when the disk is full
        raise ShardError(
            f"The tokenizer could not be written to {folder} ({error}). Nothing half-made was "
            "kept; make room or correct the path, and run again."
        ) from error
    return sum(encode(text).truncated for some in texts.values() for text in some)
