"""Model FLOPs of a train step, by formula: the numerator of an MFU.

The formulas read the configuration, not the compiled program. By convention they count matrix
products only, 2 FLOPs for a multiplication and its addition; they leave out what is computed a
second time (rematerialisation, a copy on another device) and include what a mask discards
(padding, the upper half of causal attention).

The backward pass of a product of values and trained weights costs as much as the product for the
gradient of the weights, and as much again for the gradient of the values if anything that they
depend on is trained. Letters are those of `mova_jax/typing.py`.
"""

import dataclasses
from collections.abc import Collection, Mapping

from mova_jax.losses.terms import TERMS, active_terms
from mova_jax.models.heads import LAYERS as HEAD_LAYERS

TOWERS = ("vision", "text")


def frozen_towers(factors: Mapping[str, float]) -> frozenset[str]:
    """Those of `TOWERS` without a trained parameter.

    Args:
        factors: factor on the learning rate by parameter name.
    """
    trained = {name.partition("/")[0] for name, factor in factors.items() if factor}
    return frozenset(TOWERS) - trained


@dataclasses.dataclass(frozen=True)
class Cost:
    """FLOPs of a part of the method."""

    forward: float = 0.0
    backward: float = 0.0

    @property
    def total(self) -> float:
        """Of both passes."""
        return self.forward + self.backward

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.forward + other.forward, self.backward + other.backward)

    def __rmul__(self, times: float) -> "Cost":
        return Cost(times * self.forward, times * self.backward)


def product(rows: float, inner: float, columns: float, gradients: int = 2) -> Cost:
    """A product of [rows inner] and [inner columns].

    Args:
        gradients: how many of the two factors get a gradient, at the cost of the product each.
    """
    flops = 2.0 * rows * inner * columns
    return Cost(flops, gradients * flops)


def attention(queries: float, keys: float, width: float) -> Cost:
    """Scores and weighted values of all heads, without the linear maps around them."""
    return product(queries, width, keys) + product(queries, keys, width)


def blocks(depth: int, length: float, width: float) -> Cost:
    """A stack of transformer blocks over a sequence (`models/layers.py`).

    The first map passes a gradient even if the input needs none: its layer norm is trained.
    """
    return depth * (
        product(length, width, 3 * width)
        + attention(length, length, width)
        + product(length, width, width)
        + 2 * product(length, width, 4 * width)
    )


def model_flops(
    config,
    tokens: int,
    frozen: Collection[str] = (),
    batch: int = 0,
    frames: int = 0,
    parts: tuple[int, int] = (0, 0),
) -> dict[str, Cost]:
    """FLOPs of a train step over the whole batch, by part of the method.

    Args:
        config: a checked configuration.
        tokens: l, the length to which captions are padded.
        frozen: those of `TOWERS` that are not trained.
        batch: videos of the global batch; 0: `train.batch_size`.
        frames: frames of a video; 0: `data.frames`.
        parts: p and t, the number and length that the parts of a caption are padded to; 0 for
            captions that are not divided.

    Returns:
        `{part: Cost}` with the parts vision, text, global_head, global_loss, tmn, cmn,
        modular_losses.
    """
    b, f = batch or config.train.batch_size, frames or config.data.frames
    model, losses = config.model, config.losses
    d, (p, t) = model.embed_dim, parts
    costs = {
        "vision": b * f * _vision(model),
        "text": b * _text(model, tokens) + b * p * _text(model, t),
        "global_head": Cost(),
        "global_loss": product(b, d, b),
        "tmn": Cost(),
        "cmn": Cost(),
        "modular_losses": Cost(),
    }
    for tower in TOWERS:
        if tower in frozen:
            costs[tower] = Cost(costs[tower].forward)
    if model.global_head == "seq_transformer":
        costs["global_head"] = b * blocks(HEAD_LAYERS, f, d)
    names = active_terms(losses, model, p > 0)
    terms = [TERMS[name] for name in names if TERMS[name].modular]
    if not terms:
        return costs
    # The texts that masks are made of: captions, or their parts.
    texts, length = (b * p, t) if p else (b, tokens)
    matching, scored = Pairs(texts, b), _scored_pairs(losses, terms, b, max(1, p))
    if model.masks_see_frames:
        for pairs in filter(None, (matching, scored)):
            costs["tmn"] += _tmn(model, pairs, f, length, "vision" not in frozen)
            costs["cmn"] += _cmn(model, pairs, f, length, "vision" not in frozen)
    elif model.has_masks:
        costs["cmn"] += _cmn(model, matching, 1, length, "vision" not in frozen)
    costs["tmn"] += texts * _tmn_captions(model, length, "text" not in frozen)
    if model.cmn.kind != "none":
        costs["cmn"] += texts * blocks(1, length, model.text.width)
    products = [shape for term in terms for shape in term.products(losses, b, f, d, p)]
    if scored and not model.masks_see_frames:
        # The cosines of frames and texts are matrix products.
        products += (2 if model.has_masks else 1) * [(scored.pairs * f, d, 1)]
    costs["modular_losses"] = sum((product(*shape) for shape in products), Cost())
    return costs


@dataclasses.dataclass(frozen=True)
class Pairs:
    """The numbers of videos, and of their pairs with captions or parts of captions."""

    pairs: float
    videos: float


def _scored_pairs(losses, terms, b: int, parts: int) -> Pairs | None:
    """The pairs that are scored under their own masks; None if no term reads such scores."""
    if not any(term.scores_pairs(losses) for term in terms):
        return None
    captions = losses.hard_pairs + 1 if losses.hard_pairs else b
    return Pairs(b * captions * parts, b)


def _vision(model) -> Cost:
    """One frame."""
    cfg = model.vision
    patches = (cfg.image_size // cfg.patch_size) ** 2
    # Pixels have no gradient.
    embedding = product(patches, 3 * cfg.patch_size**2, cfg.width, gradients=1)
    return (
        embedding
        + blocks(cfg.layers, patches + 1, cfg.width)
        + product(1, cfg.width, model.embed_dim)
    )


def _text(model, l: int) -> Cost:
    """One caption."""
    cfg = model.text
    return blocks(cfg.layers, l, cfg.width) + product(1, cfg.width, model.embed_dim)


def _tmn_captions(model, l: int, text_trained: bool) -> Cost:
    """The TMN's layers over one caption, which all videos share (`prepare`)."""
    w, cfg = model.text.width, model.tmn
    match cfg.layout:
        case "select" | "cross":
            gradients = 2 if text_trained and not cfg.detach_tokens else 1
            return cfg.layers * product(l, w, 2 * w, gradients)
        case "tokens":
            # Tokens are projected by a map of the text tower.
            projection = product(l, w, model.embed_dim, 2 if text_trained else 0)
            return blocks(cfg.layers, l, w) + product(l, w, w) + projection
    return Cost()


def _tmn(model, n: Pairs, f: int, l: int, vision_trained: bool) -> Cost:
    """The mask logits of pairs; layers over the frames alone run once for each video."""
    w, d, cfg = model.text.width, model.embed_dim, model.tmn
    if cfg.layout == "none":
        return Cost()
    into = product(f, d, w, 2 if vision_trained else 1) if d != w else Cost()
    query, out, mlp = product(f, w, w), product(f, w, w), 2 * product(f, w, 4 * w)
    logits, read = product(f, w, d), attention(f, l, w)
    over_frames = product(f, w, 3 * w) + attention(f, f, w) + product(f, w, w)
    match cfg.layout:
        case "select":
            video = into + query
            pair = cfg.layers * (read + out) + (cfg.layers - 1) * query + mlp + logits
        case "cross":
            video = into + over_frames + query
            pair = cfg.layers * (read + out + mlp) + (cfg.layers - 1) * (over_frames + query)
            pair += logits
        case "joint":
            video, pair = into, blocks(cfg.layers, f + l, w) + logits
        case _:  # tokens: logits over tokens, and the mean of the selected ones
            video, pair = into + query, product(f, w, l) + product(f, l, d)
    return n.videos * video + n.pairs * pair


def _cmn(model, n: Pairs, f: int, l: int, vision_trained: bool) -> Cost:
    """The mask logits of pairs."""
    if model.cmn.kind == "none":
        return Cost()
    w, d = model.text.width, model.embed_dim
    one = product(f, d, w) + attention(f, l, w) + product(f, w, d)
    frames = product(f, d, w, 2 if vision_trained else 1) if model.cmn.sees_frame else Cost()
    return n.pairs * one + n.videos * frames
