"""The objective: named terms, each with its weight, from a model and a batch (docs/method.md, 4).

    L = contrast L_g + frame L_tv + sfdm L_sfdm + dfsm L_dfsm + sparsity L_s

A variant of the method is a set of weights and a layout in the config (`mova_jax/presets.py`),
never another objective. Terms of weight 0 are not computed.

Towers run on the whole batch, which the compiler may split over devices, or on a piece at a time.
All that meets in pairs runs inside of `parties.map` on each party's rows (`ring.py`).
"""

import dataclasses
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mova_jax.losses import chosen, ring, similarity, terms
from mova_jax.typing import Batch, ConceptMasks, TextEmbedding, VideoEmbedding, WaitingFrames


class Pairing(NamedTuple):
    """How a pair's score is made from its frames: fields of `config.losses`."""

    pool: str
    scale: float
    block: int


def pairing(cfg, pool: str = "training") -> Pairing:
    """The pairing of `config.losses`; an evaluation may name another pool than training has."""
    return Pairing(cfg.pool if pool == "training" else pool, cfg.pool_scale, cfg.pair_block)


def pair_scores(model, video: VideoEmbedding, captions, candidates, how: Pairing):
    """`similarity.pair_scores` by the model's masks; by the frames alone where it has none."""
    return similarity.pair_scores(
        model.masks if model.has_masks else None,
        video,
        captions,
        candidates,
        pool=how.pool,
        scale=how.scale,
        block=how.block,
    )


def global_scores(video: VideoEmbedding, text: TextEmbedding) -> Float[Array, "b c"]:
    """Cosines of the global embeddings of all videos with all captions."""
    return similarity.cosines(video.pooled, similarity.normalise(text.pooled))


def own_mask_scores(
    video: VideoEmbedding, masks: ConceptMasks, how: Pairing
) -> Float[Array, "b c"]:
    """Score of every video under each caption's own masks, those it has with its own video."""
    return similarity.own_mask_scores(
        video, masks, video.frame_mask, pool=how.pool, scale=how.scale
    )


def objective(model, batch: Batch, cfg, step: Float[Array, ""], parties=None):
    """The loss of a batch and what to watch of it.

    Args:
        model: a `mova_jax.models.mova.Mova`.
        batch: videos and their captions, row by row. One of `WaitingFrames` goes through the towers
            piece by piece, and again in the backward pass, so that memory grows with a piece; the
            loss and its gradient are those of the whole batch.
        cfg: `config.losses`.
        step: number of the step from 0, for the warm-up of the modular terms.
        parties: between which the batch is split (`mova_jax.mesh.parties`); None: it is not.

    Returns:
        The loss (float32 scalar), and a dict of scalars: each term unweighted, the masks' kept
        shares, the scales, the in-batch accuracy of the global score.
    """
    video, text = embeddings(model, batch)
    return loss_of_embeddings(model, video, text, batch.example_mask, cfg, step, parties)


def embeddings(model, batch: Batch) -> tuple[VideoEmbedding, TextEmbedding]:
    """What the towers make of a batch, piece by piece where its frames wait."""

    def encode(frames, rows: Batch):
        video = model.encode_video(frames, rows.frame_mask)
        return video, model.encode_text(rows.tokens, rows.token_mask)

    frames = batch.frames
    if not isinstance(frames, WaitingFrames):
        return encode(frames, batch)
    return similarity.map_pieces(
        lambda number, rows: encode(frames.piece(number), rows),
        dataclasses.replace(batch, frames=None),
        frames.pieces,
    )


def loss_of_embeddings(
    model,
    video: VideoEmbedding,
    text: TextEmbedding,
    example_mask: Bool[Array, "b"],
    cfg,
    step: Float[Array, ""],
    parties=None,
):
    """`objective` from what the towers made of the batch."""
    scales = {"scale": model.scale}
    if cfg.sfdm or cfg.dfsm:
        scales["modular_scale"] = model.modular_scale
    parties = parties or ring.OneParty()
    whole, split = (model.mask_networks(), scales), (video, text, example_mask)
    found = parties.map(partial(_terms, parties, cfg), whole, split)
    means = {name: term.mean for name, term in found.items()}
    if cfg.sparsity:
        means["sparsity"] = means["kept_text"] + means["kept_video"]
    ramp = jnp.minimum(1.0, (step + 1) / cfg.warmup_steps) if cfg.warmup_steps else 1.0
    total = cfg.contrast * means["contrast"]
    for name in ("frame", "sfdm", "dfsm", "sparsity"):
        if getattr(cfg, name):
            total = total + ramp * getattr(cfg, name) * means[name]
    return total, means | scales


def _terms(parties, cfg, whole, split) -> dict[str, terms.Term]:
    """Every term by its name, summed over the parties, from a party's rows."""
    (networks, scales), (video, text, valid) = whole, split
    with jax.named_scope("global_contrast"):
        unit = similarity.normalise(text.pooled)
        logits = terms.contrast(
            parties, _global_tile, (), video.pooled, unit, scales["scale"], valid, floats=4
        )
        found = {
            "contrast": terms.global_contrast(logits, valid),
            "in_batch_r1": terms.found_first(logits, valid),
        }
    if any((cfg.frame, cfg.sfdm, cfg.dfsm, cfg.sparsity)):
        found |= _modular_terms(parties, cfg, networks, scales, video, text, valid)
    return parties.sum(found)


def _global_tile(_, video: Float[Array, "b d"], text: Float[Array, "c d"]):
    return similarity.cosines(video, text)


def _modular_terms(parties, cfg, networks, scales, video, text, valid) -> dict[str, terms.Term]:
    """L_tv, sfdm, dfsm and the masks' kept shares, of a party's rows."""
    if cfg.detach_towers:
        video, text = jax.lax.stop_gradient((video, text))
    anew = cfg.sfdm and cfg.hard_pairs and not _are_kept(networks, text)
    with jax.named_scope("masks"):
        captions, masks = _own_pairs(networks, video, text, keep=not anew)
    found = {}
    if cfg.frame:
        with jax.named_scope("frame_contrast"):
            found["frame"] = terms.frame_contrast(
                video.frames,
                masks.part,
                video.frame_mask,
                margin=cfg.margin,
                example_mask=valid,
                form=cfg.frame_form,
                negatives=cfg.frame_negatives,
                parties=parties,
            )
    if cfg.sfdm or cfg.dfsm:
        scale = scales["modular_scale"]
        rows = _Rows(video, text, captions, masks, valid)
        found |= _contrast_terms(parties, cfg, networks, scale, rows)
    if networks.has_masks:
        kept_text, kept_video = terms.sparsity(masks, video.frame_mask & valid[:, None])
        found |= {"kept_text": kept_text, "kept_video": kept_video}
    return found


class _Rows(NamedTuple):
    """A party's videos and the captions of the same rows."""

    video: VideoEmbedding
    text: TextEmbedding
    captions: Any  # prepared; None where each chosen pair prepares its own anew
    masks: ConceptMasks
    valid: Bool[Array, "r"]


def _contrast_terms(parties, cfg, networks, scale, rows: _Rows) -> dict[str, terms.Term]:
    """L_vt: sfdm and dfsm."""
    how, valid, found = pairing(cfg), rows.valid, {}
    frames, d = rows.video.frames.shape[1:]
    own = cfg.dfsm_masks == "own"
    contrast = partial(terms.contrast, parties, scale=scale, example_mask=valid)
    if cfg.sfdm and cfg.hard_pairs:
        with jax.named_scope("sfdm"):
            found["sfdm"] = _hard_sfdm(parties, cfg, networks, scale, rows)
    elif cfg.sfdm or not own:
        with jax.named_scope("pairs"):
            logits = contrast(
                partial(_pair_tile, how),
                networks,
                rows.video,
                rows.captions,
                floats=_PAIR_FLOATS * frames * d,
                block=how.block,
            )
        if cfg.sfdm:
            found["sfdm"] = terms.same_frame_different_masks(logits, valid)
    if cfg.dfsm:
        with jax.named_scope("dfsm"):
            if own:
                captions = rows.masks, rows.video.frame_mask
                tile = partial(_own_mask_tile, how)
                logits = contrast(tile, (), rows.video, captions, floats=8 * frames)
            found["dfsm"] = terms.different_frames_same_mask(logits, valid)
    return found


def _pair_tile(how: Pairing, networks, video: VideoEmbedding, captions) -> Float[Array, "b c"]:
    return pair_scores(networks, video, captions, None, how._replace(block=0)).score


def _own_mask_tile(how: Pairing, _, video: VideoEmbedding, captions) -> Float[Array, "b c"]:
    masks, frame_mask = captions
    return similarity.own_mask_scores(video, masks, frame_mask, pool=how.pool, scale=how.scale)


def _hard_sfdm(parties, cfg, networks, scale, rows: _Rows) -> terms.Term:
    """sfdm over the own caption and the k hardest of each video by the global score."""
    how, anew = pairing(cfg), rows.captions is None
    unit = jax.lax.stop_gradient(similarity.normalise(rows.text.pooled))
    everyone = parties.gather(jnp.concatenate([unit, rows.valid[:, None]], axis=1))
    everyone, valid = everyone[:, :-1], everyone[:, -1] > 0
    scores = jnp.where(valid, similarity.cosines(rows.video.pooled, everyone), -jnp.inf)
    own = terms.Rows.of(parties, rows.valid).index
    candidates = similarity.hard_candidates(scores, cfg.hard_pairs, own)
    found = chosen.score_chosen(
        parties,
        partial(_matched_anew if anew else _matched, how),
        networks,
        rows.video,
        rows.text if anew else rows.captions,
        candidates,
        _hard_chunk(cfg, parties, rows.video, rows.text, anew),
    )
    return terms.chosen_candidates(found, scale, valid[candidates], rows.valid)


def _hard_chunk(cfg, parties, video: VideoEmbedding, text: TextEmbedding, anew: bool) -> int:
    """Pairs of `hard_pairs` that are scored at once, for a party's rows."""
    rows, f, d = video.frames.shape
    _, tokens, width = text.tokens.shape
    floats = _PAIR_FLOATS * f * d + (_TOKEN_FLOATS * tokens * width if anew else 0)
    each = cfg.hard_pairs + 1
    chunk = chosen.chunk_of(parties, rows * each, floats)
    return min(chunk, cfg.pair_block * each) if cfg.pair_block else chunk


def chunks_of_a_visit(cfg, parties, networks, video: VideoEmbedding, text: TextEmbedding) -> float:
    """How often the loop over chosen pairs runs in one visit of a party, on average.

    Args:
        cfg: `config.losses`.
        parties: between which the batch is split.
        networks: of the model, or their shapes.
        video: a party's rows, or their shapes.
        text: as `video`.

    Returns:
        Pairs of a visit by pairs of a chunk, below 1 where some visits bring none; 1 where there
        is no such loop.
    """
    if not (cfg.sfdm and cfg.hard_pairs):
        return 1.0
    pairs = video.frame_mask.shape[0] * (cfg.hard_pairs + 1) / parties.size
    return pairs / _hard_chunk(cfg, parties, video, text, not _are_kept(networks, text))


def _matched(how: Pairing, networks, video: VideoEmbedding, captions) -> Float[Array, "m"]:
    masks_fn = networks.masks if networks.has_masks else None
    return similarity.matched_scores(masks_fn, video, captions, pool=how.pool, scale=how.scale)


def _matched_anew(how: Pairing, networks, video: VideoEmbedding, text) -> Float[Array, "m"]:
    return _matched(how, networks, video, networks.prepare(text))


# float32 numbers, forwards and backwards, that the mask networks need for each frame of a pair and
# for each token of a caption, in widths d. Measured on a CPU for a frame: 42 d + 7 tokens * heads
# under `select`, 70 d + 7 tokens * heads under `cross`.
_PAIR_FLOATS, _TOKEN_FLOATS = 64, 64


# Numbers of all prepared captions of a party that are kept for its chosen pairs, 2 GB where their
# gradients are added up. Beyond, each pair prepares its caption anew: with the 16 pairs of a video
# that a large batch chooses, 1 % of the towers' FLOPs.
KEPT_NUMBERS = 2**29


def _are_kept(networks, text: TextEmbedding) -> bool:
    """Whether a party has room for what the mask networks make of its captions."""
    prepared = jax.eval_shape(type(networks).prepare, networks, text)
    return sum(leaf.size for leaf in jax.tree.leaves(prepared)) <= KEPT_NUMBERS


def _own_pairs(networks, video: VideoEmbedding, text: TextEmbedding, keep: bool):
    """Prepared captions, None unless they are to be kept; the masks of each with its own video."""
    (rows, f, d), (_, tokens, width) = video.frames.shape, text.tokens.shape

    def one_block(rows):
        video, text = rows
        captions = networks.prepare(text)
        return captions if keep else None, networks.own_masks(video, captions)

    block = ring.rows_at_once(rows, _PAIR_FLOATS * f * d + _TOKEN_FLOATS * tokens * width)
    return similarity.map_blocks(one_block, (video, text), block)
