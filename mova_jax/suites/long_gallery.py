"""A gallery of long videos under a model: every stored frame embedded once, then any choice scored.

asker = LongAsker(model, mesh)
gallery = asker.embed(folder, "test")
found = asker.measure(gallery, "change", budget=32)     # plain values, to be kept as JSON
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mova_jax.data.pipeline.batching import settings_of
from mova_jax.data.pipeline.queries import Captions, Sentence, eval_captions, eval_sentences
from mova_jax.data.shards import ShardError
from mova_jax.data.sources import open_source
from mova_jax.data.tokenizer import Tokenizer, pad_parts, pad_tokens
from mova_jax.evaluation.frame_policies import POLICIES
from mova_jax.evaluation.frame_stream import FrameEncoder, embed_videos
from mova_jax.evaluation.grounding import frames_within, ground_sentence
from mova_jax.evaluation.jitted import EvalFns, rows_of
from mova_jax.evaluation.query_ranks import QueryRanks, rank_queries
from mova_jax.evaluation.ranks import ScoreBlock
from mova_jax.evaluation.rerank import rerank, shortlist
from mova_jax.training.load_model import LoadedModel
from mova_jax.typing import TextEmbedding, VideoEmbedding
from mova_jax.utils.progress_bar import bar_of

GLOBAL, MODULAR, RECORD = "global", "modular", "record"
# Candidates of a query where pairs have masks of their own, up to the largest K of the tables.
# Fewer than in an evaluation: here the masks of a pair are made for up to 900 frames, and again for
# every policy.
CANDIDATES = 10


class LongGallery(NamedTuple):
    """The videos of a split as frame vectors, and their texts."""

    vectors: list[np.ndarray]  # f16[f d] of each video
    times: list[np.ndarray]  # f32[f], seconds
    captions: TextEmbedding  # the first caption of each video
    sentences: list[Sentence]  # the timed ones
    texts: TextEmbedding | None  # the sentences as captions; None without any


class LongAsker:
    """A model, compiled for galleries of long videos."""

    def __init__(self, model: LoadedModel, mesh: jax.sharding.Mesh):
        """Compiles nothing yet.

        Args:
            model: to ask; without a weight of its modular score, the weight is 1.
            mesh: to run on.
        """
        config, self._params = model.config, model.params_on(mesh)
        self.encoder = FrameEncoder(model.spec, self._params, mesh)
        self._fns = EvalFns(model.spec, config.losses, config.eval, mesh)
        self._settings = settings_of(config, config.eval.frames)
        self._tokenizer = Tokenizer(model.tokenizer, config.model.text.context)
        masked = config.model.modular_scale and config.model.masks_see_frames
        self.candidates = CANDIDATES if masked else 0  # of a query; 0: all pairs are scored
        self._weight = 1.0 if model.blend_weight is None else model.blend_weight

    def embed(self, folder: str, split: str, label: str = "") -> LongGallery:
        """Embeds all stored frames of a split and its texts.

        Args:
            folder: of the shards, or another source.
            split: its name.
            label: of the progress bar.

        Raises:
            ShardError: the source, or one record or frame, cannot be read.
        """
        source, times = open_source(folder, split), []

        def frames():
            for index in range(len(source)):
                record = source[index]
                times.append(record.timestamps)
                yield record.frames

        stream = embed_videos(self.encoder, frames())
        off = jax.process_index() > 0
        try:
            vectors = list(bar_of(label or split, len(source), stream, off, delay=2.0))
        except ValueError as error:  # of a stored frame
            raise ShardError(f"record {len(times) - 1} of {source!r}: {error}") from error
        parts = self._settings.parts
        captions = eval_captions(folder, split, self._tokenizer, parts=parts)
        sentences = eval_sentences(folder, split, self._tokenizer)
        alone = Captions(np.arange(len(sentences)), tuple(s.ids for s in sentences))
        texts = self._encode(alone) if sentences else None
        return LongGallery(vectors, times, self._encode(captions), sentences, texts)

    def _encode(self, captions: Captions) -> TextEmbedding:
        padding, pad_id = self._settings.padding, self._tokenizer.pad_id
        texts = [*pad_tokens(captions.ids, padding.tokens, pad_id)]
        if captions.parts:
            texts += pad_parts(captions.parts, padding.parts, padding.part_tokens, pad_id)
        rows, blocks = self._fns.rows, []
        for start in range(0, len(captions.ids), rows):
            block = (array[start : start + rows] for array in texts)
            blocks.append(self._fns.encode_text(self._params, *block))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *blocks)

    def measure(self, gallery: LongGallery, policy: str, budget: int) -> dict[str, Any]:
        """Retrieval, event recall and grounding with the frames that a policy takes.

        Args:
            gallery: from `embed`.
            policy: a name of `frame_policies.POLICIES`.
            budget: frames of a video at most, if the policy keeps to it.

        Returns:
            `policy`, `budget`; `frames`, the mean number taken; `ranks`, by score (RECORD,
            GLOBAL, and MODULAR where the model has one) and direction (`t2v`, `v2t`) the rank of
            each video's query; and of each timed sentence `taken`, whether a frame of its event was
            taken, `hit`, whether the sentence's best frame is in the event, and `iou`, the overlap
            of the predicted segment (`grounding.ground_sentence`); both 0 where no frame was taken.
        """
        choose = POLICIES[policy]
        chosen = [
            choose(vectors, times, budget)
            for vectors, times in zip(gallery.vectors, gallery.times, strict=True)
        ]
        ranks = self._ranks(gallery, chosen)
        scores = {
            name: ranks.by_score[name] for name in (GLOBAL, MODULAR) if name in ranks.by_score
        }
        scores[RECORD] = ranks.by_score[ranks.record]
        return {
            "policy": policy,
            "budget": budget,
            "frames": float(np.mean([len(frames) for frames in chosen])),
            "ranks": {
                name: {way: found.values.tolist() for way, found in both._asdict().items()}
                for name, both in scores.items()
            },
            **self._events(gallery, chosen),
        }

    def _ranks(self, gallery: LongGallery, chosen: list[np.ndarray]) -> QueryRanks:
        videos, weights = len(chosen), (self._weight,)
        owner = np.arange(videos)
        if self.candidates:
            block = self._fns.pair_block(videos, masks=False)
            first = self._scores(self._fns.first_stage, gallery, chosen, block)
            found = shortlist(first, videos, owner, k=self.candidates, blocks=block)
            size = self._fns.pair_block(videos)[0]
            pairs = self._scores(self._fns.pairs, gallery, chosen, (size, 1))

            def score_answers(caption: int, answers: np.ndarray) -> dict[str, np.ndarray]:
                starts, text = range(0, len(answers), size), slice(caption, caption + 1)
                blocks = [pairs(answers[start : start + size], text) for start in starts]
                return {n: np.concatenate([one[n][:, 0] for one in blocks]) for n in blocks[0]}

            return rerank(found, score_answers, weights)
        block = self._fns.pair_block(videos)
        scores = self._scores(self._fns.pairs, gallery, chosen, block)
        return rank_queries(scores, videos, owner, blend_weights=weights, blocks=block)

    def _scores(
        self, score: Callable, gallery: LongGallery, chosen: list[np.ndarray], block: tuple
    ) -> ScoreBlock:
        """Scores of some videos, a slice or indices, with a slice of the captions."""

        def scores(videos: slice | np.ndarray, captions: slice) -> dict[str, np.ndarray]:
            video = self._videos(gallery, chosen, np.arange(len(chosen))[videos], block[0])
            return score(self._params, video, rows_of(gallery.captions, captions), block)

        return scores

    def _videos(self, gallery, chosen, videos: Sequence[int], rows: int) -> VideoEmbedding:
        """Videos as the frames that were chosen of them; made in a fixed number of rows."""
        filled = [*videos, *[videos[-1]] * (rows - len(videos))]
        video = self.encoder.pool(*_frames(gallery, chosen, filled))
        return jax.tree.map(lambda leaf: np.asarray(leaf)[: len(videos)], video)

    def _events(self, gallery: LongGallery, chosen: list[np.ndarray]) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {"taken": [], "hit": [], "iou": []}
        for start in range(0, len(gallery.sentences), self._fns.rows):
            block = slice(start, start + self._fns.rows)
            sentences = gallery.sentences[block]
            frames, mask = _frames(gallery, chosen, [s.video for s in sentences])
            # No score of a frame reads the global vector.
            video = VideoEmbedding(frames.astype(np.float32), mask, frames[:, 0])
            text = rows_of(gallery.texts, block)
            cosines = self._fns.matching_cosines(self._params, video, text)["modular"]
            for sentence, cosine, valid in zip(sentences, cosines, mask, strict=True):
                times = gallery.times[sentence.video][chosen[sentence.video]]
                windows = sentence.windows
                best = ground_sentence(cosine[valid], valid[valid], times, windows)
                found["taken"].append(float(frames_within(windows, times).any()))
                found["hit"].append(best.hit if best else 0.0)
                found["iou"].append(best.iou if best else 0.0)
        return found


def _frames(
    gallery: LongGallery, chosen: list[np.ndarray], videos: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Vectors f16[b f d] of the chosen frames, and their mask; f is the most that any video has."""
    most = max(len(frames) for frames in chosen)
    vectors = np.zeros((len(videos), most, gallery.vectors[0].shape[1]), np.float16)
    mask = np.zeros(vectors.shape[:2], bool)
    for row, video in enumerate(videos):
        count = len(chosen[video])
        vectors[row, :count] = gallery.vectors[video][chosen[video]]
        mask[row, :count] = True
    return vectors, mask
