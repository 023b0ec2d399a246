"""A trained model as a library: videos and texts in, vectors, scores and timelines out.

    import mova_jax

    model = mova_jax.load("runs/base")                 # or an export, or the folder of a CLIP
    video = model.embed_video("clip.mp4")              # .vectors f16[f d], .times f32[f]
    model.score(video, ["A dog jumps.", "A cat sits."])    # f32[1 2]
    model.align(video, "A dog jumps. It runs away.").scores    # f32[2 f]

Scores are those of an evaluation, by the same compiled functions.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import jax
import numpy as np
from jaxtyping import Float, Float16, UInt8

from mova_jax import config as config_lib
from mova_jax.data.pipeline.batching import settings_of
from mova_jax.data.sentences import split_sentences
from mova_jax.data.tokenizer import Tokenizer, pad_parts, pad_tokens
from mova_jax.evaluation.frame_stream import (
    FrameEncoder,
    FrameVectors,
    embed_file,
    embed_videos,
)
from mova_jax.evaluation.jitted import EvalFns, rows_of
from mova_jax.evaluation.query_ranks import record_scores
from mova_jax.evaluation.timeline import Timeline
from mova_jax.parallel import mesh as mesh_lib
from mova_jax.training.load_model import LoadedModel, load_model
from mova_jax.typing import TextEmbedding, VideoEmbedding
from mova_jax.utils.trees import parameter_names

_LENGTH = 64  # frames are padded to a multiple of this, so that few programs are compiled
# Keys that change no vector, at the values with which they are in the fingerprint.
_SPEED = {"model.remat": "none", "model.attention": "xla"}
_WEIGHT = 1.0  # of the blend, for a model that no validation has chosen one for


class VideoTextModel:
    """A model with its tokenizer, compiled as it is used; used by one thread at a time."""

    def __init__(self, loaded: LoadedModel, mesh: jax.sharding.Mesh | None = None):
        """Compiles nothing yet.

        Args:
            loaded: from `load_model`.
            mesh: to run on; by default all devices.
        """
        self.loaded, self.config = loaded, loaded.config
        mesh = mesh or mesh_lib.make_mesh()
        self.params = loaded.params_on(mesh)
        self.encoder = FrameEncoder(loaded.spec, self.params, mesh)
        self.fns = EvalFns(loaded.spec, self.config.losses, self.config.eval, mesh)
        one = dataclasses.replace(self.config.eval, batch_size=1)  # a single text needs no batch
        self._fns_of_one = EvalFns(loaded.spec, self.config.losses, one, mesh)
        self.tokenizer = Tokenizer(loaded.tokenizer, self.config.model.text.context)
        # Of the modular score in the score of record; None for a model without one.
        chosen = _WEIGHT if loaded.blend_weight is None else loaded.blend_weight
        self.weight = chosen if self.config.model.modular_scale else None

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the model's parameters and sizes: models that differ have other vectors.

        Keys at the value that does what was done before they came are left out, so that a later
        version still knows the model of an index. Keys of speed alone count with one value.
        """
        return self._fingerprint(_SPEED)

    def has_fingerprint(self, fingerprint: str) -> bool:
        """Whether a fingerprint, of this version or a former one, is that of this model."""
        return fingerprint == self.fingerprint or fingerprint in self._former_fingerprints

    @cached_property
    def _former_fingerprints(self) -> set[str]:
        """Those that name what the backward pass of the training computed again."""
        choices = config_lib.KEYS["model.remat"].choices
        return {self._fingerprint(_SPEED | {"model.remat": choice}) for choice in choices}

    def _fingerprint(self, speed: Mapping[str, str]) -> str:
        model = {
            name: value
            for name, value in (config_lib.flatten(self.config) | speed).items()
            if name.startswith("model.") and value != config_lib.KEYS[name].before
        }
        digest = hashlib.blake2b(json.dumps(model, sort_keys=True).encode(), digest_size=16)
        for name, value in sorted(parameter_names(self.loaded.params).items()):
            digest.update(name.encode() + np.asarray(value).tobytes())
        return digest.hexdigest()

    def embed_video(self, path: str | os.PathLike, fps: float = 1.0) -> FrameVectors:
        """The frame vectors of a video file, in constant memory whatever its length.

        Args:
            path: of anything that FFmpeg decodes.
            fps: frames a second.

        Returns:
            `vectors` f16[f d], not normalised; `times` f32[f] and `duration` in seconds.

        Raises:
            DecodeError: it is no video that can be decoded.
        """
        return embed_file(self.encoder, path, fps)

    @property
    def image_size(self) -> int:
        """Pixels of a side of the frames that the model reads."""
        return self.encoder.image_size

    def embed_frames(
        self, frames: Iterable[UInt8[np.ndarray, "H W 3"]]
    ) -> Float16[np.ndarray, "f d"]:
        """The vectors of the frames of one video, see `embed_video`."""
        (vectors,) = embed_videos(self.encoder, [frames])
        return vectors

    def pool(self, videos: Sequence[FrameVectors]) -> VideoEmbedding:
        """The frame vectors of videos as rows of one length, with the global vector of each."""
        longest = max(len(video.times) for video in videos)
        length = max(1, -(-longest // _LENGTH)) * _LENGTH
        dim = videos[0].vectors.shape[1]
        vectors = np.zeros((len(videos), length, dim), np.float16)
        mask = np.zeros((len(videos), length), bool)
        for row, video in enumerate(videos):
            vectors[row, : len(video.times)] = video.vectors
            mask[row, : len(video.times)] = True
        return jax.tree.map(np.asarray, self.encoder.pool(vectors, mask))

    def embed_text(self, text: str | Sequence[str]) -> TextEmbedding:
        """The embeddings of texts, each divided into its sentences if the model scores by parts.

        Args:
            text: one, or several.

        Returns:
            Rows `[c ...]`; a single text has one row.
        """
        texts = [text] if isinstance(text, str) else list(text)
        if not texts:
            raise ValueError("got no text, expected at least one")
        pad_id, most = self.tokenizer.pad_id, self.config.data.parts
        # As evaluation pads: whole captions to the context, parts to what the longest needs.
        padding = settings_of(self.config, self.config.eval.frames).padding
        ids = [self.tokenizer.encode(one).ids for one in texts]
        arrays = [*pad_tokens(ids, padding.tokens[-1:], pad_id)]
        if most:
            parts = [self.tokenizer.encode_parts(split_sentences(one), most) for one in texts]
            arrays += pad_parts(parts, padding.parts, padding.part_tokens, pad_id)
        fns = self.fns if len(texts) > 1 else self._fns_of_one
        rows, blocks = fns.rows, []
        for start in range(0, len(texts), rows):
            block = (array[start : start + rows] for array in arrays)
            blocks.append(fns.encode_text(self.params, *block))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *blocks)

    def score(
        self,
        videos: FrameVectors | Sequence[FrameVectors] | VideoEmbedding,
        texts: str | Sequence[str] | TextEmbedding,
    ) -> Float[np.ndarray, "b c"]:
        """The score of record of all videos with all texts; higher is better.

        It orders videos for a text, or texts for a video; it is no probability.

        Args:
            videos: from `embed_video`, one or several; or rows of `encoder.pool`.
            texts: as for `embed_text`, or from it.
        """
        if isinstance(videos, VideoEmbedding):
            video = videos
        else:
            video = self.pool([videos] if isinstance(videos, FrameVectors) else list(videos))
        text = texts if isinstance(texts, TextEmbedding) else self.embed_text(texts)
        block = self.fns.pair_block(len(text.pooled))
        rows = []
        for start in range(0, len(video.pooled), block[0]):
            some = rows_of(video, slice(start, start + block[0]))
            columns = []
            for first in range(0, len(text.pooled), block[1]):
                captions = rows_of(text, slice(first, first + block[1]))
                found = self.fns.pairs(self.params, some, captions, block)
                columns.append(record_scores(found, self.weight))
            rows.append(np.concatenate(columns, axis=1))
        return np.concatenate(rows)

    def align(self, video: FrameVectors, text: str) -> Timeline:
        """When each sentence of a text holds in a video.

        Args:
            video: from `embed_video`.
            text: of one or more sentences.

        Returns:
            A row for each sentence: `scores` f32[s f], its cosine with each frame (under the masks
            of the pair, if the model has any); `timestamps` f32[f] in seconds. `frames` is empty,
            and so are `windows`: nothing is known but the scores.
        """
        sentences = split_sentences(text)
        if not sentences:
            raise ValueError("got no text, expected at least one sentence")
        row, rows = self.pool([video]), self.embed_text(sentences)
        cosines = self.fns.frame_cosines(self.params, row, rows)
        size = self.config.model.vision.image_size
        return Timeline(
            video_id="",
            frames=np.zeros((0, size, size, 3), np.uint8),
            timestamps=video.times,
            sentences=tuple(sentences),
            scores=cosines[:, : len(video.times)],
            windows=(np.zeros((0, 2), np.float32),) * len(sentences),
        )


def load(path: str | os.PathLike) -> VideoTextModel:
    """Loads a model of any kind.

    Args:
        path: the workdir of a run, an export for PyTorch, or the folder of a CLIP.

    Raises:
        RunError, CheckpointError, WeightsError: what is wrong with it, and what to do.
    """
    return VideoTextModel(load_model(path))
