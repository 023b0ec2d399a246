"""The compiled functions of an evaluation: towers, scores of pairs, masks of matching pairs.

    fns = EvalFns(spec, config.losses, config.eval, mesh)
    video, text = fns.encode(params, batch_arrays)
    scores = fns.pairs(params, video, text)       # {"global": [b c], "modular": [b c]}

Arguments and results are NumPy arrays on the host. Inputs are padded to `rows` rows, split over the
mesh, so that one compiled program serves all blocks. `rows` is `config.eval.batch_size`, or the
next number that the devices divide.
"""

from functools import partial

import jax
import numpy as np

from mova_jax.config import Eval, Losses
from mova_jax.losses.scores import (
    Pool,
    global_scores,
    normalise,
    own_mask_scores,
    pair_scores,
    pair_sums,
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
        pool = search_pool(losses, settings)
        whole, split = sharding.replicated(mesh), sharding.batch_sharding(mesh)
        params = sharding.state_sharding(mesh, spec.abstract_params)
        sharded = sharding.activation_sharding(mesh)
        compiled = partial(sharding.jit_host_arrays, output=whole)
        self._encode = compiled(sharded(partial(_encode, spec)), (params, split))
        self._encode_text = compiled(sharded(partial(_encode_text, spec)), (params, split, split))
        self._pairs = compiled(partial(_pairs, spec, pool), (params, split, whole))
        self._matching = compiled(sharded(partial(_matching, spec)), (params, split, split))
        self._own_mask_scores = jax.jit(partial(_own_masks, pool))

    def encode(self, params, arrays: dict[str, np.ndarray]) -> tuple[VideoEmbedding, TextEmbedding]:
        """The videos and captions of a batch, without its padded rows.

        Args:
            params: of the model.
            arrays: from `eval_batches`, `rows` rows. Tokens are padded to the context length, so
                that the captions of all batches can be concatenated.
        """
        missing = self._context - arrays["tokens"].shape[1]
        names = ("tokens", "token_mask")
        padded = {name: np.pad(arrays[name], ((0, 0), (0, missing))) for name in names}
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

    def matching_pairs(self, params, video: VideoEmbedding, text: TextEmbedding):
        """Frame cosines and masks of any number of videos, each with the caption of its row.

        Returns:
            `{"frame": [r f], "modular": [r f]}`: the cosine of frame and caption, plain and under
            the masks (the same for a model without); and `ConceptMasks` `[r f d]` or None.
        """
        parts = []
        for start in range(0, len(text.pooled), self.rows):
            block = rows_of((video, text), slice(start, start + self.rows))
            found = self._matching(params, *_filled(block, self.rows))
            parts.append(_first(found, len(block[1].pooled)))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    def own_mask_scores(self, video: VideoEmbedding, masks: ConceptMasks) -> np.ndarray:
        """Scores `[b c]` of every video under the masks that caption c has with video c."""
        return np.asarray(self._own_mask_scores(video, masks))


def _encode(spec: ModelSpec, params, batch: Batch) -> tuple[VideoEmbedding, TextEmbedding]:
    model = spec.model(params)
    video = model.encode_video(batch.frames, batch.frame_mask)
    return video, model.encode_text(batch.tokens, batch.token_mask)


def _encode_text(spec: ModelSpec, params, tokens, token_mask) -> TextEmbedding:
    return spec.model(params).encode_text(tokens, token_mask)


def _pairs(spec: ModelSpec, pool: Pool, params, video: VideoEmbedding, text: TextEmbedding):
    model = spec.model(params)
    scores = {"global": global_scores(video, text)}
    if spec.config.modular_scale:
        captions = model.prepare(text)
        scores["modular"] = pair_scores(model, video, captions, pool=pool)
    return scores


def _matching(spec: ModelSpec, params, video: VideoEmbedding, text: TextEmbedding):
    model = spec.model(params)
    frame = normalise(video.frames) @ normalise(text.pooled)[..., None]
    cosines = {"frame": frame[..., 0], "modular": frame[..., 0]}
    if not model.has_masks:
        return cosines, None
    masks = model.own_masks(video, model.prepare(text))
    return cosines | {"modular": pair_sums(video.frames, masks).cosine}, masks


def _own_masks(pool: Pool, video: VideoEmbedding, masks: ConceptMasks):
    return own_mask_scores(video, masks, video.frame_mask, pool=pool)


def rows_of(tree, rows):
    """Some rows of every array, by a slice or indices."""
    return jax.tree.map(lambda leaf: leaf[rows], tree)


def _first(tree, count: int):
    """The first rows of every array, on the host."""
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:count], tree)


def _filled(tree, rows: int):
    """Arrays padded to `rows` rows by repeating the last one."""

    def fill(leaf):
        missing = rows - len(leaf)
        return np.concatenate([leaf, np.repeat(leaf[-1:], missing, axis=0)]) if missing else leaf

    return jax.tree.map(fill, tree)
