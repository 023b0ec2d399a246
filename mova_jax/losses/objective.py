"""The objective: named terms, each with its weight, from a model and a batch (docs/method.md, 4).

    L = contrast L_g + frame L_tv + sfdm L_sfdm + dfsm L_dfsm + sparsity L_s

A variant of the method is a set of weights and a layout in the config (`config/presets.py`),
never another objective. Terms of weight 0 are not computed.

Towers run on the whole batch, which the compiler may split over devices, or by microbatches.
Everything that forms pairs runs inside `group.shard_map` on each replica's rows (`ring.py`).
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mova_jax.losses import hard_pairs, ring, terms
from mova_jax.losses import scores as scores_lib
from mova_jax.losses.microbatch import embeddings, map_blocks
from mova_jax.typing import Batch, ConceptMasks, TextEmbedding, VideoEmbedding


class PairScoring(NamedTuple):
    """How a pair's score is made from its frames."""

    pool: str


def pair_scoring(cfg, pool: str = "training") -> PairScoring:
    """The pairing of `config.losses`; an evaluation may name another pool than training has."""
    return PairScoring(cfg.pool if pool == "training" else pool)


def pair_scores(model, video: VideoEmbedding, captions, scoring: PairScoring):
    """`similarity.pair_scores` by the model's masks; by the frames alone where it has none."""
    return scores_lib.pair_scores(
        model.masks if model.has_masks else None, video, captions, pool=scoring.pool
    )


def global_scores(video: VideoEmbedding, text: TextEmbedding) -> Float[Array, "b c"]:
    """Cosines of the global embeddings of all videos with all captions."""
    return scores_lib.cosines(video.pooled, scores_lib.normalise(text.pooled))


def own_mask_scores(
    video: VideoEmbedding, masks: ConceptMasks, scoring: PairScoring
) -> Float[Array, "b c"]:
    """Score of every video under each caption's own masks, those it has with its own video."""
    return scores_lib.own_mask_scores(video, masks, video.frame_mask, pool=scoring.pool)


def objective(model, batch: Batch, cfg, group=None):
    """The loss of a batch and what to watch of it.

    Args:
        model: a `mova_jax.models.mova.Mova`.
        batch: videos and their captions, row by row; `HostFrames` go through the towers by
            microbatches (`losses/microbatch.py`).
        cfg: `config.losses`.
        group: between which the batch is split (`parallel.mesh.replica_group`); None: it is not.

    Returns:
        The loss (float32 scalar), and a dict of scalars: each term unweighted, the masks' kept
        shares, the scales, the in-batch accuracy of the global score.
    """
    video, text = embeddings(model, batch)
    return loss_of_embeddings(model, video, text, batch.example_mask, cfg, group)


def loss_of_embeddings(
    model,
    video: VideoEmbedding,
    text: TextEmbedding,
    example_mask: Bool[Array, "b"],
    cfg,
    group=None,
):
    """`objective` from what the towers made of the batch."""
    scales = {"scale": model.scale}
    if cfg.sfdm or cfg.dfsm:
        scales["modular_scale"] = model.modular_scale
    group = group or ring.SingleReplica()
    whole, split = (model.mask_networks(), scales), (video, text, example_mask)
    found = group.shard_map(partial(_terms, group, cfg), whole, split)
    means = {name: term.mean for name, term in found.items()}
    if cfg.sparsity:
        means["sparsity"] = means["text_mask_density"] + means["video_mask_density"]
    total = cfg.contrast * means["contrast"]
    for name in ("frame", "sfdm", "dfsm", "sparsity"):
        if getattr(cfg, name):
            total = total + getattr(cfg, name) * means[name]
    return total, means | scales


def _terms(group, cfg, whole, split) -> dict[str, terms.Term]:
    """Every term by its name, summed over the replicas, from a replica's rows."""
    (networks, scales), (video, text, valid) = whole, split
    with jax.named_scope("global_contrast"):
        unit = scores_lib.normalise(text.pooled)
        logits = terms.contrast(
            group, _global_tile, (), video.pooled, unit, scales["scale"], valid, floats=4
        )
        found = {
            "contrast": terms.global_contrast(logits, valid),
            "in_batch_r1": terms.in_batch_recall_at_1(logits, valid),
        }
    if any((cfg.frame, cfg.sfdm, cfg.dfsm, cfg.sparsity)):
        found |= _modular_terms(group, cfg, networks, scales, video, text, valid)
    return group.psum(found)


def _global_tile(_, video: Float[Array, "b d"], text: Float[Array, "c d"]):
    return scores_lib.cosines(video, text)


def _modular_terms(group, cfg, networks, scales, video, text, valid) -> dict[str, terms.Term]:
    """L_tv, sfdm, dfsm and the masks' kept shares, of a replica's rows."""
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
                group=group,
            )
    if cfg.sfdm or cfg.dfsm:
        scale = scales["modular_scale"]
        rows = _Rows(video, text, captions, masks, valid)
        found |= _contrast_terms(group, cfg, networks, scale, rows)
    if networks.has_masks:
        text_mask_density, video_mask_density = terms.sparsity(
            masks, video.frame_mask & valid[:, None]
        )
        found |= {"text_mask_density": text_mask_density, "video_mask_density": video_mask_density}
    return found


class _Rows(NamedTuple):
    """A replica's videos and the captions of the same rows."""

    video: VideoEmbedding
    text: TextEmbedding
    captions: Any  # prepared; None where each chosen pair prepares its own anew
    masks: ConceptMasks
    valid: Bool[Array, "r"]


def _contrast_terms(group, cfg, networks, scale, rows: _Rows) -> dict[str, terms.Term]:
    """L_vt: sfdm and dfsm."""
    scoring, valid, found = pair_scoring(cfg), rows.valid, {}
    frames, d = rows.video.frames.shape[1:]
    own = cfg.dfsm_masks == "own"
    contrast = partial(terms.contrast, group, scale=scale, example_mask=valid)
    if cfg.sfdm and cfg.hard_pairs:
        with jax.named_scope("sfdm"):
            found["sfdm"] = _hard_sfdm(group, cfg, networks, scale, rows)
    elif cfg.sfdm or not own:
        with jax.named_scope("pairs"):
            logits = contrast(
                partial(_pair_tile, scoring),
                networks,
                rows.video,
                rows.captions,
                floats=_PAIR_FLOATS * frames * d,
            )
        if cfg.sfdm:
            found["sfdm"] = terms.same_frame_different_masks(logits, valid)
    if cfg.dfsm:
        with jax.named_scope("dfsm"):
            if own:
                captions = rows.masks, rows.video.frame_mask
                tile = partial(_own_mask_tile, scoring)
                logits = contrast(tile, (), rows.video, captions, floats=8 * frames)
            found["dfsm"] = terms.different_frames_same_mask(logits, valid)
    return found


def _pair_tile(
    scoring: PairScoring, networks, video: VideoEmbedding, captions
) -> Float[Array, "b c"]:
    return pair_scores(networks, video, captions, scoring).score


def _own_mask_tile(scoring: PairScoring, _, video: VideoEmbedding, captions) -> Float[Array, "b c"]:
    masks, frame_mask = captions
    return scores_lib.own_mask_scores(video, masks, frame_mask, pool=scoring.pool)


def _hard_sfdm(group, cfg, networks, scale, rows: _Rows) -> terms.Term:
    """sfdm over the own caption and the k hardest of each video by the global score."""
    scoring, anew = pair_scoring(cfg), rows.captions is None
    unit = jax.lax.stop_gradient(scores_lib.normalise(rows.text.pooled))
    everyone = group.all_gather(jnp.concatenate([unit, rows.valid[:, None]], axis=1))
    everyone, valid = everyone[:, :-1], everyone[:, -1] > 0
    scores = jnp.where(valid, scores_lib.cosines(rows.video.pooled, everyone), -jnp.inf)
    own = terms.Rows.of(group, rows.valid).index
    candidates = scores_lib.hard_candidates(scores, cfg.hard_pairs, own)
    found = hard_pairs.score_chosen(
        group,
        partial(_matched_anew if anew else _matched, scoring),
        networks,
        rows.video,
        rows.text if anew else rows.captions,
        candidates,
        _hard_chunk(cfg, group, rows.video, rows.text, anew),
    )
    return terms.chosen_candidates(found, scale, valid[candidates], rows.valid)


def _hard_chunk(cfg, group, video: VideoEmbedding, text: TextEmbedding, anew: bool) -> int:
    """Pairs of `hard_pairs` that are scored at once, for a replica's rows."""
    rows, f, d = video.frames.shape
    _, tokens, width = text.tokens.shape
    floats = _PAIR_FLOATS * f * d + (_TOKEN_FLOATS * tokens * width if anew else 0)
    return hard_pairs.chunk_of(group, rows * (cfg.hard_pairs + 1), floats)


def chunks_of_a_visit(cfg, group, networks, video: VideoEmbedding, text: TextEmbedding) -> float:
    """How often the loop over chosen pairs runs in one visit of a replica, on average.

    Args:
        cfg: `config.losses`.
        group: between which the batch is split.
        networks: of the model, or their shapes.
        video: a replica's rows, or their shapes.
        text: as `video`.

    Returns:
        Pairs of a visit by pairs of a chunk, below 1 where some visits bring none; 1 where there
        is no such loop.
    """
    if not (cfg.sfdm and cfg.hard_pairs):
        return 1.0
    pairs = video.frame_mask.shape[0] * (cfg.hard_pairs + 1) / group.size
    return pairs / _hard_chunk(cfg, group, video, text, not _are_kept(networks, text))


def _matched(scoring: PairScoring, networks, video: VideoEmbedding, captions) -> Float[Array, "m"]:
    masks_fn = networks.masks if networks.has_masks else None
    return scores_lib.matched_scores(masks_fn, video, captions, pool=scoring.pool)


def _matched_anew(scoring: PairScoring, networks, video: VideoEmbedding, text) -> Float[Array, "m"]:
    return _matched(scoring, networks, video, networks.prepare(text))


# float32 numbers, forwards and backwards, that the mask networks need for each frame of a pair and
# for each token of a caption, in widths d. Measured on a CPU for a frame: 42 d + 7 tokens * heads
# under `select`, 70 d + 7 tokens * heads under `cross`.
_PAIR_FLOATS, _TOKEN_FLOATS = 64, 64


# Numbers of all prepared captions of a replica that are kept for its chosen pairs, 2 GB where their
# gradients are added up. Beyond, each pair prepares its caption anew: with the 16 pairs of a video
# that a large batch chooses, 1 % of the towers' FLOPs.
KEPT_NUMBERS = 2**29


def _are_kept(networks, text: TextEmbedding) -> bool:
    """Whether a replica has room for what the mask networks make of its captions."""
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
    return map_blocks(one_block, (video, text), block)
