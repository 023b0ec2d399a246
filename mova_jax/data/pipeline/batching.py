"""From records to a batch: frames and caption chosen, caption encoded, frames decoded.

    load = LoadExample(source, tokenizer, settings)
    make = MakeBatch(source, settings, tokenizer.pad_id, settings.buckets, rows=64)
    batch = make([load(index, rng) for index in range(64)])

Grain's readers call both, on threads or in worker processes; so both can be pickled.
"""

import dataclasses
import os
from collections.abc import Sequence

import numpy as np

from mova_jax.config import Config
from mova_jax.data.images import decode_frame
from mova_jax.data.pipeline.buffers import BufferPool
from mova_jax.data.pipeline.sampling import choose_caption, choose_frames, choose_moment
from mova_jax.data.shards import ShardError, VideoRecord
from mova_jax.data.sources import ConcatSource
from mova_jax.data.tokenizer import Tokenizer, pad_tokens

ArrayDict = dict[str, np.ndarray]


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
    threads: int = 2
    worker_processes: int = 0
    prefetch: int = 4

    @property
    def buckets(self) -> tuple[int, ...]:
        """The lengths in use, ascending; the last is `max_tokens`."""
        return (*sorted(b for b in self.token_buckets if b < self.max_tokens), self.max_tokens)


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
            return Example(int(index), "", (), np.empty(0, np.float32), np.empty(0, np.int32))

    def _chosen(self, index: int, record: VideoRecord, rng: np.random.Generator | None) -> Example:
        settings = self.settings
        picked = choose_frames(record.timestamps, settings.frames, settings.frame_policy, rng)
        text = choose_caption(record, rng, settings.short_caption_share, settings.caption_policy)
        return self._example(index, record, picked, text)

    def _example(self, index: int, record: VideoRecord, picked, text: str) -> Example:
        return Example(
            index=index,
            id=record.id,
            frames=tuple(record.frames[i] for i in picked),
            timestamps=record.timestamps[picked],
            tokens=self.tokenizer.encode(text).ids,
        )


class LoadImage(LoadExample):
    """Reads a record as image-caption data: one frame, and a sentence that holds at its time."""

    def _chosen(self, index: int, record: VideoRecord, rng: np.random.Generator) -> Example:
        frame, text = choose_moment(record, rng)
        return self._example(index, record, np.array([frame]), text)


@dataclasses.dataclass(frozen=True)
class MakeBatch:
    """Decodes the frames of examples straight into the arrays of a batch.

    Attributes:
        source: of the records, for errors.
        settings: sizes.
        pad_id: token id of the padding.
        buckets: lengths to pad the tokens to.
        rows: b; fewer examples are padded with rows whose masks are all False.
        tolerant: an example with a frame that does not decode becomes such a row too, with its
            `video_id`; it has no part in losses and gradients.
        buffers: memory for the frames, reused when a batch is no longer referenced.
    """

    source: ConcatSource
    settings: PipelineSettings
    pad_id: int
    buckets: tuple[int, ...]
    rows: int
    tolerant: bool = False
    buffers: BufferPool = dataclasses.field(default_factory=BufferPool, compare=False, repr=False)

    def __call__(self, examples: Sequence[Example]) -> ArrayDict:
        settings, missing = self.settings, self.rows - len(examples)
        counts = np.array([len(example.frames) for example in examples] + [0] * missing)
        tokens, token_mask = pad_tokens(
            [example.tokens for example in examples] + [np.empty(0, np.int32)] * missing,
            self.buckets,
            self.pad_id,
        )
        batch = {
            "frames": self.buffers(
                (self.rows, settings.frames, settings.image_size, settings.image_size, 3)
            ),
            "frame_mask": np.arange(settings.frames) < counts[:, None],
            "timestamps": np.zeros((self.rows, settings.frames), np.float32),
            "tokens": tokens,
            "token_mask": token_mask,
            "video_id": np.array([e.index for e in examples] + [-1] * missing, np.int32),
        }
        batch["frames"][len(examples) :] = 0
        for row, example in enumerate(examples):
            batch["frames"][row, counts[row] :] = 0
            batch["timestamps"][row, : len(example.frames)] = example.timestamps
            try:
                self._decode(example, batch["frames"][row])
            except ShardError:
                if not self.tolerant:
                    raise
                for name in ("frames", "frame_mask", "timestamps", "token_mask"):
                    batch[name][row] = 0
        return batch

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
