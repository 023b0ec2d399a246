"""Turns videos with annotations into frame shards; `python -m mova_jax.prepare` calls it.

In:  captions.jsonl, or the result of `annotations.registry.read_dataset` for a known data set.
Out: shards of every split, `tokenizer/`, the manifest with every skipped entry and its reason, and
     `missing.txt` where a data set names videos that were not found:

    manifest = ingest("clips/captions.jsonl", "shards", IngestSettings(fps=1.0), workers=4)
    manifest = ingest(read_dataset("msvd", "captions", "videos"), "shards", IngestSettings())

The output is the same, byte for byte, for any number of workers, under Beam, and after any number
of interruptions: each video becomes one record (`tasks.py`), records are packed into shards in the
order of the items (`partial_output.py`), and files get their names at the end (`publish.py`). Until
then they are in `.partial` of the output folder, from which the next call resumes.
"""

import collections
import contextlib
import dataclasses
import functools
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mova_jax.data import storage
from mova_jax.data.annotations import (
    SPLIT_NAME,
    InputError,
    Reading,
    assign_splits,
    read_annotations,
)
from mova_jax.data.annotations.counts import counts_of
from mova_jax.data.images import CODECS
from mova_jax.data.ingest import beam as beam_lib
from mova_jax.data.ingest.decode_item import DIED, decode_all
from mova_jax.data.ingest.partial_output import ItemResult, PartialOutput, ShardPlan, shard_name
from mova_jax.data.ingest.publish import discard, open_output, publish
from mova_jax.data.ingest.tasks import DecodeOptions, Task, run_task, tasks_of
from mova_jax.data.shards import (
    Manifest,
    ShardError,
    ShardInfo,
    SplitInfo,
    reraise_as_shard_error,
    shard_file,
    stem_of,
    write_manifest,
)
from mova_jax.data.tokenizer import (
    MAX_TOKENS,
    MIN_VOCAB,
    Tokenizer,
    copy_tokenizer,
    train_tokenizer,
)
from mova_jax.utils.progress_bar import bar_of, show_frames

TOKENIZER = "tokenizer"
MISSING = "missing.txt"  # split and id of every video without a file, a line each
_AHEAD = 64  # items a worker may be ahead of the next result; results are small


@dataclasses.dataclass(frozen=True)
class IngestSettings:
    """Settings of `ingest`.

    Attributes:
        fps: frames a second.
        short_side: of the stored frames, pixels; 0 keeps the size of the video.
        codec: how frames are stored, a key of `images.CODECS`.
        splits: share of each split, for videos without one.
        vocab_size: of the tokenizer that is trained on the captions.
        tokenizer: folder of a pretrained CLIP tokenizer to use instead, or ''.
        max_tokens: the manifest counts longer captions.
        name: of the data set.
        licence: a note for the manifest.
    """

    fps: float = 1.0
    short_side: int = 224
    codec: str = "jpeg"
    splits: tuple[tuple[str, float], ...] = (("train", 0.8), ("validation", 0.1), ("test", 0.1))
    vocab_size: int = 4096
    tokenizer: str = ""
    max_tokens: int = MAX_TOKENS
    name: str = "clips"
    licence: str = ""

    def check(self) -> None:
        """Checks the settings before any video is read.

        Raises:
            InputError: names the setting, its value and what it must be.
        """
        names = [split for split, _ in self.splits]
        shares = [share for _, share in self.splits]
        wrong = [
            ("fps", self.fps, "positive", 0 < self.fps < math.inf),
            ("short_side", self.short_side, "0 or more pixels", self.short_side >= 0),
            ("codec", self.codec, f"one of {', '.join(CODECS)}", self.codec in CODECS),
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
    beam: Sequence[str] = (),
) -> Manifest:
    """Makes frame shards of the videos of a JSONL or of a data set.

    Args:
        annotations: the JSONL, which is in the folder of the videos; or a data set that was read.
        folder: of the shards, a path or a URL; must not exist, be empty, or hold nothing but the
            unfinished work of an earlier call.
        settings: of the shards.
        workers: processes that decode, 0 or 1 for this process alone.
        progress: whether to show a bar on stderr.
        beam: options of an Apache Beam pipeline that decodes in place of the workers.

    Returns:
        The manifest, as it is in the folder.

    Raises:
        InputError: when the settings are wrong, or no video can be used.
        ShardError: when the folder is in use or cannot be written. Finished work stays in its
            `.partial`, and the next call resumes from there.
    """
    settings.check()
    reading = annotations if isinstance(annotations, Reading) else _read_jsonl(annotations)
    if not reading.items:  # before anything is touched: the videos may just not be mounted
        raise _nothing_usable(reading, reading.skipped)
    items = assign_splits(reading.items, settings.splits)
    options = DecodeOptions(settings.fps, settings.short_side, settings.codec)
    with open_output(os.fspath(folder)) as output:
        tasks = tasks_of(items, options)
        with reraise_as_shard_error(f"{folder} cannot be written"):
            known = PartialOutput(output).restore([(item.split, key) for key, item in tasks])
        if known and progress:
            print(f"{len(known):,} of {len(tasks):,} videos are done already.", file=sys.stderr)
        if beam:
            results, plan = beam_lib.decode_and_pack(tasks, known, output, options, beam)
        else:
            results, plan = _decode_and_pack(tasks, known, output, options, workers, progress)
        return _finish(output, reading, settings, tasks, results, plan)


def _read_jsonl(path: str | os.PathLike) -> Reading:
    with contextlib.ExitStack() as stack:
        try:
            local = stack.enter_context(storage.local_file(path))
        except FileNotFoundError as error:
            raise InputError(f"There is no file {path}.") from error
        folder = os.fspath(path).rpartition("/")[0] if storage.is_url(path) else None
        reading = read_annotations(local, folder)
    hint = 'the lines must look like {"video": "a.mp4", "caption": "A cat sits."}'
    return dataclasses.replace(reading, source=str(path), hint=hint)


def _decode_and_pack(
    tasks: Sequence[Task],
    known: dict[str, ItemResult],
    output: storage.Folder,
    options: DecodeOptions,
    workers: int,
    progress: bool,
) -> tuple[dict[str, ItemResult], ShardPlan]:
    """Makes all records and shards; returns the result of each key and the plan of the shards."""
    partial_output = PartialOutput(output)
    work = functools.partial(run_task, partial_output=partial_output, options=options)
    todo = [task for task in tasks if task.cache_key not in known]
    new = decode_all(todo, work, workers, died=ItemResult(reason=DIED), ahead=_AHEAD)
    bar = bar_of("videos", len(tasks), disable=not progress, initial=len(tasks) - len(todo))
    plan = ShardPlan()
    results: dict[str, ItemResult] = {}
    with contextlib.closing(new), bar:
        for key, item in tasks:
            result = known.get(key)
            if result is None:
                _, result = next(new)
                show_frames(bar, result.frames)
            results[key] = result
            if result.size and (full := plan.add(item.split, key, result.size)):
                partial_output.pack(full)
        for keys in plan.open_shards().values():
            partial_output.pack(keys)
    return results, plan


def _finish(
    output: storage.Folder,
    reading: Reading,
    settings: IngestSettings,
    tasks: Sequence[Task],
    results: dict[str, ItemResult],
    plan: ShardPlan,
) -> Manifest:
    """Writes tokenizer, list of missing videos and manifest, and publishes everything."""
    skipped, warnings = list(reading.skipped), list(reading.warnings)
    texts = collections.defaultdict(list)  # by split
    for key, item in tasks:
        result = results[key]
        if not result.size:
            skipped.append({"id": item.id, "reason": result.reason})
            continue
        texts[item.split] += result.texts
        warnings += [{"id": item.id, "reason": note} for note in result.warnings]
    if not plan.shards:
        if not PartialOutput(output).has_records():  # those of a command with other options stay
            discard(output)
        raise _nothing_usable(reading, skipped)
    splits, names = _name_shards(output, settings.name, plan)
    with tempfile.TemporaryDirectory(prefix="mova_jax-") as staged:
        staged = Path(staged)
        truncated = _write_tokenizer(texts, staged / TOKENIZER, settings)
        _write_missing(reading, staged / MISSING)
        manifest = Manifest(
            name=settings.name,
            splits=splits,
            settings=_as_json(settings, reading),
            skipped=tuple(skipped),
            warnings=tuple(warnings),
            truncated_captions=truncated,
            licence=settings.licence,
        )
        write_manifest(staged, manifest)
        publish(output, names, staged)
    return manifest


def _name_shards(
    output: storage.Folder, name: str, plan: ShardPlan
) -> tuple[dict[str, SplitInfo], dict[str, str]]:
    """The splits for the manifest, and the final name of every shard by its current one."""
    splits, names = {}, {}
    for split, shards in sorted(plan.shards.items()):
        infos, results = [], []
        for index, keys in enumerate(shards):
            packed = PartialOutput(output).pack(keys)  # is packed; reads its description
            file = shard_file(stem_of(name, split), index, len(shards))
            infos.append(ShardInfo(file, len(keys), packed.size, packed.sha256))
            names[shard_name(keys)] = file
            results += packed.results.values()
        frames, captions = sum(r.frames for r in results), sum(r.captions for r in results)
        splits[split] = SplitInfo(len(results), frames, captions, tuple(infos))
    return splits, names


def _nothing_usable(reading: Reading, skipped: Sequence[dict[str, str]]) -> InputError:
    reasons = "; ".join(f"{entry['id']}: {entry['reason']}" for entry in skipped[:3])
    return InputError(
        f"No video of {reading.source} could be used ({len(skipped)} skipped"
        + (f": {reasons}" if reasons else "")
        + f"); {reading.hint}."
    )


def _write_missing(reading: Reading, path: Path) -> None:
    lines = [f"{split}\t{name}\n" for split, names in reading.missing.items() for name in names]
    if lines:
        with reraise_as_shard_error(f"{path} cannot be written"):
            path.write_text("".join(lines), encoding="utf-8")


def _as_json(settings: IngestSettings, reading: Reading) -> dict:
    fields = dataclasses.asdict(settings)
    del fields["name"], fields["licence"]  # fields of the manifest itself
    if counts := counts_of(reading):
        fields["dataset"] = counts
    return {**fields, "splits": dict(settings.splits)}


def _write_tokenizer(texts: dict[str, list[str]], folder: Path, settings: IngestSettings) -> int:
    """Trains it on the first split (train) or copies it; returns how many texts it truncates."""
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
