"""A model as MTEB asks it: the score of each pair, or one vector of each video and text.

    import mteb, mova_jax
    from mova_jax.suites.mteb import PairSearch, GlobalEncoder       # requirements-mteb.txt

    model = PairSearch(mova_jax.load("runs/base"))       # retrieval, by the score of record
    model = GlobalEncoder(mova_jax.load("runs/base"))    # every task, by the global vector
    mteb.evaluate(model, mteb.get_tasks(["MSVDT2VRetrieval"]))

MTEB decodes the videos with torchcodec. Frames are spread evenly from the first to the last one, as
many as the model is evaluated with.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from mteb._create_dataloaders import create_dataloader
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.modality_collators import FramesCollator
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.types import PromptType

from mova_jax.data.images import fit_image
from mova_jax.evaluation.frame_stream import FrameVectors, embed_videos
from mova_jax.search.library import VideoTextModel
from mova_jax.typing import VideoEmbedding
from mova_jax.utils.progress_bar import bar_of
from mova_jax.utils.trees import parameter_names

TEXTS = 256  # embedded and scored at a time


class _Asked:
    """A model with the frames that it reads of each video."""

    def __init__(self, model: VideoTextModel, frames: int = 0):
        """Computes nothing yet.

        Args:
            model: from `mova_jax.load`.
            frames: of a video at most; 0 for as many as in the model's own evaluation.
        """
        self.model, self.frames = model, frames or model.config.eval.frames

    def _read(self, loader: Any, show_progress: bool = True) -> VideoEmbedding | list[str]:
        """All inputs of a loader of MTEB's: videos as they are embedded, or texts as they are.

        Raises:
            ValueError: an input is neither a video nor a text, or both.
        """
        encoder = self.model.encoder
        loader.collate_fn = _FittingFrames(loader.collate_fn, self.frames, encoder.image_size)
        total = len(loader.dataset)
        bar = bar_of("MTEB", total, disable=not show_progress, unit="input", delay=2.0)
        texts: list[str] = []

        def videos() -> Iterator[np.ndarray]:
            for batch in loader:
                given = [name for name in ("text", "image", "audio", "video") if name in batch]
                if given not in (["text"], ["video"]):
                    raise ValueError(f"got inputs of {given}, expected videos or texts")
                rows = batch[given[0]]
                texts.extend(rows if given == ["text"] else [])
                yield from rows if given == ["video"] else []
                bar.update(len(rows))

        with bar:
            found = [
                FrameVectors(rows, np.arange(len(rows), dtype=np.float32), float(len(rows)))
                for rows in embed_videos(encoder, videos())
            ]
        return self.model.pool(found) if found else texts

    def _meta(self, suffix: str, **fields: Any) -> ModelMeta:
        model, config = self.model, self.model.config.model
        params = parameter_names(model.loaded.params).values()
        return ModelMeta.create_empty(
            {
                # MTEB keeps results by name and revision.
                "name": f"mova_jax/{model.loaded.path.name}-{suffix}",
                "revision": f"{model.fingerprint}-{self.frames}-frames",
                "languages": ["eng-Latn"],
                "n_parameters": sum(np.size(value) for value in params),
                "max_tokens": config.text.context,
                "embed_dim": config.embed_dim,
                "framework": ["JAX"],
                "modalities": ["video", "text"],
                **fields,
            }
        )


class GlobalEncoder(_Asked, AbsEncoder):
    """MTEB's `EncoderProtocol`: one vector of length 1 for each video or text."""

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """Name, revision and sizes."""
        return self._meta("global", similarity_fn_name=ScoringFunction.COSINE)

    def encode(
        self, inputs: Any, *, show_progress_bar: bool = True, **_: Any
    ) -> Float[np.ndarray, "n d"]:
        """The global vectors of all inputs, in order.

        Args:
            inputs: MTEB's DataLoader of videos, or of texts.
            show_progress_bar: whether to show one.
        """
        found = self._read(inputs, show_progress_bar)
        if isinstance(found, VideoEmbedding):
            return np.asarray(found.pooled)
        rows = [self.model.embed_text(texts).pooled for texts in _blocks(found)]
        vectors = np.concatenate(rows).astype(np.float32)
        return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


class PairSearch(_Asked):
    """MTEB's `SearchProtocol`: videos for texts or texts for videos, by the score of record."""

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """Name, revision and sizes."""
        custom = {"similarity_fn_name": ScoringFunction.CUSTOM, "model_type": ["late-interaction"]}
        return self._meta("pairs", **custom)

    def index(self, corpus: Any, **kwargs: Any) -> None:
        """Embeds and keeps the documents.

        Args:
            corpus: data set of `id` and `video` or `text`.
            **kwargs: task_metadata, encode_kwargs and num_proc, as MTEB gives them.
        """
        self._ids = list(corpus["id"])
        self._corpus = self._load(corpus, PromptType.document, **kwargs)

    def search(
        self,
        queries: Any,
        *,
        top_k: int,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        **kwargs: Any,
    ) -> dict[str, dict[str, float]]:
        """The best documents of each query.

        Args:
            queries: data set of `id` and `text` or `video`.
            top_k: documents of a query at most.
            top_ranked: the documents to choose among for each query; all by default.
            **kwargs: as for `index`.

        Returns:
            `{query: {document: score}}`.

        Raises:
            ValueError: queries and documents are both videos or both texts.
        """
        found = self._load(queries, PromptType.query, **kwargs)
        if isinstance(found, VideoEmbedding) == isinstance(self._corpus, VideoEmbedding):
            kind = "videos" if isinstance(found, VideoEmbedding) else "texts"
            raise ValueError(
                f"queries and documents are both {kind}, expected videos and texts, whose pairs "
                "have a score: use GlobalEncoder"
            )
        if isinstance(found, VideoEmbedding):
            scores = self._scores(found, self._corpus)
        else:
            scores = self._scores(self._corpus, found).T
        place = {name: number for number, name in enumerate(self._ids)}
        answers = {}
        for query, row in zip(queries["id"], scores, strict=True):
            among = np.array([place[name] for name in (top_ranked or {}).get(query, place)])
            best = among[np.argsort(-row[among], kind="stable")[:top_k]]
            answers[query] = {self._ids[n]: float(row[n]) for n in best}
        return answers

    def _load(
        self, dataset, side: PromptType, *, task_metadata, encode_kwargs, num_proc=None, **_
    ) -> VideoEmbedding | list[str]:
        batch = encode_kwargs.get("batch_size", 32)
        options = {"prompt_type": side, "batch_size": batch, "num_proc": num_proc}
        loader = create_dataloader(dataset, task_metadata=task_metadata, **options)
        return self._read(loader, encode_kwargs.get("show_progress_bar", True))

    def _scores(self, videos: VideoEmbedding, texts: list[str]) -> Float[np.ndarray, "b c"]:
        """Texts are embedded block by block: their token states are large."""
        return np.concatenate([self.model.score(videos, some) for some in _blocks(texts)], axis=1)


class _FittingFrames:
    """Puts frames of each video of a batch, in the model's size, in the place of its decoder.

    A batch of whole frames would not fit in memory. A class, because workers must unpickle it.
    """

    def __init__(self, collate: Callable[[list[dict]], dict], frames: int, size: int):
        self._collate, self._frames, self._size = collate, frames, size

    def __call__(self, rows: list[dict]) -> dict:
        if "video" not in rows[0]:
            return self._collate(rows)
        fitted = [row | {"video": self._fit(row["video"])} for row in rows]
        return {name: [row[name] for row in fitted] for name in fitted[0]}

    def _fit(self, decoder: Any) -> np.ndarray:
        """u8[f H W 3] of torchcodec's decoder."""
        wanted = min(self._frames, decoder.metadata.num_frames or self._frames)
        found = np.asarray(FramesCollator.resample_video(decoder, num_frames=wanted))
        if found.dtype != np.uint8 or found.ndim != 4 or found.shape[1] != 3:
            raise ValueError(
                f"got frames {found.dtype}{list(found.shape)} of a video, expected those of "
                "torchcodec: uint8[f 3 H W]"
            )
        frames = np.ascontiguousarray(found.transpose(0, 2, 3, 1))
        fitted = np.empty((len(frames), self._size, self._size, 3), np.uint8)
        for frame, out in zip(frames, fitted, strict=True):
            fit_image(frame, out)
        return fitted


def _blocks(texts: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(texts), TEXTS):
        yield texts[start : start + TEXTS]
