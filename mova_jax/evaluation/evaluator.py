"""Evaluates a model on a split: retrieval, grounding, masks, and the timelines of a few videos.

In: a model, shards, parameters. Out: flat figures (`global/t2v/r1`, `grounding/modular/hit`,
`leak/own_masks` ...), to which the caller adds the name of the split.

    evaluator = Evaluator(spec, config, mesh, folder, tokenizer)
    figures = evaluator.evaluate(params, "validation")
    figures = evaluator.evaluate(params, "test", blend_weight=figures["blend/weight"])

Every video and every caption goes through the towers once. The embeddings wait on the host, and
blocks of videos meet blocks of captions on the devices. `config.eval.queries` says by which
captions the videos are searched; masks, leak, grounding and timelines are always those of a video
with its first caption.
"""

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from mova_jax.config import Config
from mova_jax.data import sources
from mova_jax.data.pipeline import dataset as pipeline
from mova_jax.data.pipeline import queries
from mova_jax.data.tokenizer import Tokenizer, bucket_length, pad_tokens
from mova_jax.evaluation import retrieval
from mova_jax.evaluation.embedding_cache import (
    CachedScores,
    PackedCaptions,
    SplitEmbeddings,
    with_progress,
)
from mova_jax.evaluation.grounding import SentenceScores, grounding_metrics
from mova_jax.evaluation.jitted import EvalFns, rows_of
from mova_jax.evaluation.leak import identity_leak
from mova_jax.evaluation.ranks import ScoreBlock
from mova_jax.evaluation.timeline import Timeline
from mova_jax.models.build import ModelSpec
from mova_jax.typing import TextEmbedding
from mova_jax.utils.progress_bar import bar_of

LEAK_GALLERY = 256  # videos among which the leak is counted, for it needs all their masks at once
_LONG = 10.0  # seconds after which a bar is shown


class Scored(NamedTuple):
    """A sentence, and its score on each frame of its video."""

    sentence: queries.Sentence
    frame: Float[np.ndarray, "f"]  # cosine of frame and sentence
    modular: Float[np.ndarray, "f"]  # the same under the masks of the pair


class Evaluator:
    """The compiled functions of an evaluation, and the data that they are run on."""

    def __init__(
        self,
        spec: ModelSpec,
        config: Config,
        mesh: jax.sharding.Mesh,
        folder: str | os.PathLike,
        tokenizer: Tokenizer,
    ):
        """Prepares; nothing is compiled before it is used.

        Args:
            spec: of the model.
            config: its sections `data`, `eval`, `losses` and `model`, and the seed, are read.
            mesh: to run on.
            folder: of the shards.
            tokenizer: of the captions.
        """
        self.config = config
        self.folder, self.tokenizer = folder, tokenizer
        self.settings = pipeline.settings_of(self.config, self.config.eval.frames)
        self._fns = EvalFns(spec, config.losses, config.eval, mesh)
        self.rows = self._fns.rows

    def evaluate(
        self, params, split: str, blend_weight: float | None = None, interval: bool = False
    ) -> dict[str, float]:
        """All figures of a split.

        Args:
            params: of the model.
            split: its name.
            blend_weight: of the modular score, chosen on validation; None chooses it here, which
                is right on validation only.
            interval: adds the bootstrap interval of R@1.

        Returns:
            Figures of `retrieval_metrics`; `t2v/...` and `v2t/...`, those of the score of record
            (the blend, or the global score of a model without another); `grounding/frame/...` by
            the cosine of frame and sentence and `grounding/modular/...` under the masks; with
            masks `text_mask_density`, `video_mask_density`
            and `leak/...`. `gallery_captions` is greater than
            `gallery` where every caption of a video is a query.
        """
        embedded = self.embed(params, split)
        count = len(embedded.timestamps)
        matching = self._scores_of(params, embedded, functools.partial(rows_of, embedded.text))
        own = CachedScores(matching, self.rows, min(LEAK_GALLERY, count))
        scores, owner = own, np.arange(count)
        asked = self._all_captions(params, split, count)
        if asked is not None:
            owner, captions = asked
            scores = self._scores_of(params, embedded, captions.rows)
        with self._bar(f"{split}, scores", count * len(owner), "pair") as bar:
            metrics = retrieval.retrieval_metrics(
                with_progress(scores, bar.update),
                count,
                owner,
                blend_weights=retrieval.WEIGHTS if blend_weight is None else (blend_weight,),
                blocks=(self.rows, self.rows),
                interval_seed=self.config.seed if interval else None,
            )
        record = "blend/" if "blend/t2v/r1" in metrics else "global/"
        ways = [name for name in metrics if name.startswith(record) and name.count("/") == 2]
        metrics |= {name.removeprefix(record): metrics[name] for name in ways}
        if has_masks(self.config):
            metrics |= self._mask_metrics(params, embedded, own)
        return metrics | self._grounding(params, split, embedded)

    def scores(self, params, split: str) -> dict[str, np.ndarray]:
        """Every score `[b c]` of a split by name, whole on the host: for small galleries only.

        Caption i is the first one of video i, whatever `config.eval.queries` says. `evaluate` ranks
        block by block and keeps no such array.
        """
        embedded = self.embed(params, split)
        score_block = self._scores_of(params, embedded, functools.partial(rows_of, embedded.text))
        starts = range(0, len(embedded.timestamps), self.rows)
        blocks = [slice(start, start + self.rows) for start in starts]
        rows = [[score_block(v, c) for c in blocks] for v in blocks]
        return {name: np.block([[b[name] for b in row] for row in rows]) for name in rows[0][0]}

    def embed(self, params, split: str, limit: int = 0) -> SplitEmbeddings:
        """Every video of a split (the first `limit`), and its caption, through the towers."""
        parts = []
        batches = pipeline.eval_batches(
            self.folder, split, self.tokenizer, self.settings, self.rows, limit
        )
        count = sources.splits_of(self.folder)[split]
        with self._bar(f"{split}, videos", min(limit or count, count), "video") as bar:
            for arrays in batches:
                video, text = self._fns.encode(params, arrays)
                parts.append(SplitEmbeddings(video, text, arrays["timestamps"][: len(text.pooled)]))
                bar.update(len(text.pooled))
        embedded = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
        return embedded._replace(text=self._shortest(embedded.text))

    def _all_captions(
        self, params, split: str, videos: int
    ) -> tuple[np.ndarray, PackedCaptions] | None:
        """The owners and embeddings of all captions of the first videos.

        None where one caption a video asks, which `embed` has.
        """
        how = queries.query_protocol(self.folder, self.config.eval.queries)
        if how == queries.CAPTION:
            return None
        captions = queries.eval_captions(self.folder, split, self.tokenizer, videos, how)
        count = len(captions.ids)
        if count == videos:
            return None
        length = bucket_length(int(captions.tokens.max()), self.settings.buckets)
        config = self.config
        read = has_masks(config) and config.model.modular_scale > 0
        packed = PackedCaptions(captions.tokens, length, with_tokens=read)
        with self._bar(f"{split}, captions", count, "caption") as bar:
            for start in range(0, count, self.rows):
                block = slice(start, min(start + self.rows, count))
                tokens = pad_tokens(captions.ids[block], (length,), self.tokenizer.pad_id)
                packed.put(block, self._fns.encode_text(params, *tokens))
                bar.update(block.stop - start)
        return captions.video, packed

    def _bar(self, name: str, total: int, unit: str):
        return bar_of(name, total, unit=unit, delay=_LONG, disable=jax.process_index() > 0)

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
            masks = self._fns.matched(params, embedded.video, embedded.text)[1]
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

    def _scores_of(
        self, params, embedded: SplitEmbeddings, captions: Callable[[slice], TextEmbedding]
    ) -> ScoreBlock:
        """Scores of blocks of the videos with blocks of captions."""

        def score_block(videos: slice, asked: slice) -> dict[str, np.ndarray]:
            return self._fns.pairs(params, rows_of(embedded.video, videos), captions(asked))

        return score_block

    def _mask_metrics(
        self, params, embedded: SplitEmbeddings, own: CachedScores
    ) -> dict[str, float]:
        """Kept shares of the true pairs, and the leak of swapped ones (docs/method.md, 5).

        The swapped caption of a video is that of the video half a gallery away. `leak/own_masks`
        scores every video under the masks that a caption has with the video it was given to,
        `leak/pairs` under masks of each pair's own; both count how often a caption finds the video
        it was given to. Chance is 1 / gallery.
        """
        _, masks = self._fns.matched(params, embedded.video, embedded.text)
        valid = embedded.video.frame_mask
        metrics = {
            "text_mask_density": float(masks.text_mask_density[valid].mean()),
            "video_mask_density": float(masks.video.mean(-1)[valid].mean()),
        }
        count = min(LEAK_GALLERY, len(valid))
        if count < 2:
            return metrics
        given = np.roll(np.arange(count), count // 2)
        video, text = rows_of(embedded.video, slice(count)), rows_of(embedded.text, given)
        _, swapped = self._fns.matched(params, video, text)
        leaked = self._fns.own_scores(video, swapped)
        metrics["leak/own_masks"] = float(identity_leak(leaked, np.ones(count, bool)).mean)
        if self.config.model.modular_scale:
            pairs = own.square("modular")[:, given]
            metrics["leak/pairs"] = float(identity_leak(pairs, np.ones(count, bool)).mean)
        return metrics | {"leak/chance": 1 / count}

    def _grounding(self, params, split: str, embedded: SplitEmbeddings) -> dict[str, float]:
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
        self, params, split: str, embedded: SplitEmbeddings, timed_only: bool
    ) -> list[Scored]:
        """Each sentence as a caption of its own, on the frames of its video."""
        sentences = queries.eval_sentences(
            self.folder, split, self.tokenizer, len(embedded.timestamps), timed_only
        )
        found = []
        for start in range(0, len(sentences), self.rows):
            block = sentences[start : start + self.rows]
            tokens = pad_tokens(
                [sentence.ids for sentence in block], self.settings.buckets, self.tokenizer.pad_id
            )
            text = self._fns.encode_text(params, *tokens)
            video = rows_of(embedded.video, [sentence.video for sentence in block])
            cosines, _ = self._fns.matched(params, video, text)
            frame, modular = cosines["frame"], cosines["modular"]
            found += [Scored(s, frame[i], modular[i]) for i, s in enumerate(block)]
        return found


def has_masks(config: Config) -> bool:
    """Whether a model of this configuration has a mask network."""
    return config.model.tmn.layout != "none" or config.model.cmn.kind != "none"
