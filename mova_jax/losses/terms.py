"""The terms of the objective: `TERMS`, the one table that a new term is added to.

A term is a function of a `TermContext` and a line in `TERMS`; its weight is the key of the same
name in `config.losses` or, without such a key, the weight in its line. The objective, the metrics,
the report and the count of FLOPs read the table.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp

from mova_jax.losses import contrast
from mova_jax.losses.context import TermContext
from mova_jax.losses.frame_answer import frame_answer
from mova_jax.losses.frame_contrast import frame_contrast
from mova_jax.losses.hard_sfdm import hard_sfdm
from mova_jax.typing import Term


@dataclasses.dataclass(frozen=True)
class TermSpec:
    """One term of the objective."""

    # Returns the sum and count over this replica's rows. The value of a dict is the sum of the
    # means in it; each of them is logged under its own name too.
    fn: Callable[[TermContext], Term | dict[str, Term]]
    label: str  # in the report
    # The term is left out of models and captions that have none of this.
    needs: Literal["", "masks", "masks_or_parts", "modular_scale"] = ""
    weight: float = 0.0  # when `config.losses` has no key of the term's name
    modular: bool = True  # reads frames or masks, not the global embeddings alone
    # For the count of FLOPs: whether it reads `pair_logits`, by `config.losses`.
    scores_pairs: Callable[[Any], bool] = lambda cfg: False
    # For the count of FLOPs: its own matrix products `(rows, inner, columns)`, by `config.losses`
    # and the sizes b, f, d of the global batch and the number of parts of a caption, 0 for whole
    # captions. A fourth number is that of the products of the backward pass, otherwise 2.
    products: Callable[[Any, int, int, int, int], list[tuple[int, ...]]] = lambda *_: []


def global_contrast(context: TermContext) -> Term:
    """L_g: videos and captions by their global embeddings."""
    return contrast.global_contrast(context.global_logits, context.example_mask)


def frame(context: TermContext) -> Term:
    """L_tv: each frame and its own part of the caption; of divided captions, one of them or none.

    The video mask is not applied. It is there for positives alone, and a mask of one open dimension
    would give them the cosine 1.
    """
    cfg, video, parts = context.cfg, context.video, context.text.parts
    common = {
        "example_mask": context.example_mask,
        "keys": context.keys,
        "group": context.group,
    }
    if parts is None:
        return frame_contrast(
            video.frames,
            context.masks.part,
            video.frame_mask,
            margin=cfg.margin,
            negatives=cfg.frame_negatives,
            **common,
        )
    return frame_answer(
        video.frames,
        parts.pooled,
        context.masks.part if context.networks.masks_see_frames else None,
        video.frame_mask,
        parts.token_mask.any(-1),
        nothing=cfg.margin,
        sharpness=context.networks.sharpness,
        **common,
    )


def _frame_products(cfg, b: int, f: int, d: int, parts: int) -> list[tuple[int, ...]]:
    if parts:  # own parts, those of others, and which of these say the same
        return [(b * f, d, parts), (b * f, d, b * parts), (b * parts, d, b * parts, 0)]
    if cfg.frame_negatives == "all":
        return [(b * f, d, b * f)]
    return [(b * f, d, f), (f * b, d, b)]


def sfdm(context: TermContext) -> Term:
    """L_vt, same frame, different masks: each video over the captions, all or the hardest."""
    if context.cfg.hard_pairs:
        return hard_sfdm(context)
    return contrast.same_frame_different_masks(context.pair_logits, context.example_mask)


def dfsm(context: TermContext) -> Term:
    """L_vt, different frames, same mask: each caption over the videos."""
    match context.cfg.dfsm_masks:
        case "own":
            logits = context.own_mask_logits
        case "none":
            logits = context.unmasked_logits
        case _:
            logits = context.pair_logits
    return contrast.different_frames_same_mask(logits, context.example_mask)


def _dfsm_products(cfg, b: int, f: int, d: int, parts: int) -> list[tuple[int, ...]]:
    """Two products under a caption's own masks, one without masks."""
    return {"own": 2, "none": 1, "pair": 0}[cfg.dfsm_masks] * [(f * b, d, b * max(1, parts))]


def mask_densities(context: TermContext) -> dict[str, Term]:
    """L_s: the open share of both masks (docs/method.md, 4: L0, with the masks' own gradient).

    Returns:
        Terms of the text masks and of the video masks: sum over valid frames of the share of the
        mask that is open; count of valid frames.
    """
    text = context.masks.text_mask_density.astype(jnp.float32)
    video = context.masks.video.astype(jnp.float32).mean(-1)
    return {
        "text_mask_density": contrast.masked_term(text, context.frame_mask),
        "video_mask_density": contrast.masked_term(video, context.frame_mask),
    }


TERMS: dict[str, TermSpec] = {
    "contrast": TermSpec(global_contrast, "L_g: global contrast", modular=False),
    "frame": TermSpec(
        frame, "L_tv: frame contrast", needs="masks_or_parts", products=_frame_products
    ),
    "sfdm": TermSpec(
        sfdm,
        "sfdm: same frame, different masks",
        needs="modular_scale",
        scores_pairs=lambda cfg: True,
    ),
    "dfsm": TermSpec(
        dfsm,
        "dfsm: different frames, same mask",
        needs="modular_scale",
        scores_pairs=lambda cfg: cfg.dfsm_masks == "pair",
        products=_dfsm_products,
    ),
    "sparsity": TermSpec(mask_densities, "L_s: sparsity", needs="masks"),
}


def active_terms(cfg, model, divided: bool) -> dict[str, float]:
    """The weights that are not 0, by term, of the terms that a model has.

    Args:
        cfg: `config.losses`.
        model: `config.model`.
        divided: whether captions are divided into parts.
    """
    has = {
        "": True,
        "masks": model.has_masks,
        "masks_or_parts": model.has_masks or divided,
        "modular_scale": bool(model.modular_scale),
    }
    weights = {name: getattr(cfg, name, spec.weight) for name, spec in TERMS.items()}
    return {name: weight for name, weight in weights.items() if weight and has[TERMS[name].needs]}
