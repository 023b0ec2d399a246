"""The compiled functions of an evaluation: towers, scores of pairs, masks of matching pairs.

    fns = EvalFns(spec, config.losses, config.eval, mesh)
    video, text = fns.encode(params, batch_arrays)
    block = fns.pair_block(len(captions))         # videos and captions that are scored at a time
    scores = fns.pairs(params, video, text, block)    # {"global": [b c], "modular": [b c]}

Arguments and results are NumPy arrays on the host. Inputs of the towers are padded to `rows` rows,
split over the mesh, so that one compiled program serves all blocks. `rows` is
`config.eval.batch_size`, or the next number that the devices divide.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from mova_jax.config import Eval, Losses
from mova_jax.losses.pools import PairScoring, Pool, normalise
from mova_jax.losses.scores import (
    frame_cosines,
    global_scores,
    own_mask_scores,
    pair_scores,
    pair_sums,
    search_scoring,
)
from mova_jax.models.build import ModelSpec
from mova_jax.parallel import sharding
from mova_jax.typing import Batch, ConceptMasks, TextEmbedding, VideoEmbedding

# Videos (on each device) and captions that are scored at a time, few enough that their cosines, or
# their masks, stay in a processor's cache: by matmuls, and with masks of each pair.
PAIR_BLOCK = (8, 512)
MASKED_PAIR_BLOCK = (16, 4)


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
        self._shards = sharding.batch_shards(mesh)
        self.rows = _multiple(settings.batch_size, self._shards)
        self._spec = spec
        self._context = spec.config.text.context
        scoring = search_scoring(losses, settings)
        replicated, sharded = sharding.replicated(mesh), sharding.batch_sharding(mesh)
        params = sharding.state_sharding(mesh, spec.abstract_params)
        on_mesh = sharding.activation_sharding(mesh)
        compiled = partial(sharding.jit_host_arrays, output=replicated)
        self._encode = compiled(on_mesh(partial(_encode, spec)), (params, sharded))
        self._encode_text = compiled(on_mesh(partial(_encode_text, spec)), (params, sharded))
        self._pairs = compiled(partial(_pairs, spec, scoring), (params, sharded, replicated))
        self._first_stage = compiled(
            partial(_first_stage, spec, scoring), (params, sharded, replicated)
        )
        self._class_scores = compiled(
            partial(_class_scores, spec, scoring), (params, sharded, replicated)
        )
        self._frame_cosines = compiled(partial(_frame_cosines, spec), (params, replicated, sharded))
        rows = params, sharded, sharded
        self._cosines = compiled(on_mesh(partial(_cosines, spec)), rows)
        self._masks = compiled(on_mesh(partial(_masks, spec)), rows)
        self._densities = compiled(on_mesh(partial(_densities, spec)), rows)
        self._own_mask_scores = jax.jit(partial(_own_masks, spec, scoring.pool))

    def encode(self, params, arrays: dict[str, np.ndarray]) -> tuple[VideoEmbedding, TextEmbedding]:
        """The videos and captions of a batch, without its padded rows.

        Args:
            params: of the model.
            arrays: from `eval_batches`, `rows` rows. Tokens are padded to the context length, so
                that the captions of all batches can be concatenated; parts are so already.
        """
        missing = self._context - arrays["tokens"].shape[1]
        names = ("tokens", "token_mask")
        padded = {name: np.pad(arrays[name], ((0, 0), (0, missing))) for name in names}
        batch = Batch(**arrays | padded)
        valid = int((arrays["video_id"] >= 0).sum())
        return _first(self._encode(params, batch), valid)

    def encode_text(self, params, *texts: np.ndarray) -> TextEmbedding:
        """At most `rows` captions: tokens and mask `[c l]`; also those of parts `[c p t]`."""
        return _first(self._encode_text(params, _filled(texts, self.rows)), len(texts[0]))

    def pair_block(self, captions: int, masks: bool = True) -> tuple[int, int]:
        """How many videos and captions are scored at a time.

        Args:
            captions: of the gallery.
            masks: whether pairs have their own masks, in a model whose masks depend on frames.
        """
        masked = masks and self._spec.config.masks_see_frames
        videos, most = MASKED_PAIR_BLOCK if masked else PAIR_BLOCK
        return videos * self._shards, min(most, _multiple(captions, 64))

    def pairs(
        self, params, video: VideoEmbedding, text: TextEmbedding, block: tuple[int, int]
    ) -> dict[str, np.ndarray]:
        """Scores `[b c]` by name of at most as many videos and captions as are in a block.

        The same pair has the same scores, to the last bit, in all calls with blocks of one size.
        """
        return self._block_scores(self._pairs, params, video, text, block)

    def first_stage(
        self, params, video: VideoEmbedding, text: TextEmbedding, block: tuple[int, int]
    ) -> dict[str, np.ndarray]:
        """Scores `[b c]` without masks: `global`, and `first`, by which candidates are chosen.

        `first` is the global score; of divided captions, the global score and the score by parts
        added up. No token states are read.
        """
        return self._block_scores(self._first_stage, params, video, text, block)

    def frame_cosines(self, params, video: VideoEmbedding, text: TextEmbedding) -> np.ndarray:
        """Cosines `[c f]` of the frames of one video with any number of sentences.

        Args:
            params: of the model.
            video: one row.
            text: each one a part of its own, in models whose captions are divided.
        """
        found = []
        for start in range(0, len(text.pooled), self.rows):
            block = rows_of(text, slice(start, start + self.rows))
            cosines = self._frame_cosines(params, video, _filled(block, self.rows))
            found.append(np.asarray(cosines)[: len(block.pooled)])
        return np.concatenate(found)

    def class_scores(
        self, params, video: VideoEmbedding, classes: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Scores of any number of videos with vectors of classes.

        Args:
            params: of the model.
            video: the videos.
            classes: `[k d]`.

        Returns:
            `{"global": [b k], "frames": [b k]}`: the cosine with the global embedding, and the
            cosines with the frames, pooled as those of a caption, without masks.
        """
        size, found = PAIR_BLOCK[0] * self._shards, []
        for start in range(0, len(video.pooled), size):
            block = rows_of(video, slice(start, start + size))
            scores = self._class_scores(params, _filled(block, size), classes)
            found.append(_first(scores, len(block.pooled)))
        return {name: np.concatenate([one[name] for one in found]) for name in found[0]}

    def _block_scores(self, compiled, params, video, text, block):
        shape = len(video.pooled), len(text.pooled)
        scores = compiled(params, _filled(video, block[0]), _filled(text, block[1]))
        return {name: np.asarray(s)[: shape[0], : shape[1]] for name, s in scores.items()}

    def matching_cosines(self, params, video: VideoEmbedding, text: TextEmbedding):
        """Frame cosines of any number of videos, each with the caption of its row.

        Returns:
            `{"frame": [r f], "modular": [r f]}`: the cosine of frame and caption, plain and under
            the masks (the same for a model without).
        """
        return self._by_rows(self._cosines, params, video, text)

    def matching_masks(self, params, video: VideoEmbedding, text: TextEmbedding) -> ConceptMasks:
        """Masks `[r f d]`, or by parts `[r p f d]`, of videos with the captions of their rows."""
        return self._by_rows(self._masks, params, video, text)

    def matching_densities(self, params, video: VideoEmbedding, text: TextEmbedding):
        """The open share of these masks.

        Returns:
            `{"text_mask_density": [r *p f], "video_mask_density": [r *p f]}`.
        """
        return self._by_rows(self._densities, params, video, text)

    def _by_rows(self, compiled, params, video, text):
        parts = []
        for start in range(0, len(text.pooled), self.rows):
            block = rows_of((video, text), slice(start, start + self.rows))
            found = compiled(params, *_filled(block, self.rows))
            parts.append(_first(found, len(block[1].pooled)))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    def own_mask_scores(
        self, params, video: VideoEmbedding, text: TextEmbedding, masks: ConceptMasks
    ) -> np.ndarray:
        """Scores `[b c]` of every video under the masks that caption c has with video c."""
        return np.asarray(self._own_mask_scores(params, video, text, masks))


def _encode(spec: ModelSpec, params, batch: Batch) -> tuple[VideoEmbedding, TextEmbedding]:
    video = spec.model(params).encode_video(batch.frames, batch.frame_mask)
    texts = batch.tokens, batch.token_mask, batch.part_tokens, batch.part_token_mask
    return video, _encode_text(spec, params, texts)


def _encode_text(spec: ModelSpec, params, texts) -> TextEmbedding:
    """The texts, without the token states that no score reads."""
    model = spec.model(params)
    text = model.encode_text(*texts)
    scored = text.scored
    if not model.masks_see_frames:
        mask = model.video_mask(scored) if model.has_masks else None
        scored = dataclasses.replace(without_states(scored), video_mask=mask)
    if text.parts is None:
        return scored
    return dataclasses.replace(without_states(text), parts=scored)


def without_states(text: TextEmbedding) -> TextEmbedding:
    """The same with no token state, and a mask that only says whether there is a token."""
    tokens, mask = text.tokens[..., :0, :], text.token_mask.any(-1, keepdims=True)
    return dataclasses.replace(text, tokens=tokens, token_mask=mask)


def _pairs(
    spec: ModelSpec, scoring: PairScoring, params, video: VideoEmbedding, text: TextEmbedding
):
    model = spec.model(params)
    scores = {"global": global_scores(video, text)}
    if spec.config.modular_scale:
        captions = model.prepare(text)
        scores["modular"] = pair_scores(model, video, captions, **scoring._asdict())
    return scores


def _first_stage(
    spec: ModelSpec, scoring: PairScoring, params, video: VideoEmbedding, text: TextEmbedding
):
    scores = global_scores(video, text)
    first = scores
    if text.parts is not None:
        model = spec.model(params).without_masks()
        first += pair_scores(model, video, model.prepare(text), **scoring._asdict())
    return {"global": scores, "first": first}


def _cosines(spec: ModelSpec, params, video: VideoEmbedding, text: TextEmbedding):
    plain = (normalise(video.frames) @ normalise(text.pooled)[..., None])[..., 0]
    if not spec.config.has_masks:
        return {"frame": plain, "modular": plain}
    masks = _masks(spec, params, video, text)
    return {"frame": plain, "modular": pair_sums(video.frames, masks).cosine}


def _frame_cosines(spec: ModelSpec, params, video: VideoEmbedding, text: TextEmbedding):
    model = spec.model(params)
    cosines = frame_cosines(model, video, model.prepare(text))[0]
    return cosines if text.parts is None else cosines[:, 0]


def _class_scores(spec: ModelSpec, scoring: PairScoring, params, video: VideoEmbedding, classes):
    text = TextEmbedding(classes[:, None, :0], jnp.ones((len(classes), 1), bool), classes)
    plain = spec.model(params).without_masks()
    frames = pair_scores(plain, video, plain.prepare(text), pool=scoring.pool)
    return {"global": global_scores(video, text), "frames": frames}


def _masks(spec: ModelSpec, params, video: VideoEmbedding, text: TextEmbedding) -> ConceptMasks:
    model = spec.model(params)
    return model.own_masks(video, model.prepare(text))


def _densities(spec: ModelSpec, params, video: VideoEmbedding, text: TextEmbedding):
    masks = _masks(spec, params, video, text)
    return {
        "text_mask_density": masks.text_mask_density,
        "video_mask_density": masks.video.mean(-1),
    }


def _own_masks(
    spec: ModelSpec,
    pool: Pool,
    params,
    video: VideoEmbedding,
    text: TextEmbedding,
    masks: ConceptMasks,
):
    return own_mask_scores(
        video,
        masks,
        video.frame_mask,
        pool=pool,
        sharpness=spec.model(params).sharpness,
        part_mask=None if text.parts is None else text.parts.token_mask.any(-1),
    )


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


def _multiple(number: int, of: int) -> int:
    """The next multiple that is not smaller."""
    return -(-number // of) * of
