"""The input of a loss term: a replica's rows, and results that several terms share.

A shared result is a property: it is computed when the first term reads it, once, and not at all
when no term of nonzero weight needs it.
"""

import dataclasses
from functools import cached_property
from typing import Any

import jax
from jaxtyping import Array, Bool, Float

from mova_jax.losses import ring
from mova_jax.losses.batch_rows import BatchRows, RowKeys
from mova_jax.losses.contrast import LogitStats, logit_stats
from mova_jax.losses.microbatch import map_blocks
from mova_jax.losses.pools import normalise
from mova_jax.losses.replica_group import ReplicaGroup
from mova_jax.losses.scores import cosines, own_mask_scores, pair_scores
from mova_jax.typing import ConceptMasks, TextEmbedding, VideoEmbedding

# float32 numbers that the mask networks need, forward and backward, for each frame of a pair and
# for each token of a caption, in units of their width. Measured on a CPU for a frame:
# 42 d + 7 tokens * heads under `select`, 70 d + 7 tokens * heads under `cross`. Without masks that
# depend on frames, numbers that one cosine needs.
FRAME_FLOATS, TOKEN_FLOATS, COSINE_FLOATS = 64, 64, 8

# Most numbers in all prepared captions of a replica that are stored for its hard pairs: 2 GB where
# their gradients are summed. With more, each pair prepares its caption again; for the 16 pairs of a
# video in a large batch that costs 1 % of the towers' FLOPs.
STORED_NUMBERS = 2**29


@dataclasses.dataclass(frozen=True, eq=False)
class TermContext:
    """The input of a term, inside `group.shard_map`; row i is a video and its own caption.

    The embeddings are those of this replica's `r` rows; results named logits cover all pairs of the
    whole batch.
    """

    group: ReplicaGroup
    cfg: Any  # `config.losses`
    networks: Any  # `models.mova.MaskNetworks`
    scales: dict[str, Float[Array, ""]]  # `scale`, and `modular_scale` of a model that has one
    video: VideoEmbedding
    text: TextEmbedding
    example_mask: Bool[Array, "r"]  # False for rows of padding
    keys: RowKeys | None = None  # None: all rows are negatives of each other

    @property
    def frame_mask(self) -> Bool[Array, "r *p f"]:
        """Valid frames of valid examples; of divided captions, by valid part."""
        mask = self.video.frame_mask & self.example_mask[:, None]
        if self.text.parts is None:
            return mask
        return mask[:, None] & self.text.parts.token_mask.any(-1)[..., None]

    @property
    def rows(self) -> BatchRows:
        """This replica's rows within the whole batch."""
        return BatchRows.of(self.group, self.example_mask, self.keys)

    @cached_property
    def global_logits(self) -> LogitStats:
        """All pairs by their global embeddings."""
        unit = normalise(self.text.pooled)
        arguments = (), self.video.pooled, unit, self.scales["scale"], self.rows
        return logit_stats(self.group, _global_tile, *arguments, floats=4)

    @property
    def captions(self) -> Any:
        """The captions as the mask networks prepare them, rows `[r ...]`, by parts `[r p ...]`."""
        if not self.networks.has_masks:  # needs none of the blocks below
            return self.networks.prepare(self.text)
        stored, _ = self._captions_and_masks
        return self.networks.prepare(self.text) if stored is None else stored

    @property
    def masks(self) -> ConceptMasks:
        """The masks `[r f d]`, or by parts `[r p f d]`, of each video with its own caption."""
        return self._captions_and_masks[1]

    @property
    def recomputes_captions(self) -> bool:
        """Whether hard pairs prepare their captions themselves, because all would not fit."""
        if not (self.cfg.sfdm and self.cfg.hard_pairs):
            return False
        return not captions_fit(self.networks, self.text)

    @cached_property
    def _captions_and_masks(self) -> tuple[Any, ConceptMasks]:
        """Prepared captions, or None when they would not fit; the masks of matching pairs."""
        store = not self.recomputes_captions

        def one_block(rows):
            video, text = rows
            captions = self.networks.prepare(text)
            return captions if store else None, self.networks.own_masks(video, captions)

        block = ring.choose_block(len(self.video.frames), sum(pair_floats(self.video, self.text)))
        with jax.named_scope("masks"):
            return map_blocks(one_block, (self.video, self.text), block)

    @cached_property
    def pair_logits(self) -> LogitStats:
        """All pairs, each under its own masks; without mask networks, the plain cosines."""
        return self._all_pairs(self.networks, self.captions)

    @cached_property
    def unmasked_logits(self) -> LogitStats:
        """All pairs by their plain cosines."""
        networks = self.networks.without_masks()
        return self._all_pairs(networks, networks.prepare(self.text))

    def _all_pairs(self, networks, captions) -> LogitStats:
        pool, order = self.cfg.pool, self.cfg.order

        def tile(networks, video, captions):
            return pair_scores(networks, video, captions, pool=pool, order=order)

        if networks.masks_see_frames:
            floats, _ = pair_floats(self.video, self.text)
        else:
            floats = COSINE_FLOATS * self.video.frames.shape[1] * _parts(self.text)
        with jax.named_scope("pairs"):
            return self._modular_logits(tile, networks, self.video, captions, floats=floats)

    @cached_property
    def own_mask_logits(self) -> LogitStats:
        """All pairs under the masks that the caption has with its own video."""
        captions, pool = (self.masks, self.video.frame_mask), self.cfg.pool

        def tile(networks, video, captions):
            return own_mask_scores(video, *captions, pool=pool, sharpness=networks.sharpness)

        floats = COSINE_FLOATS * self.video.frames.shape[1]
        return self._modular_logits(tile, self.networks, self.video, captions, floats=floats)

    def _modular_logits(self, tile, *arguments, floats: int) -> LogitStats:
        arguments += self.scales["modular_scale"], self.rows
        return logit_stats(self.group, tile, *arguments, floats=floats)


def _global_tile(_, video: Float[Array, "b d"], text: Float[Array, "c d"]) -> Float[Array, "b c"]:
    return cosines(video, text)


def _parts(text: TextEmbedding) -> int:
    """Number of parts of a caption, with padding."""
    return 1 if text.parts is None else text.parts.token_mask.shape[1]


def pair_floats(video: VideoEmbedding, text: TextEmbedding) -> tuple[int, int]:
    """float32 numbers for the masks of a pair, and to prepare a caption, forward and backward."""
    f, d = video.frames.shape[1:]
    *_, tokens, width = text.scored.tokens.shape
    parts = _parts(text)
    return FRAME_FLOATS * parts * f * d, TOKEN_FLOATS * parts * tokens * width


def captions_fit(networks, text: TextEmbedding) -> bool:
    """Whether a replica can store all of its captions as the mask networks prepare them."""
    # Their structure is closed over: as that of an argument it would be compared with earlier ones,
    # and the `hardness_now` of annealed masks in it is traced.
    leaves, structure = jax.tree.flatten(networks)
    prepared = jax.eval_shape(
        lambda leaves, text: structure.unflatten(leaves).prepare(text), leaves, text
    )
    return sum(leaf.size for leaf in jax.tree.leaves(prepared)) <= STORED_NUMBERS
