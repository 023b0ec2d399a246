"""An index in memory, with the interface of `store.Index`, and a model that embeds made texts."""

import dataclasses
from pathlib import Path

import numpy as np

from mova_jax.evaluation.frame_stream import FrameVectors
from mova_jax.search.scan import Scores
from mova_jax.search.store import SourceFile
from mova_jax.typing import TextEmbedding


@dataclasses.dataclass(frozen=True)
class MadeEntry:
    id: str
    source: str
    duration: float
    frames: int
    added: str = "2026-11-30T12:00:00+00:00"
    size: int = 1
    others: tuple[str, ...] = ()  # paths of copies

    @property
    def files(self):
        return tuple(SourceFile(path, self.size, 0) for path in (self.source, *self.others))


class MadeIndex:
    """Videos of random frame vectors; `copy_of[i] = j` gives video i nearly the frames of j."""

    def __init__(self, lengths, width, copy_of=None, seed=0):
        rng = np.random.default_rng(seed)
        self.manifest = {"model": "made"}
        self._vectors = [rng.normal(size=(n, width)).astype(np.float16) for n in lengths]
        for copy, original in (copy_of or {}).items():
            noise = rng.normal(scale=0.01, size=self._vectors[original].shape)
            self._vectors[copy] = (self._vectors[original] + noise).astype(np.float16)
        self.entries = [
            MadeEntry(f"v{i:03}", f"/films/{'ab'[i % 2]}/v{i}.mp4", float(len(v)), len(v))
            for i, v in enumerate(self._vectors)
        ]

    def get(self, id):
        return {entry.id: entry for entry in self.entries}.get(id)

    def vectors(self, id):
        return self._vectors[int(id[1:])]

    def times(self, id):
        return np.arange(len(self.vectors(id)), dtype=np.float32)

    def thumbnails(self, id) -> Path | None:
        return None


class MadeModel:
    """Embeds a text as the vector of its first word, `v3f2`: frame 2 of video 3 of the index."""

    def __init__(self, index):
        self.index = index

    def embed_text(self, text):
        texts = [text] if isinstance(text, str) else text
        places = [text.split()[0].strip(".").removeprefix("v").split("f") for text in texts]
        frames = [self.index.vectors(f"v{int(video):03}")[int(f)] for video, f in places]
        return text_of(np.stack(frames).astype(np.float32))

    image_size = 16

    def embed_frames(self, frames):
        """Frames of the grey level i are those of video i."""
        return np.concatenate([self.index.vectors(f"v{frame[0, 0, 0]:03}")[:1] for frame in frames])

    def embed_video(self, path, fps=1.0):
        vectors = self.index.vectors(path)
        return FrameVectors(vectors, np.arange(len(vectors)), float(len(vectors)))


class MadeScan:
    """Scores in NumPy: the best cosine of a video's frames with each text."""

    def __init__(self):
        self.params, self.fns = None, self

    def texts(self, index, entries, text):
        pooled = np.asarray(text.pooled)
        scores = [self._cosines(index.vectors(e.id), pooled).max(1) for e in entries]
        scores = np.array(scores, np.float32)
        return Scores(scores, np.ones_like(scores, bool))

    def vector(self, index, entries, vector):
        return self.texts(index, entries, text_of(vector[None]))

    def video(self, index, entry):
        return index.vectors(entry.id)

    def frame_cosines(self, params, video, text):
        return self._cosines(video, np.asarray(text.pooled))

    def _cosines(self, frames, texts):
        frames = np.asarray(frames, np.float32)
        frames = frames / np.linalg.norm(frames, axis=-1, keepdims=True)
        return texts / np.linalg.norm(texts, axis=-1, keepdims=True) @ frames.T


def text_of(pooled) -> TextEmbedding:
    """Texts without token states."""
    return TextEmbedding(np.zeros((len(pooled), 0, 1)), np.ones((len(pooled), 1), bool), pooled)
