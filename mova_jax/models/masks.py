"""The two mask networks (docs/method.md, 2).

The temporal mask network (TMN) selects, for each frame, the part of the caption that this frame is
about. The concept mask network (CMN) selects the concepts of the frame that match that part. Both
work in two steps, so that all pairs of videos and captions stay cheap:

    prepared = tmn.prepare(y, token_mask)           # once per caption: layers that see no frame
    logits = tmn(frames, frame_mask, prepared, ..)  # one video, one caption; the caller vmaps

The default networks never form an array of size [b f l w].
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from mova_jax.models import layers
from mova_jax.models.attention import attend


def straight_through(
    logits: Float[Array, "..."], hardness: float | Float[Array, ""]
) -> Float[Array, "..."]:
    """A mask in 0..1 from its logits (docs/method.md, 2; the parent's code).

    Args:
        logits: any shape.
        hardness: 0: the sigmoid; 1: exactly 0 or 1 with the gradient of the sigmoid; between them
            their mixture, with the same gradient.
    """
    soft = jax.nn.sigmoid(logits.astype(jnp.float32))
    hard = (soft >= 0.5).astype(jnp.float32) + (soft - jax.lax.stop_gradient(soft))
    if isinstance(hardness, float) and hardness in (0.0, 1.0):
        return hard if hardness else soft
    return (1 - hardness) * soft + hardness * hard


class CrossAttention(nnx.Module):
    """Cross-attention whose keys and values are computed apart, so that queries can share them."""

    def __init__(self, width: int, heads: int, *, rngs: nnx.Rngs, dtype):
        shape, std = (heads, width // heads), width**-0.5
        self.query = layers.linear(width, shape, std=std, rngs=rngs, dtype=dtype)
        self.key_value = layers.linear(width, (2, *shape), std=std, rngs=rngs, dtype=dtype)
        self.out = layers.linear(shape, width, axis=(-2, -1), std=std, rngs=rngs, dtype=dtype)

    def prepare(self, tokens: Float[Array, "... l w"]) -> Float[Array, "... l 2 n e"]:
        """Keys and values of the tokens."""
        return self.key_value(tokens)

    def __call__(
        self,
        x: Float[Array, "... f w"],
        key_value: Float[Array, "... l 2 n e"],
        token_mask: Bool[Array, "... l"],
    ) -> Float[Array, "... f w"]:
        key, value = key_value[..., 0, :, :], key_value[..., 1, :, :]
        return self.out(attend_tokens(self.query(x), key, value, token_mask))


def attend_tokens(query, key, value, token_mask):
    """`attend` over the valid tokens of a caption."""
    return attend(query, key, value, layers.full_mask(token_mask))


class _TemporalMaskNetwork(nnx.Module):
    """The layers that all layouts share: frame input, token input and output projection."""

    def __init__(self, cfg, output_dim: int, *, rngs: nnx.Rngs, dtype):
        """Initialises the network.

        Args:
            cfg: `config.model`.
            output_dim: d, or 0 for a layout without an output projection.
            rngs: source of the initial weights.
            dtype: type of the matrix products.
        """
        width = cfg.text.width
        self.positions = layers.table(cfg.frame_positions, width, std=0.01, rngs=rngs)
        if cfg.embed_dim != width:
            self.project = layers.linear(
                cfg.embed_dim, width, std=width**-0.5, use_bias=False, rngs=rngs, dtype=dtype
            )
        if output_dim:
            self.norm_out = layers.LayerNorm(width, rngs=rngs)
            self.out = layers.linear(width, output_dim, std=width**-0.5, rngs=rngs, dtype=dtype)
        self.init_bias = cfg.masks.init_bias
        self.detach_tokens, self.dtype = cfg.tmn.detach_tokens, dtype

    def frames_in(
        self, frames: Float[Array, "f d"], frame_mask: Bool[Array, "f"]
    ) -> Float[Array, "f w"]:
        """Normalised frames projected to the text tower's width, plus learned positions."""
        # Length sqrt(d): the scale of a layer norm without its parameters.
        x = layers.normalise(frames) * frames.shape[-1] ** 0.5
        if hasattr(self, "project"):
            x = self.project(x.astype(self.dtype))
        return (x + layers.positions_of(self.positions[...], frame_mask)).astype(self.dtype)

    def tokens_in(self, tokens: Float[Array, "c l w"]) -> Float[Array, "c l w"]:
        """Token states in the network's dtype, detached if the config says so."""
        tokens = jax.lax.stop_gradient(tokens) if self.detach_tokens else tokens
        return tokens.astype(self.dtype)

    def logits(self, x: Float[Array, "f w"]) -> Float[Array, "f d"]:
        """Output projection; `masks.init_bias` > 0 opens, < 0 closes all masks at the start."""
        return self.out(self.norm_out(x)).astype(jnp.float32) + self.init_bias


class SelectTMN(_TemporalMaskNetwork):
    """`select`: cross-attention from frames to tokens without a residual from the frame.

    The frame decides where in the caption to attend; only token values reach the logits, so that a
    mask cannot copy its frame's identity. The queries of a layer include the output of the layers
    before.
    """

    def __init__(self, cfg, *, rngs: nnx.Rngs, dtype):
        super().__init__(cfg, cfg.embed_dim, rngs=rngs, dtype=dtype)
        width, heads = cfg.text.width, cfg.text.heads
        self.readers = nnx.List(
            [CrossAttention(width, heads, rngs=rngs, dtype=dtype) for _ in range(cfg.tmn.layers)]
        )
        self.norm_mlp = layers.LayerNorm(width, rngs=rngs)
        self.mlp = layers.Mlp(
            width, cfg.activation, out_std=(2 * width) ** -0.5, rngs=rngs, dtype=dtype
        )

    def prepare(self, tokens: Float[Array, "c l w"], token_mask: Bool[Array, "c l"]):
        """Keys and values of each layer, shared by all frames of all videos."""
        x = self.tokens_in(tokens)
        return tuple(reader.prepare(x) for reader in self.readers)

    def __call__(
        self,
        frames: Float[Array, "f d"],
        frame_mask: Bool[Array, "f"],
        prepared,
        token_mask: Bool[Array, "l"],
    ) -> Float[Array, "f d"]:
        """Mask logits of one video's frames for one caption."""
        query = self.frames_in(frames, frame_mask)
        x = jnp.zeros_like(query)
        for reader, key_value in zip(self.readers, prepared, strict=True):
            x = x + reader(query + x, key_value, token_mask)
        return self.logits(x + self.mlp(self.norm_mlp(x)))


class DecoderBlock(nnx.Module):
    """Self-attention over frames, cross-attention to tokens, MLP; all with residuals."""

    def __init__(self, cfg, *, rngs: nnx.Rngs, dtype):
        width, heads, depth = cfg.text.width, cfg.text.heads, cfg.tmn.layers
        out_std = width**-0.5 * (2 * depth) ** -0.5
        self.norm_frames = layers.LayerNorm(width, rngs=rngs)
        self.frames = layers.SelfAttention(width, heads, out_std=out_std, rngs=rngs, dtype=dtype)
        self.norm_tokens = layers.LayerNorm(width, rngs=rngs)
        self.tokens = CrossAttention(width, heads, rngs=rngs, dtype=dtype)
        self.norm_mlp = layers.LayerNorm(width, rngs=rngs)
        self.mlp = layers.Mlp(width, cfg.activation, out_std=out_std, rngs=rngs, dtype=dtype)

    def __call__(self, x, frame_mask, key_value, token_mask):
        x = x + self.frames(self.norm_frames(x), layers.full_mask(frame_mask))
        x = x + self.tokens(self.norm_tokens(x), key_value, token_mask)
        return x + self.mlp(self.norm_mlp(x))


class CrossTMN(_TemporalMaskNetwork):
    """`cross`: decoder blocks from frames to tokens (has the paper's parameter count)."""

    def __init__(self, cfg, *, rngs: nnx.Rngs, dtype):
        super().__init__(cfg, cfg.embed_dim, rngs=rngs, dtype=dtype)
        self.blocks = nnx.List(
            [DecoderBlock(cfg, rngs=rngs, dtype=dtype) for _ in range(cfg.tmn.layers)]
        )

    def prepare(self, tokens: Float[Array, "c l w"], token_mask: Bool[Array, "c l"]):
        """Keys and values of each block's cross-attention."""
        x = self.tokens_in(tokens)
        return tuple(block.tokens.prepare(x) for block in self.blocks)

    def __call__(self, frames, frame_mask, prepared, token_mask) -> Float[Array, "f d"]:
        """Mask logits of one video's frames for one caption."""
        x = self.frames_in(frames, frame_mask)
        for block, key_value in zip(self.blocks, prepared, strict=True):
            x = block(x, frame_mask, key_value, token_mask)
        return self.logits(x)


class JointTMN(_TemporalMaskNetwork):
    """`joint`: a bidirectional transformer over the sequence [frames ; tokens]."""

    def __init__(self, cfg, *, rngs: nnx.Rngs, dtype):
        super().__init__(cfg, cfg.embed_dim, rngs=rngs, dtype=dtype)
        self.blocks = layers.Stack(
            cfg.text.width,
            cfg.text.heads,
            cfg.tmn.layers,
            cfg.activation,
            rngs=rngs,
            dtype=dtype,
        )

    def prepare(self, tokens: Float[Array, "c l w"], token_mask: Bool[Array, "c l"]):
        """The token states; all layers mix them with frames."""
        return self.tokens_in(tokens)

    def __call__(self, frames, frame_mask, prepared, token_mask) -> Float[Array, "f d"]:
        """Mask logits of one video's frames for one caption."""
        x = jnp.concatenate([self.frames_in(frames, frame_mask), prepared], axis=-2)
        mask = jnp.concatenate([frame_mask, token_mask], axis=-1)
        x = self.blocks(x, layers.full_mask(mask))
        return self.logits(x[..., : frames.shape[-2], :])


class TokenTMN(_TemporalMaskNetwork):
    """`tokens`: a frame selects tokens in place of dimensions (the paper's ablation iii).

    Its logits `[f l]` are of tokens; `mova.py` computes the part s from the selected tokens.
    """

    def __init__(self, cfg, *, rngs: nnx.Rngs, dtype):
        super().__init__(cfg, 0, rngs=rngs, dtype=dtype)
        width, std = cfg.text.width, cfg.text.width**-0.5
        self.token_blocks = layers.Stack(
            width, cfg.text.heads, cfg.tmn.layers, cfg.activation, rngs=rngs, dtype=dtype
        )
        self.query = layers.linear(width, width, std=std, rngs=rngs, dtype=dtype)
        self.key = layers.linear(width, width, std=std, rngs=rngs, dtype=dtype)

    def prepare(self, tokens: Float[Array, "c l w"], token_mask: Bool[Array, "c l"]):
        """The keys of the tokens."""
        return self.key(self.token_blocks(self.tokens_in(tokens), layers.full_mask(token_mask)))

    def __call__(self, frames, frame_mask, prepared, token_mask) -> Float[Array, "f l"]:
        """Mask logits of one video's frames over one caption's tokens."""
        query = self.query(self.frames_in(frames, frame_mask))
        logits = jnp.einsum("...fw,...lw->...fl", query, prepared).astype(jnp.float32)
        return logits * query.shape[-1] ** -0.5 + self.init_bias


TMN_LAYOUTS = {"select": SelectTMN, "cross": CrossTMN, "joint": JointTMN, "tokens": TokenTMN}


class ConceptMaskNetwork(nnx.Module):
    """One transformer layer over the caption, then attention pooling with a query per frame.

    The parent's network pools with one trained vector. Here the query is computed from the frame's
    part of the caption and, with `cmn.sees_frame`, from the frame, which lets identity leak
    (docs/method.md, 5).
    """

    def __init__(self, cfg, *, rngs: nnx.Rngs, dtype):
        """Initialises the network; `cfg` is `config.model`."""
        width, std = cfg.text.width, cfg.text.width**-0.5
        self.blocks = layers.Stack(width, cfg.text.heads, 1, cfg.activation, rngs=rngs, dtype=dtype)
        self.query = layers.linear(cfg.embed_dim, width, std=std, rngs=rngs, dtype=dtype)
        if cfg.cmn.sees_frame:
            self.query_frame = layers.linear(
                cfg.embed_dim, width, std=std, use_bias=False, rngs=rngs, dtype=dtype
            )
        self.out = layers.linear(width, cfg.embed_dim, std=std, rngs=rngs, dtype=dtype)
        self.init_bias = cfg.masks.init_bias
        self.detach_tokens, self.dtype = cfg.cmn.detach_tokens, dtype

    def prepare(
        self, tokens: Float[Array, "c l w"], token_mask: Bool[Array, "c l"]
    ) -> Float[Array, "c l w"]:
        """The caption's tokens after the transformer layer, shared by all frames of all videos."""
        tokens = jax.lax.stop_gradient(tokens) if self.detach_tokens else tokens
        return self.blocks(tokens.astype(self.dtype), layers.full_mask(token_mask))

    def __call__(
        self,
        part: Float[Array, "f d"],
        frames: Float[Array, "f d"],
        prepared: Float[Array, "l w"],
        token_mask: Bool[Array, "l"],
    ) -> Float[Array, "f d"]:
        """Mask logits of one video's frames.

        Args:
            part: s, each frame's part of the caption.
            frames: zv of the same frames.
            prepared: output of `prepare` for the caption.
            token_mask: its valid tokens.
        """
        scale = part.shape[-1] ** 0.5
        query = self.query((layers.normalise(part) * scale).astype(self.dtype))
        if hasattr(self, "query_frame"):
            query = query + self.query_frame((layers.normalise(frames) * scale).astype(self.dtype))
        # One head, as in the parent's attention pooling.
        tokens = prepared[..., None, :]
        pooled = attend_tokens(query[..., None, :], tokens, tokens, token_mask)[..., 0, :]
        return self.out(pooled).astype(jnp.float32) + self.init_bias
