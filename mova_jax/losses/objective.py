"""The objective: named terms, each with its weight, from a model and a batch (docs/method.md, 4).

    L = contrast L_g + frame L_tv + sfdm L_sfdm + dfsm L_dfsm + sparsity L_s

A variant of the method is a set of weights and a layout in the config (`mova_jax/presets.py`),
never another objective. Terms of weight 0 are not computed.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mova_jax.losses import similarity, terms
from mova_jax.typing import Batch, ConceptMasks, TextEmbedding, VideoEmbedding


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
    return jnp.einsum("bd,cd->bc", video.pooled, similarity.normalise(text.pooled))


def own_mask_scores(
    video: VideoEmbedding, masks: ConceptMasks, how: Pairing
) -> Float[Array, "b c"]:
    """Score of every video under each caption's own masks, those it has with its own video."""
    return similarity.own_mask_scores(video, masks, pool=how.pool, scale=how.scale)


def objective(model, batch: Batch, cfg, step: Float[Array, ""]):
    """The loss of a batch and what to watch of it.

    Args:
        model: a `mova_jax.models.mova.Mova`.
        batch: videos and their captions, row by row.
        cfg: `config.losses`.
        step: number of the step from 0, for the warm-up of the modular terms.

    Returns:
        The loss (float32 scalar), and a dict of scalars: each term unweighted, the masks' kept
        shares, the scales, the in-batch accuracy of the global score.
    """
    video = model.encode_video(batch.frames, batch.frame_mask)
    text = model.encode_text(batch.tokens, batch.token_mask)
    with jax.named_scope("global_contrast"):
        scores = global_scores(video, text)
        contrast = terms.global_contrast(scores, model.scale, batch.example_mask)
    losses = {"contrast": (cfg.contrast, contrast)}
    watched = {
        "in_batch_r1": _in_batch_r1(scores, batch.example_mask).mean,
        "scale": model.scale,
    }
    if any((cfg.frame, cfg.sfdm, cfg.dfsm, cfg.sparsity)):
        modular, also = _modular_terms(model, batch, video, text, scores, cfg)
        ramp = jnp.minimum(1.0, (step + 1) / cfg.warmup_steps) if cfg.warmup_steps else 1.0
        losses |= {name: (weight * ramp, term) for name, (weight, term) in modular.items()}
        watched |= also
    total = sum(weight * term.mean for weight, term in losses.values())
    return total, watched | {name: term.mean for name, (_, term) in losses.items()}


def _in_batch_r1(scores: Float[Array, "b c"], example_mask: Bool[Array, "b"]) -> terms.Term:
    """Captions whose own video scores highest in the batch; their number."""
    best = jnp.argmax(jnp.where(example_mask[:, None], scores, -jnp.inf), axis=0)
    found = (best == jnp.arange(scores.shape[1])) & example_mask
    return terms.Term(found.sum(dtype=jnp.float32), example_mask.sum(dtype=jnp.float32))


def _modular_terms(model, batch, video, text, scores, cfg):
    """L_tv, sfdm, dfsm and L_s: {name: (weight, Term)}, and what to watch."""
    how, valid = pairing(cfg), batch.example_mask
    if cfg.detach_towers:
        video, text = jax.lax.stop_gradient((video, text))
    with jax.named_scope("masks"):
        captions = model.prepare(text)
        masks = model.own_masks(video, captions)
    found, watched = {}, {}
    if cfg.frame:
        with jax.named_scope("frame_contrast"):
            found["frame"] = (
                cfg.frame,
                terms.frame_contrast(
                    video.frames,
                    masks.part,
                    video.frame_mask,
                    margin=cfg.margin,
                    example_mask=valid,
                    form=cfg.frame_form,
                    negatives=cfg.frame_negatives,
                ),
            )
    if cfg.sfdm or (cfg.dfsm and cfg.dfsm_masks == "pair"):
        with jax.named_scope("pairs"):
            candidates = _candidates(scores, valid, cfg.hard_pairs)
            pairs = pair_scores(model, video, captions, candidates, how).score
    if cfg.sfdm:
        with jax.named_scope("sfdm"):
            found["sfdm"] = cfg.sfdm, _sfdm(pairs, candidates, model.modular_scale, valid)
    if cfg.dfsm:
        with jax.named_scope("dfsm"):
            by_video = pairs if cfg.dfsm_masks == "pair" else own_mask_scores(video, masks, how)
            term = terms.different_frames_same_mask(by_video, model.modular_scale, valid)
            found["dfsm"] = cfg.dfsm, term
    if model.has_masks:
        kept_text, kept_video = terms.sparsity(masks, video.frame_mask & valid[:, None])
        watched |= {"kept_text": kept_text.mean, "kept_video": kept_video.mean}
        if cfg.sparsity:
            both = kept_text.mean + kept_video.mean
            found["sparsity"] = cfg.sparsity, terms.Term(both, jnp.ones(()))
    if cfg.sfdm or cfg.dfsm:
        watched["modular_scale"] = model.modular_scale
    return found, watched


def _candidates(scores, valid, hard_pairs: int):
    """The own caption and the k hardest of each video by the global score; None for all."""
    if not hard_pairs:
        return None
    return similarity.hard_candidates(jnp.where(valid, scores, -jnp.inf), hard_pairs)


def _sfdm(pairs, candidates, scale, valid):
    """Same frame, different masks: cross-entropy of each video over its candidate captions."""
    b = pairs.shape[0]
    if candidates is None:
        positive, candidate_mask = jnp.arange(b), jnp.broadcast_to(valid, (b, b))
    else:
        positive, candidate_mask = jnp.zeros(b, jnp.int32), valid[candidates]
    return terms.same_frame_different_masks(pairs, scale, candidate_mask, valid, positive=positive)
