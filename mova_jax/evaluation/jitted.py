"""What an evaluation runs on the devices: the towers, scores of pairs, masks of matched pairs.

    fns = EvalFns(spec, config.losses, config.eval, mesh)
    video, text = fns.encode(params, batch_arrays)
    scores = fns.pairs(params, video, text)       # {"global": [b c], "modular": [b c]}

Arrays of the host go in and come out. They are filled up to `rows` rows on the way, so that one
compiled program serves all blocks, with the videos split over the mesh: `config.eval.batch_size`,
or the next number that divides over it.
"""

import functools

import jax
import numpy as np

from mova_jax.config import Eval, Losses
from mova_jax.losses.scores import (
    Pool,
    global_scores,
    normalise,
    own_mask_scores,
    pair_parts,
    pair_scores,
    search_pool,
)
from mova_jax.models.build import ModelSpec
from mova_jax.parallel import sharding
from mova_jax.typing import Batch, ConceptMasks, TextEmbedding, VideoEmbedding


class EvalFns:
    """The compiled functions of an evaluation; nothing is compiled before it is used."""

    def __init__(self, spec: ModelSpec, losses: Losses, settings: Eval, mesh: jax.sharding.Mesh):
        """Prepares.

        Args:
            spec: of the model.
            losses: `config.losses`, for how pairs are scored.
            settings: `config.eval`.
            mesh: to run on.
        """
        shards = sharding.batch_shards(mesh)
        self.rows = -(-settings.batch_size // shards) * shards
        self._context = spec.config.text.context
        functions = _Functions(spec, search_pool(losses, settings))
        whole, split = sharding.replicated(mesh), sharding.batch_sharding(mesh)
        params = sharding.state_sharding(mesh, spec.abstract_params)
        sharded = sharding.activation_sharding(mesh)
        compiled = functools.partial(sharding.jit_host_arrays, output=whole)
        self._encode = compiled(sharded(functions.encode), (params, split))
        self._encode_text = compiled(sharded(functions.encode_text), (params, split, split))
        self._pairs = compiled(functions.pairs, (params, split, whole))
        self._matched = compiled(sharded(functions.matched), (params, split, split))
        self._own_scores = jax.jit(functions.own_scores)

    def encode(self, params, arrays: dict[str, np.ndarray]) -> tuple[VideoEmbedding, TextEmbedding]:
        """The videos and captions of a batch, without the rows that fill it up.

        Args:
            params: of the model.
            arrays: of `pipeline.eval_batches`, `rows` rows. Tokens are padded to the longest, so
                that captions of all batches can stand together.
        """
        missing = self._context - arrays["tokens"].shape[1]
        padded = {name: np.pad(arrays[name], ((0, 0), (0, missing))) for name in _TOKENS}
        batch = Batch(**arrays | padded)
        valid = int((arrays["video_id"] >= 0).sum())
        return _first(self._encode(params, batch), valid)

    def encode_text(self, params, tokens: np.ndarray, token_mask: np.ndarray) -> TextEmbedding:
        """At most `rows` captions, tokens `[c l]`."""
        filled = _filled((tokens, token_mask), self.rows)
        return _first(self._encode_text(params, *filled), len(tokens))

    def pairs(self, params, video: VideoEmbedding, text: TextEmbedding) -> dict[str, np.ndarray]:
        """Scores `[b c]` by name of at most `rows` videos with at most `rows` captions."""
        shape = len(video.pooled), len(text.pooled)
        scores = self._pairs(params, *_filled((video, text), self.rows))
        return {name: np.asarray(s)[: shape[0], : shape[1]] for name, s in scores.items()}

    def matched(self, params, video: VideoEmbedding, text: TextEmbedding):
        """Frame cosines and masks of any number of videos, each with the caption of its row.

        Returns:
            `{"frame": [r f], "modular": [r f]}`: cosine of frame and caption, and that under the
            masks; and the `ConceptMasks` `[r f d]`, None for a model without.
        """
        parts = []
        for start in range(0, len(text.pooled), self.rows):
            block = rows_of((video, text), slice(start, start + self.rows))
            found = self._matched(params, *_filled(block, self.rows))
            parts.append(_first(found, len(block[1].pooled)))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    def own_scores(self, video: VideoEmbedding, masks: ConceptMasks) -> np.ndarray:
        """Scores `[b c]` of every video under the masks that caption c has with video c."""
        return np.asarray(self._own_scores(video, masks))


class _Functions:
    """What is compiled; pure functions of parameters and arrays."""

    def __init__(self, spec: ModelSpec, pool: Pool):
        self._model, self._config, self._pool = spec.model, spec.config, pool

    def encode(self, params, batch: Batch) -> tuple[VideoEmbedding, TextEmbedding]:
        model = self._model(params)
        video = model.encode_video(batch.frames, batch.frame_mask)
        return video, model.encode_text(batch.tokens, batch.token_mask)

    def encode_text(self, params, tokens, token_mask) -> TextEmbedding:
        return self._model(params).encode_text(tokens, token_mask)

    def pairs(self, params, video: VideoEmbedding, text: TextEmbedding):
        model = self._model(params)
        scores = {"global": global_scores(video, text)}
        if self._config.modular_scale:
            captions = model.prepare(text)
            scores["modular"] = pair_scores(model, video, captions, pool=self._pool)
        return scores

    def matched(self, params, video: VideoEmbedding, text: TextEmbedding):
        model = self._model(params)
        frame = normalise(video.frames) @ normalise(text.pooled)[..., None]
        cosines = {"frame": frame[..., 0], "modular": frame[..., 0]}
        if not model.has_masks:
            return cosines, None
        masks = model.own_masks(video, model.prepare(text))
        return cosines | {"modular": pair_parts(video.frames, masks).cosine}, masks

    def own_scores(self, video: VideoEmbedding, masks: ConceptMasks):
        return own_mask_scores(video, masks, video.frame_mask, pool=self._pool)


_TOKENS = ("tokens", "token_mask")


def rows_of(tree, rows):
    """The rows of every array: a slice, or indices."""
    return jax.tree.map(lambda leaf: leaf[rows], tree)


def _first(tree, count: int):
    """The first rows of every array, on the host."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:count], tree)


def _filled(tree, rows: int):
    """Arrays with their last row repeated up to `rows` rows, so that one program serves all."""

    def fill(leaf):
        missing = rows - len(leaf)
        return np.concatenate([leaf, np.repeat(leaf[-1:], missing, axis=0)]) if missing else leaf

    return jax.tree.map(fill, tree)
