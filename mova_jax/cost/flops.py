"""FLOPs that the method needs for a step, by formula: the model FLOPs of an MFU.

Counted by the letters of `mova_jax/typing.py` from what the configuration says, not from what is
compiled: nothing that is computed again counts (rematerialisation, a second copy on another
device), and what is computed though a mask makes it void (padding, the upper half of a causal
attention) does, as is the custom. 2 FLOPs a multiplication with its addition, matrix products only.

A product of values with trained weights costs as much again for the gradient of the weights, and
as much for that of the values, where something behind them is trained.
"""

import dataclasses
from collections.abc import Collection, Mapping

from mova_jax.losses.terms import TERMS, active_terms
from mova_jax.models.heads import LAYERS as HEAD_LAYERS

TOWERS = ("vision", "text")


def frozen_towers(factors: Mapping[str, float]) -> frozenset[str]:
    """Those of `TOWERS` without any trained parameter, by the factors on the learning rate."""
    trained = {name.partition("/")[0] for name, factor in factors.items() if factor}
    return frozenset(TOWERS) - trained


@dataclasses.dataclass(frozen=True)
class Cost:
    """FLOPs of a part, over the whole batch."""

    forward: float = 0.0
    backward: float = 0.0

    @property
    def total(self) -> float:
        """Both ways."""
        return self.forward + self.backward

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.forward + other.forward, self.backward + other.backward)

    def __rmul__(self, times: float) -> "Cost":
        return Cost(times * self.forward, times * self.backward)


def product(rows: float, inside: float, columns: float, gradients: int = 2) -> Cost:
    """A product of [rows inside] with [inside columns], and so many gradients of the same size."""
    flops = 2.0 * rows * inside * columns
    return Cost(flops, gradients * flops)


def attention(queries: float, keys: float, width: float) -> Cost:
    """Scores and weighted values of all heads together, without the maps around them."""
    return product(queries, width, keys) + product(queries, keys, width)


def blocks(depth: int, length: float, width: float) -> Cost:
    """A stack of transformer blocks over a sequence (`models/layers.py`).

    The gradient runs through the first map too where the input has none: its layer norm is trained.
    """
    return depth * (
        product(length, width, 3 * width)
        + attention(length, length, width)
        + product(length, width, width)
        + 2 * product(length, width, 4 * width)
    )


def model_flops(
    config, tokens: int, frozen: Collection[str] = (), batch: int = 0, frames: int = 0
) -> dict[str, Cost]:
    """FLOPs of a train step by part of the method.

    Args:
        config: a checked configuration.
        tokens: l, length that captions are padded to.
        frozen: those of `TOWERS` whose parameters are not trained.
        batch: videos, global; 0: `train.batch_size`.
        frames: a video; 0: `data.frames`.

    Returns:
        `{part: Cost}` with the parts vision, text, global_head, global_loss, tmn, cmn,
        modular_losses.
    """
    b, f = batch or config.train.batch_size, frames or config.data.frames
    model, losses = config.model, config.losses
    d = model.embed_dim
    parts = {
        "vision": b * f * _vision(model),
        "text": b * _text(model, tokens),
        "global_head": Cost(),
        "global_loss": product(b, d, b),
        "tmn": Cost(),
        "cmn": Cost(),
        "modular_losses": Cost(),
    }
    for tower in TOWERS:
        if tower in frozen:
            parts[tower] = Cost(parts[tower].forward)
    if model.global_head == "seq_transformer":
        parts["global_head"] = b * blocks(HEAD_LAYERS, f, d)
    modular = {name: TERMS[name] for name in active_terms(losses, model) if TERMS[name].modular}
    if not modular:
        return parts
    reached = {tower: tower not in frozen for tower in TOWERS}
    own, every = Pairs(b, b, b), _scored_pairs(losses, modular.values(), b)
    for pairs in filter(None, (own, every)):
        parts["tmn"] += _tmn(model, pairs, f, tokens, reached["vision"])
        parts["cmn"] += _cmn(model, pairs, f, tokens, reached["vision"])
    parts["tmn"] += b * _tmn_captions(model, tokens, reached["text"])
    if model.cmn.kind != "none":
        parts["cmn"] += b * blocks(1, tokens, model.text.width)
    products = [shape for term in modular.values() for shape in term.products(losses, b, f, d)]
    if every and model.tmn.layout == model.cmn.kind == "none":
        products.append((every.pairs * f, d, 1))  # under masks these cosines are no matrix product
    parts["modular_losses"] = sum((product(*shape) for shape in products), Cost())
    return parts


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Videos that meet captions: how many pairs, and how many different of each are in them."""

    pairs: float
    videos: float
    captions: float  # the pairs themselves where captions are gathered for each video


def _scored_pairs(losses, terms, b: int) -> Pairs | None:
    """The pairs that are scored under their own masks, if a term asks for them."""
    if not any(term.scores_pairs(losses) for term in terms):
        return None
    if losses.hard_pairs:
        chosen = b * (losses.hard_pairs + 1)
        return Pairs(chosen, b, chosen)
    return Pairs(b * b, b, b)


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


def _tmn_captions(model, l: int, reached: bool) -> Cost:
    """What the TMN makes of one caption, for all videos (`prepare`)."""
    w, cfg = model.text.width, model.tmn
    into = reached and not cfg.detach_tokens
    match cfg.layout:
        case "select":
            return cfg.layers * product(l, w, 2 * w, 2 if into else 1)
        case "cross":
            return cfg.layers * product(l, w, 2 * w, 2 if into else 1)
        case "tokens":
            # Each token's projection is the text tower's own map.
            projection = product(l, w, model.embed_dim, 2 if reached else 0)
            return blocks(cfg.layers, l, w) + product(l, w, w) + projection
    return Cost()


def _tmn(model, n: Pairs, f: int, l: int, reached: bool) -> Cost:
    """The mask logits of pairs. What depends on the frames alone is made once a video."""
    w, d, cfg = model.text.width, model.embed_dim, model.tmn
    if cfg.layout == "none":
        return Cost()
    into = product(f, d, w, 2 if reached else 1) if d != w else Cost()
    query, out, mlp = product(f, w, w), product(f, w, w), 2 * product(f, w, 4 * w)
    logits, read = product(f, w, d), attention(f, l, w)
    itself = product(f, w, 3 * w) + attention(f, f, w) + product(f, w, w)
    match cfg.layout:
        case "select":
            video = into + query
            pair = cfg.layers * (read + out) + (cfg.layers - 1) * query + mlp + logits
        case "cross":
            video = into + itself + query
            pair = cfg.layers * (read + out + mlp) + (cfg.layers - 1) * (itself + query) + logits
        case "joint":
            video, pair = into, blocks(cfg.layers, f + l, w) + logits
        case _:  # tokens: scores over tokens, and the mean of the kept ones
            video, pair = into + query, product(f, w, l) + product(f, l, d)
    return n.videos * video + n.pairs * pair


def _cmn(model, n: Pairs, f: int, l: int, reached: bool) -> Cost:
    """The mask logits of pairs."""
    if model.cmn.kind == "none":
        return Cost()
    w, d = model.text.width, model.embed_dim
    one = product(f, d, w) + attention(f, l, w) + product(f, w, d)
    frames = product(f, d, w, 2 if reached else 1) if model.cmn.sees_frame else Cost()
    # Without a TMN all videos ask a caption the same.
    alike = model.tmn.layout == "none" and not model.cmn.sees_frame
    return (n.captions if alike else n.pairs) * one + n.videos * frames
