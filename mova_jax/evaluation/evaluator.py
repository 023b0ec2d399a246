"""Evaluates a model on a split: retrieval, grounding, masks, and the timelines of a few videos.

In: a recipe, shards, parameters. Out: flat figures (`global/t2v/r1`, `grounding/modular/hit`,
`leak/own_masks` ...), to which the caller adds the name of the split.

    evaluator = Evaluator(recipe, mesh, folder, tokenizer)
    figures = evaluator.evaluate(params, "validation")
    figures = evaluator.evaluate(params, "test", blend_weight=figures["blend/weight"])

Every video and every caption goes through the towers once. The embeddings wait on the host, and
blocks of videos meet blocks of captions on the devices, the videos split over the mesh.
"""

import dataclasses
import functools
import os
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from mova_jax import mesh as mesh_lib
from mova_jax.config import Config
from mova_jax.data import pipeline
from mova_jax.data.tokenizer import Tokenizer
from mova_jax.data.transforms import bucket_length, pad_tokens
from mova_jax.evaluation import retrieval
from mova_jax.evaluation.grounding import SentenceScores, grounding_metrics
from mova_jax.evaluation.ranks import ScoreBlock
from mova_jax.evaluation.report_plots import Timeline
from mova_jax.losses import objective, similarity, terms
from mova_jax.training.state import Recipe
from mova_jax.typing import Batch, ConceptMasks, TextEmbedding, VideoEmbedding

LEAK_GALLERY = 256  # videos among which the leak is counted, for it needs all their masks at once


class Split(NamedTuple):
    """The embeddings of a split, on the host; row i of each belongs to video i."""

    video: VideoEmbedding
    text: TextEmbedding
    timestamps: Float[np.ndarray, "b f"]  # seconds


class Scored(NamedTuple):
    """A sentence, and its score on each frame of its video."""

    sentence: pipeline.Sentence
    frame: Float[np.ndarray, "f"]  # cosine of frame and sentence
    modular: Float[np.ndarray, "f"]  # the same under the masks of the pair


class Evaluator:
    """The compiled functions of an evaluation, and the data that they are run on."""

    def __init__(
        self,
        recipe: Recipe,
        mesh: jax.sharding.Mesh,
        folder: str | os.PathLike,
        tokenizer: Tokenizer,
    ):
        """Prepares; nothing is compiled before it is used.

        Args:
            recipe: with the model and `config.eval`.
            mesh: to run on; `config.eval.batch_size` divides over it.
            folder: of the shards.
            tokenizer: of the captions.
        """
        self.config, self.mesh = recipe.config, mesh
        self.folder, self.tokenizer = folder, tokenizer
        self.settings = pipeline.settings_of(self.config, self.config.eval.frames)
        self.rows = self.config.eval.batch_size
        functions = _Functions(recipe)
        whole, split = mesh_lib.replicated(mesh), mesh_lib.batch_sharding(mesh)
        params = mesh_lib.state_sharding(mesh, recipe.shapes.params)
        laid_out = mesh_lib.layout(mesh)
        compiled = functools.partial(jax.jit, out_shardings=whole)
        self._encode = compiled(laid_out(functions.encode), in_shardings=(params, split))
        self._encode_text = jax.jit(
            laid_out(functions.encode_text),
            in_shardings=(params, split, split),
            out_shardings=split,
        )
        self._pairs = compiled(functions.pairs, in_shardings=(params, split, whole))
        self._matched = compiled(laid_out(functions.matched), in_shardings=(params, split, split))
        self._own_scores = jax.jit(functions.own_scores)

    def evaluate(
        self, params, split: str, blend_weight: float | None = None, interval: bool = False
    ) -> dict[str, float]:
        """All figures of a split.

        Args:
            params: of the recipe's model.
            split: its name.
            blend_weight: of the modular score, chosen on validation; None chooses it here, which
                is right on validation only.
            interval: adds the bootstrap interval of R@1.

        Returns:
            Figures of `retrieval_metrics`; `t2v/...` and `v2t/...`, those of the score of record
            (the blend, or the global score of a model without another); `grounding/frame/...` by
            the cosine of frame and sentence and `grounding/modular/...` under the masks; with
            masks `kept_text`, `kept_video` and `leak/...`.
        """
        embedded = self.embed(params, split, self.config.eval.gallery)
        count = len(embedded.timestamps)
        scores = _CachedScores(functools.partial(self._score_block, params, embedded))
        metrics = retrieval.retrieval_metrics(
            scores,
            count,
            np.arange(count),
            blend_weights=retrieval.WEIGHTS if blend_weight is None else (blend_weight,),
            blocks=(self.rows, self.rows),
            interval_seed=self.config.seed if interval else None,
        )
        record = "blend/" if "blend/t2v/r1" in metrics else "global/"
        ways = [name for name in metrics if name.startswith(record) and name.count("/") == 2]
        metrics |= {name.removeprefix(record): metrics[name] for name in ways}
        if has_masks(self.config):
            metrics |= self._mask_metrics(params, embedded, scores)
        return metrics | self._grounding(params, split, embedded)

    def scores(self, params, split: str) -> dict[str, np.ndarray]:
        """Every score `[b c]` of a split by name, whole on the host: for small galleries only.

        `evaluate` ranks block by block and keeps no such array.
        """
        embedded = self.embed(params, split)
        starts = range(0, len(embedded.timestamps), self.rows)
        blocks = [slice(start, start + self.rows) for start in starts]
        rows = [[self._score_block(params, embedded, v, c) for c in blocks] for v in blocks]
        return {name: np.block([[b[name] for b in row] for row in rows]) for name in rows[0][0]}

    def embed(self, params, split: str, limit: int = 0) -> Split:
        """Every video and caption of a split (the first `limit`) through the towers."""
        parts = []
        batches = pipeline.eval_batches(
            self.folder, split, self.tokenizer, self.settings, self.rows, limit
        )
        for arrays in batches:
            batch = mesh_lib.put_batch(self.mesh, self._full_context(arrays))
            valid = int((arrays["video_id"] >= 0).sum())
            part = Split(*self._encode(params, batch), arrays["timestamps"])
            parts.append(jax.tree.map(lambda leaf, n=valid: np.asarray(leaf)[:n], part))
        embedded = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        return embedded._replace(text=self._shortest(embedded.text))

    def _shortest(self, text: TextEmbedding) -> TextEmbedding:
        """The captions at the length that holds the longest of them: pairs cost by the token."""
        longest = int(text.token_mask.sum(-1).max(initial=1))
        length = bucket_length(longest, self.settings.buckets)
        return dataclasses.replace(
            text, tokens=text.tokens[:, :length], token_mask=text.token_mask[:, :length]
        )

    def timelines(self, params, split: str, count: int) -> list[Timeline]:
        """What the report draws of the first `count` videos of a split."""
        embedded = self.embed(params, split, count)
        masks = None
        if has_masks(self.config):
            masks = self._matched_rows(params, embedded.video, embedded.text)[1]
        scored = self._sentence_scores(params, split, embedded, timed_only=False)
        arrays = next(
            pipeline.eval_batches(self.folder, split, self.tokenizer, self.settings, count, count)
        )
        found = []
        for row, name in enumerate(pipeline.record_ids(self.folder, split, arrays["video_id"])):
            valid = arrays["frame_mask"][row]
            mine = [one for one in scored if one.sentence.video == row]
            if not mine:
                continue
            found.append(
                Timeline(
                    video_id=name,
                    frames=arrays["frames"][row][valid],
                    timestamps=arrays["timestamps"][row][valid],
                    sentences=tuple(one.sentence.text for one in mine),
                    scores=np.stack([one.modular[valid] for one in mine]),
                    spans=np.array([(one.sentence.start, one.sentence.end) for one in mine]),
                    text_concepts=None if masks is None else masks.text[row][valid],
                    video_concepts=None if masks is None else masks.video[row][valid],
                )
            )
        return found

    def _full_context(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Tokens padded to the longest, so that captions of all batches can stand together."""
        missing = self.config.model.text.context - arrays["tokens"].shape[1]
        padding = ((0, 0), (0, missing))
        names = ("tokens", "token_mask")
        return arrays | {name: np.pad(arrays[name], padding) for name in names}

    def _score_block(self, params, embedded: Split, videos: slice, captions: slice):
        """Scores `[b c]` by name of a block of videos with a block of captions."""
        video = jax.tree.map(lambda leaf: leaf[videos], embedded.video)
        text = jax.tree.map(lambda leaf: leaf[captions], embedded.text)
        shape = len(video.pooled), len(text.pooled)
        video, text = _filled((video, text), self.rows)
        scores = self._pairs(params, video, text)
        return {name: np.asarray(s)[: shape[0], : shape[1]] for name, s in scores.items()}

    def _matched_rows(self, params, video: VideoEmbedding, text: TextEmbedding):
        """Frame cosines and masks of matched rows, block by block: numpy, `[r f]` and `[r f d]`."""
        parts = []
        for start in range(0, len(text.pooled), self.rows):
            block = jax.tree.map(lambda leaf, s=start: leaf[s : s + self.rows], (video, text))
            count = len(block[1].pooled)
            matched = self._matched(params, *_filled(block, self.rows))
            parts.append(jax.tree.map(lambda leaf, n=count: np.asarray(leaf)[:n], matched))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    def _mask_metrics(self, params, embedded: Split, scores) -> dict[str, float]:
        """Kept shares of the true pairs, and the leak of swapped ones (docs/method.md, 5).

        The swapped caption of a video is that of the video half a gallery away. `leak/own_masks`
        scores every video under the masks that a caption has with the video it was given to,
        `leak/pairs` under masks of each pair's own; both count how often a caption finds the video
        it was given to. Chance is 1 / gallery.
        """
        _, masks = self._matched_rows(params, embedded.video, embedded.text)
        valid = embedded.video.frame_mask
        metrics = {
            "kept_text": float(masks.kept_text[valid].mean()),
            "kept_video": float(masks.video.mean(-1)[valid].mean()),
        }
        count = min(LEAK_GALLERY, len(valid))
        if count < 2:
            return metrics
        given = np.roll(np.arange(count), count // 2)
        video = jax.tree.map(lambda leaf: leaf[:count], embedded.video)
        text = jax.tree.map(lambda leaf: leaf[given], embedded.text)
        _, swapped = self._matched_rows(params, video, text)
        own = self._own_scores(video, swapped)
        metrics["leak/own_masks"] = float(terms.identity_leak(own, np.ones(count, bool)).mean)
        if self.config.model.modular_scale:
            pairs = scores.square("modular", count)[:, given]
            metrics["leak/pairs"] = float(terms.identity_leak(pairs, np.ones(count, bool)).mean)
        return metrics | {"leak/chance": 1 / count}

    def _grounding(self, params, split: str, embedded: Split) -> dict[str, float]:
        """`grounding/frame/...`, and `grounding/modular/...` for a model with masks."""
        scored = self._sentence_scores(params, split, embedded, timed_only=True)
        kinds = ("frame", "modular") if has_masks(self.config) else ("frame",)
        metrics = {}
        for kind in kinds if scored else ():
            figures = grounding_metrics(
                SentenceScores(
                    getattr(one, kind),
                    embedded.video.frame_mask[one.sentence.video],
                    embedded.timestamps[one.sentence.video],
                    (one.sentence.start, one.sentence.end),
                )
                for one in scored
            )
            for name, value in figures.items():
                metrics[name.replace("grounding/", f"grounding/{kind}/")] = value
        return metrics

    def _sentence_scores(
        self, params, split: str, embedded: Split, timed_only: bool
    ) -> list[Scored]:
        """Each sentence as a caption of its own, on the frames of its video."""
        sentences = pipeline.eval_sentences(
            self.folder, split, self.tokenizer, len(embedded.timestamps), timed_only
        )
        found = []
        for start in range(0, len(sentences), self.rows):
            block = sentences[start : start + self.rows]
            tokens = pad_tokens(
                [sentence.ids for sentence in block], self.settings.buckets, self.tokenizer.pad_id
            )
            text = self._encode_text(params, *_filled(tokens, self.rows))
            rows = np.array([sentence.video for sentence in block])
            video = _filled(jax.tree.map(lambda leaf, r=rows: leaf[r], embedded.video), self.rows)
            cosines, _ = self._matched(params, video, text)
            frame, modular = np.asarray(cosines["frame"]), np.asarray(cosines["modular"])
            found += [Scored(s, frame[i], modular[i]) for i, s in enumerate(block)]
        return found


class _Functions:
    """What is compiled; pure functions of parameters and arrays."""

    def __init__(self, recipe: Recipe):
        self._model, self._config = recipe.model, recipe.config
        self._how = objective.pairing(recipe.config.losses, recipe.config.eval.pool)

    def encode(self, params, batch: Batch) -> tuple[VideoEmbedding, TextEmbedding]:
        model = self._model(params)
        video = model.encode_video(batch.frames, batch.frame_mask)
        return video, model.encode_text(batch.tokens, batch.token_mask)

    def encode_text(self, params, tokens, token_mask) -> TextEmbedding:
        return self._model(params).encode_text(tokens, token_mask)

    def pairs(self, params, video: VideoEmbedding, text: TextEmbedding):
        """`{"global": [b c], "modular": [b c]}`."""
        model = self._model(params)
        scores = {"global": objective.global_scores(video, text)}
        if self._config.model.modular_scale:
            captions = model.prepare(text)
            pairs = objective.pair_scores(model, video, captions, None, self._how)
            scores["modular"] = pairs.score
        return scores

    def matched(self, params, video: VideoEmbedding, text: TextEmbedding):
        """Cosines `[b f]` of each video with the caption of its row, and the masks of the pair."""
        model = self._model(params)
        frame = similarity.normalise(video.frames) @ similarity.normalise(text.pooled)[..., None]
        cosines = {"frame": frame[..., 0], "modular": frame[..., 0]}
        if not model.has_masks:
            return cosines, None
        masks = model.own_masks(video, model.prepare(text))
        return cosines | {"modular": similarity.pair_parts(video.frames, masks).cosine}, masks

    def own_scores(self, video: VideoEmbedding, masks: ConceptMasks):
        """Scores `[b c]` of every video under the masks that caption c has with video c."""
        return objective.own_mask_scores(video, masks, self._how)


class _CachedScores:
    """A `score_block` that keeps the blocks of the leak's gallery, which are read again."""

    def __init__(self, score_block: ScoreBlock):
        self._score_block = score_block
        self._kept: dict[tuple[int, int], dict[str, np.ndarray]] = {}

    def __call__(self, videos: slice, captions: slice) -> dict[str, np.ndarray]:
        key = videos.start, captions.start
        if key in self._kept:
            return self._kept[key]
        scores = self._score_block(videos, captions)
        if max(key) < LEAK_GALLERY:
            self._kept[key] = scores
        return scores

    def square(self, name: str, count: int) -> np.ndarray:
        """The kept scores of the first videos with the first captions, `[count count]`."""
        rows = sorted({video for video, _ in self._kept})
        columns = sorted({caption for _, caption in self._kept})
        blocks = [[self._kept[row, column][name] for column in columns] for row in rows]
        return np.block(blocks)[:count, :count]


def _filled(tree, rows: int):
    """Arrays with their last row repeated up to `rows` rows, so that one program serves all."""

    def fill(leaf):
        missing = rows - len(leaf)
        return np.concatenate([leaf, np.repeat(leaf[-1:], missing, axis=0)]) if missing else leaf

    return jax.tree.map(fill, tree)


def has_masks(config: Config) -> bool:
    """Whether a model of this configuration has a mask network."""
    return config.model.tmn.layout != "none" or config.model.cmn.kind != "none"
