"""The two mask networks: which part of the caption, and which concepts of the frame.

Temporal mask network (TMN, docs/method.md, 2): for each frame the part of the caption that this
frame is about. Concept mask network (CMN): for that part, the concepts of the frame that
answer to it. Both work in two steps, so that all pairs of videos and captions stay cheap:

    prepared = tmn.prepare(y, token_mask)           # once a caption: everything that sees no frame
    logits = tmn(frames, frame_mask, prepared, ..)  # one video, one caption; the caller vmaps

Nothing of size [b f l w] is ever formed by the default networks.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from mova_jax.models import layers


def straight_through(logits: Float[Array, "..."], kind: str) -> Float[Array, "..."]:
    """A mask in 0..1 from its logits (docs/method.md, 2, the parent's code).

    Args:
        logits: any shape.
        kind: `hard` gives exactly 0 or 1 with the gradient of the sigmoid; `soft` the sigmoid.
    """
    soft = jax.nn.sigmoid(logits.astype(jnp.float32))
    if kind == "soft":
        return soft
    return (soft >= 0.5).astype(jnp.float32) + (soft - jax.lax.stop_gradient(soft))


class CrossAttention(nnx.Module):
    """Cross-attention whose queries and token side are made apart, so either can be shared."""

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
    """`layers.attend` over the valid tokens of a caption."""
    return layers.attend(query, key, value, layers.full_mask(token_mask))


class _TemporalMaskNetwork(nnx.Module):
    """What the layouts share: the frame's way in, the tokens' blocks, and the output map."""

    def __init__(self, cfg, output_dim: int, *, rngs: nnx.Rngs, dtype):
        """Makes the network.

        Args:
            cfg: `config.model`.
            output_dim: d, or 0 where the layout has no output map.
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
        """Unit frames of the text tower's width, with their learned positions."""
        # Unit length times sqrt(d): a layer norm's scale without its parameters, for any tower.
        x = layers.normalise(frames) * frames.shape[-1] ** 0.5
        if hasattr(self, "project"):
            x = self.project(x.astype(self.dtype))
        return (x + layers.positions_of(self.positions[...], frame_mask)).astype(self.dtype)

    def tokens_in(self, tokens: Float[Array, "c l w"]) -> Float[Array, "c l w"]:
        """Token states as the layout sees them."""
        tokens = jax.lax.stop_gradient(tokens) if self.detach_tokens else tokens
        return tokens.astype(self.dtype)

    def logits(self, x: Float[Array, "f w"]) -> Float[Array, "f d"]:
        """Output map; `masks.init_bias` opens (> 0) or closes (< 0) all masks at the start."""
        return self.out(self.norm_out(x)).astype(jnp.float32) + self.init_bias


class SelectTMN(_TemporalMaskNetwork):
    """`select`: the frame decides where in the caption to look, not what is written.

    Two reads of the tokens; the second asks with what the first found. Only token values flow into
    the logits: there is no residual from the frame, so a mask cannot copy its frame's identity.
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
        """Keys and values of each read, shared by all frames of all videos."""
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
        asked = self.frames_in(frames, frame_mask)
        found = jnp.zeros_like(asked)
        for reader, key_value in zip(self.readers, prepared, strict=True):
            found = found + reader(asked + found, key_value, token_mask)
        return self.logits(found + self.mlp(self.norm_mlp(found)))


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
    """`cross`: plain decoder blocks from frames to tokens (meets the paper's parameter count)."""

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
    """`joint`: one bidirectional sequence [frames ; tokens], read at the frames."""

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
        """The token states themselves: every layer mixes them with the frames."""
        return self.tokens_in(tokens)

    def __call__(self, frames, frame_mask, prepared, token_mask) -> Float[Array, "f d"]:
        """Mask logits of one video's frames for one caption."""
        x = jnp.concatenate([self.frames_in(frames, frame_mask), prepared], axis=-2)
        mask = jnp.concatenate([frame_mask, token_mask], axis=-1)
        x = self.blocks(x, layers.full_mask(mask))
        return self.logits(x[..., : frames.shape[-2], :])


class TokenTMN(_TemporalMaskNetwork):
    """`tokens`: a frame selects tokens in place of dimensions (the paper's ablation iii).

    Its logits are [f l], one a token; `mova.py` makes the caption's part from the kept tokens.
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
        """One key a token."""
        return self.key(self.token_blocks(self.tokens_in(tokens), layers.full_mask(token_mask)))

    def __call__(self, frames, frame_mask, prepared, token_mask) -> Float[Array, "f l"]:
        """Mask logits of one video's frames over one caption's tokens."""
        query = self.query(self.frames_in(frames, frame_mask))
        logits = jnp.einsum("...fw,...lw->...fl", query, prepared).astype(jnp.float32)
        return logits * query.shape[-1] ** -0.5 + self.init_bias


TMN_LAYOUTS = {"select": SelectTMN, "cross": CrossTMN, "joint": JointTMN, "tokens": TokenTMN}


class ConceptMaskNetwork(nnx.Module):
    """One transformer layer over the caption, then attention pooling for each frame's part of it.

    The parent's network pools with one trained vector; here the query is made from the frame's
    masked text, and from the frame too when `cmn.sees_frame`, which lets identity leak
    (docs/method.md, 5).
    """

    def __init__(self, cfg, *, rngs: nnx.Rngs, dtype):
        """Makes the network from `config.model`."""
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
        """The caption's tokens after the layer, shared by all frames of all videos."""
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
            part: s, what of the caption each frame is about.
            frames: zv of the same frames.
            prepared: what `prepare` made of the caption.
            token_mask: its valid tokens.
        """
        scale = part.shape[-1] ** 0.5
        query = self.query((layers.normalise(part) * scale).astype(self.dtype))
        if hasattr(self, "query_frame"):
            query = query + self.query_frame((layers.normalise(frames) * scale).astype(self.dtype))
        # One head: the attention pooling of the parent, with a query that depends on the frame.
        tokens = prepared[..., None, :]
        pooled = attend_tokens(query[..., None, :], tokens, tokens, token_mask)[..., 0, :]
        return self.out(pooled).astype(jnp.float32) + self.init_bias
