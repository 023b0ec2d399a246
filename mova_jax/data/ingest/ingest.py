"""A folder of videos with annotations to frame shards: what `python -m mova_jax.prepare` does.

In:  captions.jsonl, or what `annotations.registry.read_dataset` made of a data set's own files.
Out: shards of every split, `tokenizer/`, the manifest with all that was skipped and why, and
     `missing.txt`, where a data set names videos that were not found:

    manifest = ingest("clips/captions.jsonl", "shards", IngestSettings(fps=1.0), workers=4)
    manifest = ingest(read_dataset("msvd", "captions", "videos"), "shards", IngestSettings())

The output is the same, byte for byte, for any number of workers, under Beam, and however often it
was stopped on the way: every video becomes a record of its own (`tasks.py`), records are packed to
shards in the order of the items (`unfinished.py`), and all gets its name at the end (`output.py`).
Until then it is in `.partial` of the output folder, from where the next call goes on.
"""

import collections
import contextlib
import dataclasses
import functools
import math
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
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
_AHEAD = 64  # items a worker may be before the one that is waited for: results are small


@dataclasses.dataclass(frozen=True)
class IngestSettings:
    """What is asked of `ingest`.

    Attributes:
        fps: frames a second.
        short_side: of the stored frames, pixels; 0 keeps the videos' own size.
        codec: how frames are stored, a key of `images.CODECS`.
        splits: share of each split, for videos that name none.
        vocab_size: of the tokenizer that is learned.
        tokenizer: folder of a pretrained CLIP tokenizer to use instead, or ''.
        max_tokens: longer captions are counted in the manifest.
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
        """Finds settings that cannot work before any video is read.

        Raises:
            InputError: names the setting, what it is and what it must be.
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
        annotations: the JSONL, in whose folder the videos lie; or a data set that was read.
        folder: of the shards, a path or a URL; made when absent, must be empty but for what an
            earlier call left unfinished.
        settings: what is asked for.
        workers: processes that decode, 0 or 1 for none beside this one.
        progress: whether to show a bar on stderr.
        beam: options of an Apache Beam pipeline that decodes in place of the workers.

    Returns:
        The manifest, as it is in the folder.

    Raises:
        InputError: on settings or annotations of which nothing can be made.
        ShardError: when the folder is in use or cannot be written. What was done stays in its
            `.partial`, and the next call goes on from there.
    """
    settings.check()
    reading = annotations if isinstance(annotations, Reading) else _read_jsonl(annotations)
    if not reading.items:  # before anything is touched: the videos may just not be mounted
        raise _nothing_usable(reading, reading.skipped)
    items = assign_splits(reading.items, settings.splits)
    form = DecodeOptions(settings.fps, settings.short_side, settings.codec)
    with open_output(os.fspath(folder)) as output:
        partial = PartialOutput(output)
        tasks = tasks_of(items, form)
        with reraise_as_shard_error(f"{folder} cannot be written"):
            known = partial.restore([(task.item.split, task.key) for task in tasks])
        if known and progress:
            print(f"{len(known):,} of {len(tasks):,} videos are done already.", file=sys.stderr)
        if beam:
            from mova_jax.data.ingest.beam import (
                decode_and_pack,  # only those who ask for it have it
            )

            outcomes, plan = decode_and_pack(tasks, known, output, form, beam)
        else:
            work = functools.partial(run_task, partial=partial, form=form)
            outcomes, plan = _decode_and_pack(tasks, known, partial, work, workers, progress)
        pairs = [(task.item, outcomes[task.key]) for task in tasks]
        return _finish(output, reading, settings, pairs, outcomes, plan)


def _read_jsonl(path: str | os.PathLike) -> Reading:
    with contextlib.ExitStack() as stack:
        try:
            local = stack.enter_context(storage.local_file(path))
        except FileNotFoundError as error:
            raise InputError(f"There is no file {path}.") from error
        folder = os.fspath(path).rpartition("/")[0] if storage.is_url(path) else None
        items, skipped = read_annotations(local, folder)
    hint = 'the lines must look like {"video": "a.mp4", "caption": "A cat sits."}'
    return Reading(items, skipped, source=str(path), hint=hint)


def _decode_and_pack(tasks: Sequence[Task], known, partial: PartialOutput, work, workers, progress):
    """Makes all records and shards; returns what became of each key, and the plan of the shards."""
    plan = ShardPlan()
    outcomes: dict[str, ItemResult] = {}
    todo = [task for task in tasks if task.key not in known]
    new = decode_all(todo, work, workers, died=ItemResult(reason=DIED), ahead=_AHEAD)
    bar = bar_of("videos", len(tasks), disable=not progress, initial=len(tasks) - len(todo))
    with contextlib.closing(new), bar:
        for task in tasks:
            result = known.get(task.key)
            if result is None:
                _, result = next(new)
                show_frames(bar, result.frames)
            outcomes[task.key] = result
            if result.size and (full := plan.add(task.item.split, task.key, result.size)):
                partial.pack(full)
        for keys in plan.open_shards().values():
            partial.pack(keys)
    return outcomes, plan


def _finish(output, reading: Reading, settings: IngestSettings, pairs, outcomes, plan) -> Manifest:
    """Tokenizer, list of what is missing, manifest; and all get their names."""
    skipped = list(reading.skipped)
    warnings = []
    texts = collections.defaultdict(list)
    for item, result in pairs:
        if not result.size:
            skipped.append({"id": item.id, "reason": result.reason})
            continue
        texts[item.split] += result.texts
        warnings += [{"id": item.id, "reason": note} for note in result.warnings]
    if not plan.shards:
        if not PartialOutput(output).has_records():  # of another command
            discard(output)
        raise _nothing_usable(reading, skipped)
    names, splits = {}, {}
    for split in sorted(plan.shards):
        infos = []
        stem = stem_of(settings.name, split)
        for index, keys in enumerate(plan.shards[split]):
            packed = PartialOutput(output).pack(keys)  # it is, this says how
            file = shard_file(stem, index, len(plan.shards[split]))
            infos.append(ShardInfo(file, len(keys), packed.size, packed.sha256))
            names[shard_name(keys)] = file
        splits[split] = _split_info(
            [outcomes[key] for keys in plan.shards[split] for key in keys], infos
        )
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


def _nothing_usable(reading: Reading, skipped: Sequence[dict[str, str]]) -> InputError:
    reasons = "; ".join(f"{entry['id']}: {entry['reason']}" for entry in skipped[:3])
    return InputError(
        f"No video of {reading.source} could be used ({len(skipped)} skipped"
        + (f": {reasons}" if reasons else "")
        + f"); {reading.hint}."
    )


def _split_info(outcomes: Iterable[ItemResult], shards: list[ShardInfo]) -> SplitInfo:
    frames, captions = zip(*((o.frames, o.captions) for o in outcomes), strict=True)
    return SplitInfo(len(frames), sum(frames), sum(captions), tuple(shards))


def _write_missing(reading: Reading, path: Path) -> None:
    lines = [f"{split}\t{name}\n" for split, names in reading.missing.items() for name in names]
    if lines:
        with reraise_as_shard_error(f"{path} cannot be written"):
            path.write_text("".join(lines), encoding="utf-8")


def _as_json(settings: IngestSettings, reading: Reading) -> dict:
    fields = dataclasses.asdict(settings)
    del fields["name"], fields["licence"]  # they have their own places
    if counts := counts_of(reading):
        fields["dataset"] = counts
    return {**fields, "splits": dict(settings.splits)}


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
