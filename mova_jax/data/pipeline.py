"""From frame shards to batches of NumPy arrays, for training, evaluation and grounding.

In goes a shard folder (`shards.py`) and a tokenizer folder's `Tokenizer`, out come dicts with
exactly the fields of `mova_jax.typing.Batch`:

    dataset = train_dataset(folder, "train", tokenizer, settings, seed=0, batch_size=64)
    batches = iter(dataset)
    batch = next(batches)                 # {"frames": u8[b f H W 3], "frame_mask": bool[b f], ...}
    state = batches.get_state()           # {"next_batch": 1}, goes into the checkpoint
    batches.close()                       # stops threads and worker processes

    for batch in eval_batches(folder, "validation", tokenizer, settings, batch_size=64): ...

Training batch n is a function of (seed, n) alone. The number of threads, of worker processes and
of batches made ahead changes the speed and nothing else, and n is the whole state, so that a run
resumes exactly, also with other values of these. Over several processes, the rows of process 0, 1,
... of step n put together are the batch that one process of the whole batch size would have made.

An epoch is a new shuffle of all records, cut into whole batches: every record is in it at most
once, and all are but for the (records modulo global batch size) that end up last in that shuffle.
"""

import dataclasses
import os
from collections.abc import Iterator, Sequence

import grain
import numpy as np
from absl import flags

from mova_jax.config import Config
from mova_jax.data import shards, transforms
from mova_jax.data.tokenizer import Tokenizer
from mova_jax.data.workers import follow

ArrayDict = dict[str, np.ndarray]
# (number of its first batch, its batches at random access), one after the other.
Stages = list[tuple[int, grain.MapDataset[ArrayDict]]]


@dataclasses.dataclass(frozen=True)
class PipelineSettings:
    """How records become batches.

    Attributes:
        frames: frames of a video (f).
        image_size: side of the square frames (H = W), pixels.
        max_tokens: longest caption, tokens with start and end.
        token_buckets: lengths to which captions are padded, ascending; those of `max_tokens` and
            above stand for `max_tokens`. Each is a shape that the step is compiled for.
        short_caption_share: training only, probability of a short alternative caption.
        threads: threads that make batches, in each process; 0 makes them when they are asked for.
        worker_processes: processes that make batches; 0 leaves the work to the threads.
        prefetch: batches made ahead (each held in memory).
    """

    frames: int
    image_size: int
    max_tokens: int = 248
    token_buckets: tuple[int, ...] = (64, 128, 192, 248)
    short_caption_share: float = 0.0
    threads: int = 2
    worker_processes: int = 0
    prefetch: int = 4

    @property
    def buckets(self) -> tuple[int, ...]:
        """The lengths in use: ascending, the last one is `max_tokens`."""
        return (*sorted(b for b in self.token_buckets if b < self.max_tokens), self.max_tokens)


def settings_of(config: Config, frames: int) -> PipelineSettings:
    """The settings of a run's configuration, for so many frames a video."""
    return PipelineSettings(
        frames=frames,
        image_size=config.model.vision.image_size,
        max_tokens=config.model.text.context,
        token_buckets=config.data.token_buckets,
        short_caption_share=config.data.short_caption_share,
        threads=config.data.threads,
        worker_processes=config.data.worker_processes,
        prefetch=config.data.prefetch,
    )


@dataclasses.dataclass(frozen=True)
class Sentence:
    """A caption sentence with the time in which it holds, for grounding.

    Attributes:
        video: index of the video in its split, the `video_id` of the batches.
        text: the sentence.
        start: seconds from the start of the video.
        end: seconds from the start of the video.
        ids: token ids, i32[at most max_tokens].
    """

    video: int
    text: str
    start: float
    end: float
    ids: np.ndarray


@dataclasses.dataclass(frozen=True)
class Example:
    """A record with its choices made: which frames, which caption. Frames are still JPEG."""

    index: int
    id: str
    frames: tuple[bytes, ...]
    timestamps: np.ndarray
    tokens: np.ndarray


@dataclasses.dataclass(frozen=True)
class LoadExample:
    """Reads a record and chooses frames and caption; the random choices come from `rng`."""

    source: shards.SplitSource
    tokenizer: Tokenizer
    settings: PipelineSettings

    def __call__(self, index: int, rng: np.random.Generator | None = None) -> Example:
        index = int(index)
        record = self.source[index]
        picked = transforms.sample_frame_indices(len(record.frames), self.settings.frames, rng)
        text = transforms.choose_caption(record, rng, self.settings.short_caption_share)
        return self._example(index, record, picked, text)

    def _example(self, index: int, record: shards.VideoRecord, picked, text: str) -> Example:
        return Example(
            index=index,
            id=record.id,
            frames=tuple(record.frames[i] for i in picked),
            timestamps=record.timestamps[picked],
            tokens=self.tokenizer.encode(text).ids,
        )


class LoadImage(LoadExample):
    """Reads a record as image-caption data: a video of one frame, and a sentence that it shows."""

    def __call__(self, index: int, rng: np.random.Generator) -> Example:
        index = int(index)
        record = self.source[index]
        frame, text = transforms.choose_moment(record, rng)
        return self._example(index, record, np.array([frame]), text)


@dataclasses.dataclass(frozen=True)
class MakeBatch:
    """Decodes the frames of some examples straight into the arrays of a batch.

    Attributes:
        folder: of the shards, for errors.
        split: of the shards, for errors.
        settings: sizes.
        pad_id: token id that fills up.
        buckets: lengths to pad the tokens to.
        rows: b; fewer examples are filled up with rows whose masks are all False.
    """

    folder: str
    split: str
    settings: PipelineSettings
    pad_id: int
    buckets: tuple[int, ...]
    rows: int

    def __call__(self, examples: Sequence[Example]) -> ArrayDict:
        settings, missing = self.settings, self.rows - len(examples)
        counts = np.array([len(example.frames) for example in examples] + [0] * missing)
        tokens, token_mask = transforms.pad_tokens(
            [example.tokens for example in examples] + [np.empty(0, np.int32)] * missing,
            self.buckets,
            self.pad_id,
        )
        batch = {
            "frames": np.zeros(
                (self.rows, settings.frames, settings.image_size, settings.image_size, 3), np.uint8
            ),
            "frame_mask": np.arange(settings.frames) < counts[:, None],
            "timestamps": np.zeros((self.rows, settings.frames), np.float32),
            "tokens": tokens,
            "token_mask": token_mask,
            "video_id": np.array([e.index for e in examples] + [-1] * missing, np.int32),
        }
        for row, example in enumerate(examples):
            batch["timestamps"][row, : len(example.frames)] = example.timestamps
            self._decode(example, batch["frames"][row])
        return batch

    def _decode(self, example: Example, out: np.ndarray) -> None:
        for image, jpeg in zip(out, example.frames, strict=False):
            try:
                transforms.decode_frame(jpeg, image)
            except ValueError as error:
                raise shards.ShardError(
                    f"A frame of record {example.id!r} does not decode ({error}): record "
                    f"{example.index} of split {self.split!r}, shard {self._shard(example.index)}. "
                    "Copy the shard anew or make it again with python -m mova_jax.prepare."
                ) from error

    def _shard(self, index: int) -> str:
        manifest = shards.read_manifest(self.folder)
        for shard in manifest.splits[self.split].shards:
            if index < shard.records:
                return os.path.join(self.folder, shard.file)
            index -= shard.records
        raise IndexError(index)


class TrainDataset(grain.IterDataset[ArrayDict]):
    """Endless batches, whose iterators have the number of the next batch as their whole state.

    Attributes:
        steps_per_epoch: batches in which every record (but the remainder) is seen once.
    """

    def __init__(self, stages: Stages, steps_per_epoch: int, settings: PipelineSettings):
        """Wraps batches at random access; use `train_dataset`."""
        super().__init__()
        self.steps_per_epoch = steps_per_epoch
        self._stages = stages
        self._settings = settings

    def __iter__(self) -> "TrainIterator":
        return TrainIterator(self._stages, self._settings)


class TrainIterator(grain.DatasetIterator[ArrayDict]):
    """Iterates over a `TrainDataset`; threads and worker processes start with the first batch.

    Grain's own state depends on the number of worker processes. This one restarts Grain's readers
    at batch n of the random-access data set, which gives the same batches for any number.
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
        if any(self._next_batch == first for first, _ in self._stages):
            self.close()
        if self._reader is None:
            self._reader = iter(_read_ahead(self._ahead(), self._settings))
        batch = next(self._reader)
        self._next_batch += 1
        return batch

    def _ahead(self) -> grain.MapDataset[ArrayDict]:
        """The batches from the next one to the end of its stage, which may have none."""
        first, stage = [s for s in self._stages if s[0] <= self._next_batch][-1]
        later = [start for start, _ in self._stages if start > self._next_batch]
        return stage[self._next_batch - first : later[0] - first if later else None]

    def get_state(self) -> dict[str, int]:
        """The number of the next batch, as JSON."""
        return {"next_batch": self._next_batch}

    def set_state(self, state: dict[str, int]) -> None:
        """Goes on from a state of `get_state`."""
        self.close()
        self._next_batch = int(state["next_batch"])

    def close(self) -> None:
        """Stops threads and worker processes; the next batch starts them again."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None


def train_dataset(
    folder: str | os.PathLike,
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
    """Shuffled, jittered, endless batches of a split; see the module for what is promised.

    Args:
        folder: shard folder.
        split: its name.
        tokenizer: of captions, with the same `max_tokens` as the settings.
        settings: sizes and readers.
        seed: of shuffling and of all random choices, 0 to 2**32 - 1.
        batch_size: rows of the batches of this process; the global batch has `process_count` times
            as many.
        image_steps: number of batches at the start that are image-caption data: one frame of each
            video with a sentence that holds while it is shown.
        image_batch_size: rows of these.
        process_index: of this process.
        process_count: processes that train together. With more than one, tokens are always padded
            to `max_tokens`: a process does not know the captions of the others, and all have to
            agree on a shape.

    Returns:
        The data set; `iter(...)` has next, get_state, set_state and close.

    Raises:
        ShardError: the shards cannot be read.
        ValueError: the split is smaller than one global batch, or the seed is out of range.
    """
    source = shards.open_split(folder, split)
    buckets = settings.buckets if process_count == 1 else settings.buckets[-1:]

    def batches(load: LoadExample, rows: int) -> tuple[grain.MapDataset, int]:
        steps = len(source) // (rows * process_count)
        if not steps:
            raise ValueError(
                f"split {split!r} of {folder} has {len(source)} records, too few for a global "
                f"batch of {rows} x {process_count} processes: make the batch smaller"
            )
        make = MakeBatch(str(folder), split, load.settings, tokenizer.pad_id, buckets, rows)
        dataset = (
            grain.MapDataset.range(len(source))
            .seed(seed)
            .shuffle()
            .random_map(load)
            .batch(rows, drop_remainder=True, batch_fn=list)
            .slice(slice(process_index, steps * process_count, process_count))
            .map(make)
            .repeat()
        )
        return dataset, steps

    videos, steps = batches(LoadExample(source, tokenizer, settings), batch_size)
    stages = [(0, videos)]
    if image_steps:
        one = dataclasses.replace(settings, frames=1)
        images, _ = batches(LoadImage(source, tokenizer, one), image_batch_size)
        stages = [(0, images), (image_steps, videos)]
    return TrainDataset(stages, steps, settings)


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
        folder: shard folder.
        split: its name.
        tokenizer: of captions.
        settings: sizes and threads (worker processes are not used).
        batch_size: rows of every batch; the last one is filled up with rows of video_id -1, whose
            frame_mask and token_mask are all False.
        limit: first so many videos only, 0 for all.

    Yields:
        Batches, see the module.

    Raises:
        ShardError: the shards, or one record or frame, cannot be read.
    """
    source = shards.open_split(folder, split)
    make_batch = MakeBatch(
        str(folder), split, settings, tokenizer.pad_id, settings.buckets, batch_size
    )
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


def eval_sentences(
    folder: str | os.PathLike,
    split: str,
    tokenizer: Tokenizer,
    limit: int = 0,
    timed_only: bool = True,
) -> list[Sentence]:
    """The sentences of a split, in order.

    Args:
        folder: shard folder.
        split: its name.
        tokenizer: of captions.
        limit: sentences of the first so many videos only, 0 for all.
        timed_only: leaves out sentences without a time, whose start and end are -1.

    Raises:
        ShardError: the shards, or one record, cannot be read.
    """
    source = shards.open_split(folder, split)
    return [
        Sentence(
            video, caption.text, caption.start, caption.end, tokenizer.encode(caption.text).ids
        )
        for video in range(min(limit or len(source), len(source)))
        for caption in source[video].captions
        if caption.timed or not timed_only
    ]


def record_ids(folder: str | os.PathLike, split: str, video_ids: Sequence[int]) -> list[str]:
    """The ids of the records behind the `video_id` of a batch, for messages.

    Args:
        folder: shard folder.
        split: its name.
        video_ids: i32[b]; rows of -1, which only fill up a batch, are left out.

    Raises:
        ShardError: the shards, or one record, cannot be read.
    """
    source = shards.open_split(folder, split)
    return [source[int(index)].id for index in video_ids if index >= 0]


def _read_ahead(
    batches: grain.MapDataset[ArrayDict], settings: PipelineSettings
) -> grain.IterDataset[ArrayDict]:
    """Batches made ahead of time, in order, by threads or by worker processes."""
    threads, workers = settings.threads, settings.worker_processes
    ahead = max(settings.prefetch, threads)
    if not workers:
        return batches.to_iter_dataset(grain.ReadOptions(threads, ahead))
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()  # Grain's workers read absl flags, also in programs without
    options = grain.MultiprocessingOptions(workers, per_worker_buffer_size=max(1, ahead // workers))
    reader = batches.to_iter_dataset(grain.ReadOptions(threads, threads))
    return reader.mp_prefetch(options, worker_init_fn=_Follow(os.getpid()))


@dataclasses.dataclass(frozen=True)
class _Follow:
    """`workers.follow` in the form that Grain calls."""

    parent: int

    def __call__(self, worker_index: int, worker_count: int) -> None:
        follow(self.parent)
