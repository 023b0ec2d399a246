"""From sources of records to batches of NumPy arrays, for training, evaluation and grounding.

In:  the name of a source (`data/sources.py`: a shard folder, a TFDS data set), and a `Tokenizer`.
Out: dicts with the fields of `mova_jax.typing.Batch`:

    dataset = train_dataset(folder, "train", tokenizer, settings, seed=0, batch_size=64)
    batches = iter(dataset)
    batch = next(batches)                 # {"frames": u8[b f H W 3], "frame_mask": bool[b f], ...}
    state = batches.get_state()           # {"next_batch": 1}, goes into the checkpoint
    batches.close()                       # stops threads and worker processes

    for batch in eval_batches(folder, "validation", tokenizer, settings, batch_size=64): ...

Training batch n is a function of (seed, n) and of the global batch size. The number of processes,
threads and worker processes changes the speed and nothing else. So n is the whole state, and a run
resumes exactly, also on another number of processes. The rows of all processes at step n,
concatenated, are the batch that one process would have made.

Every record is seen exactly once in each epoch, and never twice in a batch; see `order.py`. In
training, a damaged record becomes a row whose masks are all False; an evaluation stops at it, for
metrics of a smaller gallery cannot be compared.
"""

import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence

import grain
from absl import flags

from mova_jax.data.pipeline.batching import (
    ArrayDict,
    LoadExample,
    LoadImage,
    MakeBatch,
    Padding,
    PipelineSettings,
)
from mova_jax.data.pipeline.order import Order, WeightedInterleave
from mova_jax.data.pipeline.queries import eval_captions
from mova_jax.data.shards import ShardError
from mova_jax.data.sources import ConcatSource, open_source, splits_of
from mova_jax.data.tokenizer import Tokenizer, bucket_length
from mova_jax.data.worker_pool import exit_with_parent

# (number of the stage's first batch, its batches at random access), in order.
Stages = list[tuple[int, grain.MapDataset[ArrayDict]]]
# (name of a source, weight) of each part.
Mixture = Sequence[tuple[str | os.PathLike, float]]
_ENDLESS = 2**48  # examples


class TrainDataset(grain.IterDataset[ArrayDict]):
    """Endless batches, whose iterators have the number of the next batch as their whole state."""

    def __init__(self, source: ConcatSource, stages: Stages, settings: PipelineSettings):
        """Wraps batches at random access; use `train_dataset`."""
        super().__init__()
        self._source, self._stages, self._settings = source, stages, settings

    def record_ids(self, video_ids: Sequence[int]) -> list[str]:
        """The ids of the records behind the `video_id` of a batch, for messages.

        Args:
            video_ids: i32[b]; the -1 of padding rows are left out.
        """
        names = []
        for index in (index for index in video_ids if index >= 0):
            try:
                names.append(self._source[int(index)].id)
            except ShardError:
                names.append(f"{self.place_of(index)} (damaged)")
        return names

    def place_of(self, video_id: int) -> str:
        """The number and the source of the record behind a `video_id`."""
        source, index = self._source.locate(int(video_id))
        return f"record {index} of {source!r}"

    def __iter__(self) -> "TrainIterator":
        return TrainIterator(self._stages, self._settings)


class TrainIterator(grain.DatasetIterator[ArrayDict]):
    """Iterates over a `TrainDataset`; `start_prefetch` or the first batch starts its readers.

    Grain's own state depends on the number of worker processes. This class restarts Grain's readers
    at batch n of the random-access data set instead, which works for any number of them.
    """

    def __init__(self, stages: Stages, settings: PipelineSettings):
        """Starts at batch 0; use `iter(dataset)`."""
        super().__init__()
        self._stages = stages
        self._settings = settings
        self._next_batch = 0
        self._reader: grain.DatasetIterator[ArrayDict] | None = None

    def __next__(self) -> ArrayDict:
        """Returns the next batch.

        Raises:
            ShardError: when a record cannot be read or decoded; names record and shard.
        """
        self.start_prefetch()
        batch = next(self._reader)
        self._next_batch += 1
        if any(self._next_batch == first for first, _ in self._stages):
            self.close()  # the readers are at the end of their stage
        return batch

    def start_prefetch(self) -> None:
        """Starts to read ahead."""
        if self._reader is None:
            self._reader = iter(_read_ahead(self._ahead(), self._settings))
            self._reader.start_prefetch()

    def _ahead(self) -> grain.MapDataset[ArrayDict]:
        """The batches from the next one to the end of its stage; the last stage is endless."""
        first, stage = [s for s in self._stages if s[0] <= self._next_batch][-1]
        later = [start for start, _ in self._stages if start > self._next_batch]
        return stage[self._next_batch - first : later[0] - first if later else None]

    def get_state(self) -> dict[str, int]:
        """The number of the next batch, as JSON."""
        return {"next_batch": self._next_batch}

    def set_state(self, state: dict[str, int]) -> None:
        """Continues from a state of `get_state`, of a data set with the same global batch size."""
        self.close()
        self._next_batch = int(state["next_batch"])

    def close(self) -> None:
        """Stops threads and worker processes; the next batch starts them again."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def train_dataset(
    name: str | os.PathLike | Mixture,
    split: str,
    tokenizer: Tokenizer,
    settings: PipelineSettings,
    *,
    seed: int,
    batch_size: int,
    image_steps: int = 0,
    image_batch_size: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> TrainDataset:
    """Shuffled, endless batches of a split; see the module for their guarantees.

    Args:
        name: of the source; or a mixture, (name, weight) of each source. Each source goes through
            epochs of its own, and has a share of every batch by its weight. `video_id` counts their
            records in this order.
        split: its name.
        tokenizer: of captions, with the same `max_tokens` as the settings.
        settings: sizes, policies and readers.
        seed: of shuffling and of all random choices, 0 to 2**32 - 1.
        batch_size: rows of a batch on this process; the global batch has `process_count` times as
            many.
        image_steps: the first batches, which are image-caption data: one frame of each video with a
            sentence that holds at its time.
        image_batch_size: rows of these.
        process_index: of this process.
        process_count: processes that train together. With more than one, there is one shape,
            `settings.padding.largest`, for a process does not know the captions of the others.

    Returns:
        The data set; `iter(...)` has next, get_state, set_state and close.

    Raises:
        ShardError: a source cannot be read.
        ValueError: a source has fewer records than a global batch takes of it, or the seed is out
            of range.
    """
    mixture = [(name, 1)] if isinstance(name, str | os.PathLike) else name
    weights = [weight for _, weight in mixture]
    source = ConcatSource([open_source(each, split) for each, _ in mixture])
    padding = settings.padding if process_count == 1 else settings.padding.largest

    def batches(load: LoadExample, rows: int) -> grain.MapDataset:
        total = rows * process_count
        _check_enough(source, weights, total)
        order = Order(list(map(len, source.sources)), weights=weights, batch=total, seed=seed)
        make = MakeBatch(source, load.settings, tokenizer.pad_id, padding, rows, tolerant=True)
        return (
            grain.MapDataset.range(_ENDLESS)
            .seed(seed)
            .map(order)
            .random_map(load)
            .batch(rows, drop_remainder=True, batch_fn=list)
            .slice(slice(process_index, None, process_count))
            .map(make)
        )

    load = LoadExample(source, tokenizer, settings, tolerant=True)
    videos = batches(load, batch_size)
    stages = [(0, videos)]
    if image_steps:
        one_frame = dataclasses.replace(settings, frames=1)
        load = LoadImage(source, tokenizer, one_frame, tolerant=True)
        images = batches(load, image_batch_size)
        stages = [(0, images), (image_steps, videos)]
    return TrainDataset(source, stages, settings)


def can_fill(mixture: Mixture, split: str, batch: int) -> bool:
    """Whether each source has enough records for its share of a global batch.

    Raises:
        ShardError: a source is not there.
    """
    max_in_window = WeightedInterleave([weight for _, weight in mixture]).max_in_window(batch)
    counts = [splits_of(name).get(split, 0) for name, _ in mixture]
    return all(count >= needed for count, needed in zip(counts, max_in_window, strict=True))


def _check_enough(source: ConcatSource, weights: Sequence[float], batch: int) -> None:
    """A batch cannot hold a record twice, so each source needs its share of a batch in records."""
    for part, max_in_window in zip(
        source.sources, WeightedInterleave(weights).max_in_window(batch), strict=True
    ):
        if len(part) < max_in_window:
            raise ValueError(
                f"{part!r} has {len(part)} records, too few for a global batch of {batch}, which "
                f"takes {max_in_window} of it: lower train.batch_size, or give it more videos"
            )


def eval_batches(
    folder: str | os.PathLike,
    split: str,
    tokenizer: Tokenizer,
    settings: PipelineSettings,
    batch_size: int,
    limit: int = 0,
) -> Iterator[ArrayDict]:
    """The records of a split in order, with even frames and whole captions.

    Args:
        folder: shard folder, or another source.
        split: its name.
        tokenizer: of captions.
        settings: sizes and threads (worker processes are not used).
        batch_size: rows of every batch; the last one is padded with rows of video_id -1, whose
            frame_mask and token_mask are all False.
        limit: number of videos, from the first; 0 for all.

    Yields:
        Batches as the module describes them; all have the same number and length of parts,
        which hold those of the whole split.

    Raises:
        ShardError: the source, or one record or frame, cannot be read.
    """
    source = ConcatSource([open_source(folder, split)])
    padding = settings.padding
    if settings.parts:
        captions = eval_captions(folder, split, tokenizer, limit, parts=settings.parts)
        parts = bucket_length(captions.most_parts, padding.parts)
        length = bucket_length(captions.longest_part, padding.part_tokens)
        padding = Padding(padding.tokens, (parts,), (length,))
    make_batch = MakeBatch(source, settings, tokenizer.pad_id, padding, batch_size)
    batches = (
        grain.MapDataset.range(min(limit or len(source), len(source)))
        .map(LoadExample(source, tokenizer, settings))
        .batch(batch_size, batch_fn=list)
        .map(make_batch)
    )
    reader = iter(_read_ahead(batches, dataclasses.replace(settings, worker_processes=0)))
    try:
        yield from reader
    finally:
        reader.close()


def record_ids(folder: str | os.PathLike, split: str, video_ids: Sequence[int]) -> list[str]:
    """The ids of the records behind the `video_id` of a batch, for messages.

    Args:
        folder: shard folder, or another source.
        split: its name.
        video_ids: i32[b]; the -1 of padding rows are left out.

    Raises:
        ShardError: the source, or one record, cannot be read.
    """
    source = open_source(folder, split)
    return [source[int(index)].id for index in video_ids if index >= 0]


def _read_ahead(
    batches: grain.MapDataset[ArrayDict], settings: PipelineSettings
) -> grain.IterDataset[ArrayDict]:
    """Batches read ahead, in order, by threads or worker processes."""
    threads, workers = settings.threads, settings.worker_processes
    ahead = max(settings.prefetch, threads)
    if not workers:
        return batches.to_iter_dataset(grain.ReadOptions(threads, ahead))
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain's workers read absl flags, also in programs without
    options = grain.MultiprocessingOptions(workers, per_worker_buffer_size=max(1, ahead // workers))
    reader = batches.to_iter_dataset(grain.ReadOptions(threads, threads))
    return reader.mp_prefetch(
        options, worker_init_fn=functools.partial(exit_with_parent, os.getpid())
    )
