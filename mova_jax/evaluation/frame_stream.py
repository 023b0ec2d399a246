"""Frame vectors of videos of any length, in constant memory: chunks through the image tower.

    encoder = FrameEncoder(spec, params, mesh)
    for vectors in embed_videos(encoder, (record.frames for record in records)):   # f16[f d]
    found = embed_file(encoder, "day.mp4", fps=1.0)      # .vectors f16[f d], .times f32[f]
    video = encoder.pool(frames[b f d], frame_mask[b f])    # a VideoEmbedding, to be scored

A frame vector zv depends on its frame alone in every model of this package: both global heads, also
the one whose transformer mixes frames, read frame vectors and make the video's one vector of them
(`Mova.encode_video`). So vectors can be made in chunks, kept, and chosen from; only `pool` must see
all frames of a choice at once.

Chunks have a fixed number of frames, so that one compiled program serves all videos, and are filled
across the borders of videos. Vectors are float16: the score of a pair changes by less than 1e-3.
While the device computes a chunk, the next one is decoded.
"""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float16, UInt8

from mova_jax.data.images import decode_frame, fit_image
from mova_jax.data.ingest.video_reader import VideoReader
from mova_jax.data.pipeline.buffers import BufferPool
from mova_jax.models.build import ModelSpec
from mova_jax.parallel import sharding
from mova_jax.typing import VideoEmbedding

CHUNK = 64  # frames at a time: about 150 MB of activations at B/16

Frame = bytes | UInt8[np.ndarray, "H W 3"]  # stored (JPEG or PPM), or pixels of any size


class FrameVectors(NamedTuple):
    """The frames of a video as vectors zv, not normalised, with their times."""

    vectors: Float16[np.ndarray, "f d"]
    times: Float[np.ndarray, "f"]  # seconds
    duration: float  # seconds
    warnings: tuple[str, ...] = ()  # of the decoder


class FrameEncoder:
    """The image tower and the global head of a model, compiled for chunks of frames."""

    def __init__(self, spec: ModelSpec, params: Any, mesh: jax.sharding.Mesh, rows: int = CHUNK):
        """Compiles nothing yet.

        Args:
            spec: of the model.
            params: of the model, on the devices of the mesh.
            mesh: to run on; a chunk is split over its devices.
            rows: frames of a chunk, rounded up to a multiple of the devices.
        """
        shards = sharding.batch_shards(mesh)
        self.rows = -(-rows // shards) * shards
        self.image_size = spec.config.vision.image_size
        self._params = params
        replicated, sharded = sharding.replicated(mesh), sharding.batch_sharding(mesh)
        inputs = sharding.state_sharding(mesh, spec.abstract_params)
        on_mesh = sharding.activation_sharding(mesh)
        compiled = partial(sharding.jit_host_arrays, output=replicated)
        self._encode = compiled(on_mesh(partial(_encode, spec)), (inputs, sharded))
        self._pool = compiled(partial(_pool, spec), (inputs, replicated, replicated))

    def __call__(self, frames: UInt8[np.ndarray, "n H W 3"]) -> Float[jax.Array, "n d"]:
        """The vectors of a chunk of `rows` frames of the model's size; does not wait for them."""
        return self._encode(self._params, frames)

    def pool(
        self, vectors: Float[np.ndarray, "b f d"], frame_mask: Bool[np.ndarray, "b f"]
    ) -> VideoEmbedding:
        """Videos made of frame vectors; compiled for each shape.

        Args:
            vectors: zv, any float type; at padded frames any finite values.
            frame_mask: valid frames.
        """
        return self._pool(self._params, vectors, frame_mask)


def _encode(spec: ModelSpec, params, frames):
    return spec.model(params).vision(frames)


def _pool(spec: ModelSpec, params, vectors, frame_mask) -> VideoEmbedding:
    frames = jnp.where(frame_mask[..., None], vectors.astype(jnp.float32), 0.0)
    return VideoEmbedding(frames, frame_mask, spec.model(params).head(frames, frame_mask))


def embed_videos(
    encoder: FrameEncoder, videos: Iterable[Iterable[Frame]]
) -> Iterator[Float16[np.ndarray, "f d"]]:
    """The frame vectors of videos, in order.

    Args:
        encoder: of the model.
        videos: the frames of each, read one after the other and never kept. Frames of another size
            are resized to the model's by their short side and cut to the centre square.

    Yields:
        The vectors of each video; `[0 d]` for one without frames.

    Raises:
        ValueError: a stored frame does not decode.
        FloatingPointError: a vector is not finite, or too large for float16.
    """
    begun: list[np.ndarray] = []
    for vectors, segments in _encoded(encoder, videos):
        start = 0
        for count, ends in segments:
            begun.append(vectors[start : start + count])
            start += count
            if ends:
                yield np.concatenate(begun)
                begun = []


# The number of frames that each video has in a chunk, in order, and whether it ends there.
_Segments = list[tuple[int, bool]]


def _encoded(encoder, videos) -> Iterator[tuple[np.ndarray, _Segments]]:
    """The vectors of each chunk; one chunk is with the device while the next is filled."""
    waiting: deque = deque()
    for frames, segments in _chunks(encoder, videos):
        waiting.append((encoder(frames), segments))
        if len(waiting) > 1:
            vectors, before = waiting.popleft()
            yield _half(vectors), before
    for vectors, segments in waiting:
        yield _half(vectors), segments


def _chunks(encoder, videos) -> Iterator[tuple[np.ndarray, _Segments]]:
    """Chunks of frames with their segments; the last one is filled up with zeros."""
    buffers, shape = BufferPool(), (encoder.rows, encoder.image_size, encoder.image_size, 3)
    frames, filled = buffers(shape), 0
    segments: _Segments = []
    for video in videos:
        count = 0
        for frame in video:
            put = decode_frame if isinstance(frame, bytes) else fit_image
            put(frame, frames[filled])
            filled, count = filled + 1, count + 1
            if filled == encoder.rows:
                yield frames, [*segments, (count, False)]
                frames, filled, segments, count = buffers(shape), 0, [], 0
        segments.append((count, True))
    if segments:
        frames[filled:] = 0
        yield frames, segments


def _half(vectors: jax.Array) -> np.ndarray:
    with np.errstate(over="ignore"):
        half = np.asarray(vectors).astype(np.float16)
    if not np.isfinite(half).all():
        worst = float(np.abs(np.asarray(vectors)).max())
        raise FloatingPointError(
            f"a frame vector has the value {worst:g}, expected finite ones up to 65504, which "
            "float16 holds: look for weights that are not finite"
        )
    return half


def embed_file(encoder: FrameEncoder, path: str | os.PathLike, fps: float = 1.0) -> FrameVectors:
    """The frame vectors of a video file, decoded and encoded chunk by chunk.

    Args:
        encoder: of the model.
        path: of anything that FFmpeg decodes.
        fps: frames a second.

    Raises:
        DecodeError: it is no video that can be decoded.
        FloatingPointError: see `embed_videos`.
    """
    reader = VideoReader(path, fps, encoder.image_size)
    (vectors,) = embed_videos(encoder, [reader])
    times = np.arange(len(vectors), dtype=np.float32) / np.float32(fps)
    return FrameVectors(vectors, times, reader.duration, tuple(reader.warnings))
