"""From records to a batch: frames and caption chosen, caption encoded, frames decoded.

    load = LoadExample(source, tokenizer, settings)
    make = MakeBatch(source, settings, tokenizer.pad_id, settings.padding, rows=64)
    batch = make([load(index, rng) for index in range(64)])

Grain's readers call both, on threads or in worker processes; so both can be pickled.
"""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from mova_jax.config import Config
from mova_jax.data.images import decode_frame
from mova_jax.data.pipeline.buffers import BufferPool
from mova_jax.data.pipeline.sampling import (
    ChosenCaption,
    choose_caption,
    choose_frames,
    choose_moment,
)
from mova_jax.data.shards import ShardError, VideoRecord
from mova_jax.data.sources import ConcatSource
from mova_jax.data.tokenizer import PART_TOKENS, Tokenizer, pad_parts, pad_tokens

ArrayDict = dict[str, np.ndarray]
# Numbers and lengths of parts to pad to, beside `token_buckets`. They are few, because the step is
# compiled for each combination. 40 holds the longest sentences of Storyboard, which have 39 tokens.
_PART_COUNTS = (1, 2, 4, 6, 8)
_PART_BUCKETS = (16, 24, 40)


class Padding(NamedTuple):
    """The sizes that texts may be padded to, ascending; each combination is a shape to compile."""

    tokens: tuple[int, ...]  # l
    parts: tuple[int, ...] = ()  # p; empty without parts
    part_tokens: tuple[int, ...] = ()  # t

    @property
    def largest(self) -> "Padding":
        """The largest of each alone, so that there is one shape."""
        return Padding(*(sizes[-1:] for sizes in self))


@dataclasses.dataclass(frozen=True)
class PipelineSettings:
    """Settings of the pipeline.

    Attributes:
        frames: frames of a video (f).
        image_size: side of the square frames (H = W), pixels.
        max_tokens: longest caption, tokens with start and end.
        token_buckets: lengths to which captions are padded, ascending; those above `max_tokens`
            count as `max_tokens`. Each is a shape for which the step is compiled.
        short_caption_share: training only, probability of a short alternative caption.
        caption_policy: training only, see `sampling.choose_caption`.
        frame_policy: training only, see `sampling.choose_frames`.
        parts: most parts of a caption, see `Tokenizer.encode_parts`; 0 for batches without parts.
        threads: threads that make batches, in each process; with 0 the caller makes them.
        worker_processes: processes that make batches; 0 for none, only threads.
        prefetch: batches made ahead (each held in memory).
    """

    frames: int
    image_size: int
    max_tokens: int = 248
    token_buckets: tuple[int, ...] = (64, 128, 192, 248)
    short_caption_share: float = 0.0
    caption_policy: str = "all"
    frame_policy: str = "jittered"
    parts: int = 0
    threads: int = 2
    worker_processes: int = 0
    prefetch: int = 4

    @property
    def buckets(self) -> tuple[int, ...]:
        """The lengths in use, ascending; the last is `max_tokens`."""
        return _up_to(self.token_buckets, self.max_tokens)

    @property
    def padding(self) -> Padding:
        """All sizes that texts of a batch are padded to."""
        if not self.parts:
            return Padding(self.buckets)
        counts = {*_PART_COUNTS, *range(8, self.parts, 4)}
        longest = min(PART_TOKENS, self.max_tokens)
        parts, lengths = _up_to(counts, self.parts), _up_to(_PART_BUCKETS, longest)
        return Padding(self.buckets, parts, lengths)


def _up_to(sizes: Iterable[int], last: int) -> tuple[int, ...]:
    """Those of some sizes that are below the last, ascending, and the last."""
    return (*sorted(size for size in sizes if size < last), last)


def settings_of(config: Config, frames: int) -> PipelineSettings:
    """The settings of a config, for `frames` frames a video."""
    return PipelineSettings(
        frames=frames,
        image_size=config.model.vision.image_size,
        max_tokens=config.model.text.context,
        token_buckets=config.data.token_buckets,
        short_caption_share=config.data.short_caption_share,
        caption_policy=config.data.caption_policy,
        frame_policy=config.data.frame_policy,
        parts=config.data.parts,
        # More than are read ahead would hold more batches; beyond that, use worker processes.
        threads=min(PipelineSettings.prefetch, max(2, (os.cpu_count() or 2) // 2)),
        worker_processes=config.data.worker_processes,
    )


@dataclasses.dataclass(frozen=True)
class Example:
    """The chosen frames and caption of a record; the frames are not decoded yet."""

    index: int
    id: str
    frames: tuple[bytes, ...]
    timestamps: np.ndarray
    tokens: np.ndarray
    parts: tuple[np.ndarray, ...] = ()  # ids of each part of the caption


_EMPTY = Example(-1, "", (), np.empty(0, np.float32), np.empty(0, np.int32))


@dataclasses.dataclass(frozen=True)
class LoadExample:
    """Reads a record and chooses frames and caption; the random choices come from `rng`."""

    source: Sequence[VideoRecord]
    tokenizer: Tokenizer
    settings: PipelineSettings
    tolerant: bool = False  # a record that cannot be read becomes an empty example

    def __call__(self, index: int, rng: np.random.Generator | None = None) -> Example:
        try:
            # Both may raise: frames of a TFDS data set are read when they are chosen.
            return self._chosen(int(index), self.source[int(index)], rng)
        except ShardError:
            if not self.tolerant:
                raise
            return dataclasses.replace(_EMPTY, index=int(index))

    def _chosen(self, index: int, record: VideoRecord, rng: np.random.Generator | None) -> Example:
        settings = self.settings
        picked = choose_frames(record.timestamps, settings.frames, settings.frame_policy, rng)
        caption = choose_caption(record, rng, settings.short_caption_share, settings.caption_policy)
        return self._example(index, record, picked, caption)

    def _example(self, index: int, record: VideoRecord, picked, caption: ChosenCaption) -> Example:
        return Example(
            index=index,
            id=record.id,
            frames=tuple(record.frames[i] for i in picked),
            timestamps=record.timestamps[picked],
            tokens=self.tokenizer.encode(caption.text).ids,
            parts=self.tokenizer.encode_parts(caption.sentences, self.settings.parts),
        )


class LoadImage(LoadExample):
    """Reads a record as image-caption data: one frame, and a sentence that holds at its time."""

    def _chosen(self, index: int, record: VideoRecord, rng: np.random.Generator) -> Example:
        frame, caption = choose_moment(record, rng)
        return self._example(index, record, np.array([frame]), caption)


@dataclasses.dataclass(frozen=True)
class MakeBatch:
    """Decodes the frames of examples straight into the arrays of a batch.

    Attributes:
        source: of the records, for errors.
        settings: sizes.
        pad_id: token id of the padding.
        padding: sizes to pad the texts to; without sizes for parts, the batch has no parts.
        rows: b; fewer examples are padded with rows whose masks are all False.
        tolerant: an example with a frame that does not decode becomes such a row too, with its
            `video_id`; it has no part in losses and gradients.
        buffers: memory for the frames, reused when a batch is no longer referenced.
    """

    source: ConcatSource
    settings: PipelineSettings
    pad_id: int
    padding: Padding
    rows: int
    tolerant: bool = False
    buffers: BufferPool = dataclasses.field(default_factory=BufferPool, compare=False, repr=False)

    def __call__(self, examples: Sequence[Example]) -> ArrayDict:
        settings = self.settings
        rows = [*examples, *[_EMPTY] * (self.rows - len(examples))]
        counts = np.array([len(example.frames) for example in rows])
        batch = {
            "frames": self.buffers(
                (self.rows, settings.frames, settings.image_size, settings.image_size, 3)
            ),
            "frame_mask": np.arange(settings.frames) < counts[:, None],
            "timestamps": np.zeros((self.rows, settings.frames), np.float32),
            "video_id": np.array([example.index for example in rows], np.int32),
            **self._texts(rows),
        }
        for row, example in enumerate(rows):
            batch["frames"][row, counts[row] :] = 0
            batch["timestamps"][row, : counts[row]] = example.timestamps
            try:
                self._decode(example, batch["frames"][row])
            except ShardError:
                if not self.tolerant:
                    raise
                for name in batch.keys() - {"video_id", "tokens", "part_tokens"}:
                    batch[name][row] = 0
        return batch

    def _texts(self, rows: Sequence[Example]) -> ArrayDict:
        """The fields of captions, and of their parts if these are wanted."""
        lengths, counts, part_lengths = self.padding
        ids, parts = [row.tokens for row in rows], [row.parts for row in rows]
        tokens, mask = pad_tokens(ids, lengths, self.pad_id)
        texts = {"tokens": tokens, "token_mask": mask}
        if counts:
            tokens, mask = pad_parts(parts, counts, part_lengths, self.pad_id)
            texts |= {"part_tokens": tokens, "part_token_mask": mask}
        return texts

    def _decode(self, example: Example, out: np.ndarray) -> None:
        for image, data in zip(out, example.frames, strict=False):
            try:
                decode_frame(data, image)
            except ValueError as error:
                source, index = self.source.locate(example.index)
                raise ShardError(
                    f"A frame of record {example.id!r} does not decode ({error}): record {index} "
                    f"of {source!r}. Copy the data again or make them again; python -m "
                    "mova_jax.prepare inspect SHARDS --verify names all that is damaged in a "
                    "folder."
                ) from error
