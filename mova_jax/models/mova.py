"""The MoVA model: two towers, a global head and the mask networks.

    video = model.encode_video(frames, frame_mask)     # zv[b f d] and one vector per video
    text = model.encode_text(tokens, token_mask)       # y[c l w] and zt[c d]; by parts, if given
    captions = model.prepare(text)                     # the masks' input from captions, made once
    masks = model.masks(frames[f d], mask[f], caption) # one video, one caption: vmap over pairs

Captions that are divided (`TextEmbedding.parts`) are prepared by parts, rows [c p ...]; what is a
caption in this module is then one part.

`losses/` computes scores and losses from these outputs.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt8

from mova_jax.models.heads import global_head
from mova_jax.models.masks import TMN_LAYOUTS, ConceptMaskNetwork, straight_through
from mova_jax.models.text import TextTower
from mova_jax.models.vision import VisionTower
from mova_jax.typing import ConceptMasks, TextEmbedding, VideoEmbedding

SHARPNESS = 10.0  # of the pools of models that do not train it
NO_TOKEN = 1e-6  # a mask over tokens whose sum is at most this selects none


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PreparedCaption:
    """The mask networks' input from captions, which does not depend on frames."""

    pooled: Float[Array, "c d"]  # zt
    token_mask: Bool[Array, "c l"]
    temporal: Any = None  # output of the TMN's `prepare`, None without a TMN
    concept: Any = None  # output of the CMN's `prepare`, None without one
    video_mask: Float[Array, "c d"] | None = None  # m^V where no frame changes it
    tokens: Float[Array, "c l d"] | None = None  # projected, for the `tokens` layout only


class MaskNetworks(nnx.Module):
    """TMN and CMN: all parameters that the score of a pair depends on, but those of the towers.

    What the config leaves out has no attribute: `tmn`, `cmn`, `projection` (of tokens, in the
    `tokens` layout only), `log_sharpness`. Nor have `annealed` masks the attribute `hardness_now`
    outside of training.
    """

    def __init__(self, cfg, parts: dict[str, Any]):
        """Holds networks and scalars by attribute name; `cfg` is `config.model`."""
        self.cfg = cfg
        for name, module in parts.items():
            setattr(self, name, module)

    @property
    def has_masks(self) -> bool:
        """False for the controls without masks."""
        return hasattr(self, "tmn") or hasattr(self, "cmn")

    @property
    def masks_see_frames(self) -> bool:
        """Whether masks depend on frames; else those of a caption hold for all videos."""
        return self.has_masks and self.cfg.masks_see_frames

    @property
    def hardness(self) -> Float[Array, ""] | float:
        """Of the masks, see `straight_through`; that of annealed ones is 1 but in training."""
        if hasattr(self, "hardness_now"):
            return self.hardness_now
        return 0.0 if self.cfg.masks.kind == "soft" else 1.0

    @property
    def sharpness(self) -> Float[Array, ""] | float:
        """Factor on the cosines in a pool over frames (`losses.scores.pool_frames`)."""
        return jnp.exp(self.log_sharpness[...]) if hasattr(self, "log_sharpness") else SHARPNESS

    def prepare(self, text: TextEmbedding) -> PreparedCaption:
        """Runs the layers of the mask networks that see captions only, once for all videos.

        Returns:
            Rows `[c ...]`; of divided captions, rows `[c p ...]`.
        """
        if text.parts is None:
            return self._prepare(text)
        shape = text.parts.token_mask.shape[:2]
        rows = math.prod(shape)  # not -1, for arrays may be of size 0
        flat = jax.tree.map(lambda leaf: leaf.reshape(rows, *leaf.shape[2:]), text.parts)
        return _unflattened(self._prepare(flat), shape)

    def _prepare(self, text: TextEmbedding) -> PreparedCaption:
        if not self.masks_see_frames:
            mask = self.video_mask(text) if self.has_masks else None
            return PreparedCaption(text.pooled, text.token_mask, video_mask=mask)
        arguments = text.tokens, text.token_mask
        by_token = self.cfg.tmn.layout == "tokens"
        with jax.named_scope("tmn"):
            temporal = self.tmn.prepare(*arguments) if hasattr(self, "tmn") else None
        with jax.named_scope("cmn"):
            concept = self.cmn.prepare(*arguments) if hasattr(self, "cmn") else None
        return PreparedCaption(
            pooled=text.pooled,
            token_mask=text.token_mask,
            temporal=temporal,
            concept=concept,
            tokens=self.projection(text.tokens).astype(jnp.float32) if by_token else None,
        )

    def video_mask(self, text: TextEmbedding) -> Float[Array, "c d"]:
        """m^V of texts, in models whose masks no frame changes."""
        if text.video_mask is not None:
            return text.video_mask

        def logits(pooled, prepared, token_mask):
            return self.cmn(pooled[None], pooled[None], prepared, token_mask)[0]

        with jax.named_scope("cmn"):
            prepared = self.cmn.prepare(text.tokens, text.token_mask)
            logits = jax.vmap(logits)(text.pooled, prepared, text.token_mask)
        return straight_through(logits, self.hardness)

    def masks(
        self,
        frames: Float[Array, "f d"],
        frame_mask: Bool[Array, "f"],
        caption: PreparedCaption,
    ) -> ConceptMasks:
        """m^T, s and m^V of one video and one caption (docs/method.md, 2).

        Args:
            frames: zv of the video.
            frame_mask: its valid frames.
            caption: one row of `prepare`: leaves without the axis c.
        """
        text, density, part = self._text_part(frames, frame_mask, caption)
        video = jnp.ones_like(part)
        if caption.video_mask is not None:
            video = video * caption.video_mask
        elif hasattr(self, "cmn"):
            with jax.named_scope("cmn"):
                logits = self.cmn(part, frames, caption.concept, caption.token_mask)
            video = straight_through(logits, self.hardness)
        return ConceptMasks(text=text, video=video, part=part, text_mask_density=density)

    def _text_part(self, frames, frame_mask, caption):
        """m^T over d, the open share of each frame's mask, and the part s = zt * m^T."""
        if not hasattr(self, "tmn"):
            text = jnp.ones_like(frames)
            return text, text.mean(-1), caption.pooled * text
        with jax.named_scope("tmn"):
            logits = self.tmn(frames, frame_mask, caption.temporal, caption.token_mask)
        mask = straight_through(logits, self.hardness)
        if self.cfg.tmn.layout != "tokens":
            return mask, mask.mean(-1), caption.pooled * mask
        # s is the mean of the selected tokens' projections, weighted by the mask, in place of
        # zt * m^T; 0 where no token is selected.
        mask = mask * caption.token_mask
        total = mask.sum(-1, keepdims=True)
        part = mask @ caption.tokens / jnp.where(total > NO_TOKEN, total, 1.0)
        density = mask.sum(-1) / jnp.maximum(caption.token_mask.sum(), 1)
        return jnp.ones_like(part), density, part

    def own_masks(self, video: VideoEmbedding, captions: PreparedCaption) -> ConceptMasks:
        """The masks `[b f d]`, or by parts `[b p f d]`, of each video with its row's caption."""
        return jax.vmap(self.caption_masks)(video.frames, video.frame_mask, captions)

    def caption_masks(self, frames, frame_mask, caption: PreparedCaption) -> ConceptMasks:
        """`masks`, or of a divided caption `[p f d]`: those of each part."""
        if caption.pooled.ndim == 1:
            return self.masks(frames, frame_mask, caption)
        return jax.vmap(self.masks, in_axes=(None, None, 0))(frames, frame_mask, caption)

    def without_masks(self) -> "MaskNetworks":
        """The same with all masks open."""
        kept = {"log_sharpness": self.log_sharpness} if hasattr(self, "log_sharpness") else {}
        return MaskNetworks(self.cfg, kept)


class Mova(MaskNetworks):
    """The whole model: every intermediate result is the return value of a method."""

    def __init__(self, cfg, *, rngs: nnx.Rngs):
        """Initialises the model.

        Args:
            cfg: `config.model`, with `text.vocab_size` set.
            rngs: source of the initial weights.
        """
        dtype = jnp.dtype(cfg.dtype)
        common = {"rngs": rngs, "dtype": dtype}
        tower = {"activation": cfg.activation, "remat": cfg.remat, "attention": cfg.attention}
        tower |= common
        self.vision = VisionTower(cfg.vision, cfg.embed_dim, **tower)
        self.text = TextTower(cfg.text, cfg.embed_dim, **tower)
        self.head = global_head(cfg, **common)
        self.logit_scale = nnx.Param(jnp.log(jnp.asarray(cfg.scale, jnp.float32)))
        if cfg.tmn.layout != "none":
            self.tmn = TMN_LAYOUTS[cfg.tmn.layout](cfg, **common)
        if cfg.cmn.kind != "none":
            self.cmn = ConceptMaskNetwork(cfg, **common)
        if cfg.modular_scale:
            self.modular_logit_scale = nnx.Param(
                jnp.log(jnp.asarray(cfg.modular_scale, jnp.float32))
            )
        if cfg.sharpness:
            self.log_sharpness = nnx.Param(jnp.log(jnp.asarray(cfg.sharpness, jnp.float32)))
        self.cfg = cfg

    @property
    def scale(self) -> Float[Array, ""]:
        """Trained scale of the global scores, at most 100 as in CLIP."""
        return _capped_exp(self.logit_scale[...])

    @property
    def modular_scale(self) -> Float[Array, ""]:
        """Trained scale of the modular scores, with the same cap."""
        return _capped_exp(self.modular_logit_scale[...])

    def encode_video(
        self, frames: UInt8[Array, "b f H W 3"], frame_mask: Bool[Array, "b f"]
    ) -> VideoEmbedding:
        """Runs the vision tower and the global head."""
        b, f = frame_mask.shape
        with jax.named_scope("vision_tower"):
            zv = self.vision(frames.reshape(b * f, *frames.shape[2:])).reshape(b, f, -1)
        # Padded frames are set to 0 once, here, so that no later layer can read them.
        zv = jnp.where(frame_mask[..., None], zv, 0.0)
        with jax.named_scope("global_head"):
            return VideoEmbedding(zv, frame_mask, self.head(zv, frame_mask))

    def encode_text(
        self,
        tokens: Int[Array, "c l"],
        token_mask: Bool[Array, "c l"],
        part_tokens: Int[Array, "c p t"] | None = None,
        part_token_mask: Bool[Array, "c p t"] | None = None,
    ) -> TextEmbedding:
        """Runs the text tower on captions and, if there are parts, on each as a text of its own."""
        with jax.named_scope("text_tower"):
            text = self.text(tokens, token_mask)
            if part_tokens is None:
                return text
            shape = part_tokens.shape[:2]
            flat = (x.reshape(-1, x.shape[-1]) for x in (part_tokens, part_token_mask))
            parts = _unflattened(self.text(*flat), shape)
            return dataclasses.replace(text, parts=parts)

    @property
    def projection(self) -> nnx.Module:
        """The text tower's map to the joint embedding."""
        return self.text.projection

    def mask_networks(self, hardness: Float[Array, ""] | None = None) -> MaskNetworks:
        """The model without towers and head, with shared parameters.

        Args:
            hardness: of `annealed` masks at a step of training; None: as everywhere else.
        """
        names = [name for name in ("tmn", "cmn", "log_sharpness") if hasattr(self, name)]
        names += ["projection"] if self.cfg.tmn.layout == "tokens" else []
        parts = {name: getattr(self, name) for name in names}
        return MaskNetworks(
            self.cfg, parts if hardness is None else parts | {"hardness_now": hardness}
        )


def _unflattened(tree: Any, shape: tuple[int, int]) -> Any:
    """Rows `[(c p) ...]` as rows `[c p ...]`."""
    return jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), tree)


def _capped_exp(x: Float[Array, ""]) -> Float[Array, ""]:
    """`min(exp(x), 100)` with the gradient of `exp(x)`.

    The gradient of a minimum is 0 above the cap: a scale that starts there, as CLIP's and that of
    the `paper` preset do (exp(log(100)) is 100.00001 in float32), could never decrease.
    """
    value = jnp.exp(x)
    return value - jax.lax.stop_gradient(jnp.maximum(value - 100.0, 0.0))


def count_parameters(model: nnx.Module) -> int:
    """Number of trained scalars."""
    return sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))
