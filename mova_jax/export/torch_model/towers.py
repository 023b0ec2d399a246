"""The towers of CLIP and the global head, and the layers that they are made of."""

from collections import namedtuple

import torch
from torch import Tensor
from torch.nn import Embedding, LayerNorm, Linear, Module, ModuleList, Parameter
from torch.nn import functional as F

# Mean and deviation of RGB values, in models of older exports.
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
ACTIVATIONS = {"gelu": F.gelu, "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x)}

# Videos: zv [b f d], 0 where padded, not normalised; bool[b f]; one vector [b d] of length 1.
Video = namedtuple("Video", "frames frame_mask pooled")
# Captions: y [c l w], after the last norm, 0 where padded; bool[c l]; zt [c d], not normalised;
# a Text of their parts with axes [c p] in place of [c], or None.
Text = namedtuple("Text", "tokens token_mask pooled parts", defaults=[None])


def attend(heads: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Attention of [... q w] to [... l w] where bool[... q l]; 0 for a query that may see none."""
    # Leading axes broadcast inside the matmuls, so keys are not copied for every pair.
    query, key, value = (x.unflatten(-1, (heads, -1)) for x in (query, key, value))
    hidden = ~mask[..., None, :, :]
    logits = torch.einsum("...qne,...lne->...nql", query * query.shape[-1] ** -0.5, key)
    weights = logits.masked_fill(hidden, -1e30).softmax(-1).masked_fill(hidden, 0.0)
    return torch.einsum("...nql,...lne->...qne", weights, value).flatten(-2)


class Attention(Module):
    """Multi-head self-attention, or with `reader` cross-attention to tokens."""

    def __init__(self, width: int, heads: int, reader: bool = False):
        super().__init__()
        self.heads, self.out = heads, Linear(width, width)
        if reader:
            self.query, self.key_value = Linear(width, width), Linear(width, 2 * width)
        else:
            self.qkv = Linear(width, 3 * width)

    def forward(self, x: Tensor, mask: Tensor, tokens: Tensor | None = None) -> Tensor:
        """[... q w], bool[... q l], for a reader [... l w] -> [... q w]."""
        if tokens is None:
            query_key_value = self.qkv(x).chunk(3, -1)
        else:
            query_key_value = self.query(x), *self.key_value(tokens).chunk(2, -1)
        return self.out(attend(self.heads, *query_key_value, mask))


class Mlp(Module):
    """Two linear maps: to four times the width and back."""

    def __init__(self, width: int, activation: str):
        super().__init__()
        self.up, self.down = Linear(width, 4 * width), Linear(4 * width, width)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        """[... w] -> [... w]."""
        return self.down(self.activation(self.up(x)))


class Block(Module):
    """CLIP's pre-norm residual block; with `decoder` also cross-attention to tokens."""

    def __init__(self, width: int, heads: int, activation: str, decoder: bool = False):
        super().__init__()
        self.norm_attention, self.attention = LayerNorm(width), Attention(width, heads)
        self.decoder = decoder
        if decoder:
            self.norm_tokens, self.tokens = LayerNorm(width), Attention(width, heads, reader=True)
        self.norm_mlp, self.mlp = LayerNorm(width), Mlp(width, activation)

    def forward(self, x: Tensor, mask: Tensor, *tokens: Tensor) -> Tensor:
        """[... q w], bool[... q q], for a decoder bool[... q l], [... l w] -> [... q w]."""
        x = x + self.attention(self.norm_attention(x), mask)
        if self.decoder:
            x = x + self.tokens(self.norm_tokens(x), *tokens)
        return x + self.mlp(self.norm_mlp(x))


def positions_of(rows: Tensor, frame_mask: Tensor) -> Tensor:
    """Positions [... f w] of valid frames, interpolated from the first row of [r w] to the last."""
    last = len(rows) - 1
    index = (frame_mask.cumsum(-1) - 1).clamp(min=0)
    place = index * last / (frame_mask.sum(-1, keepdim=True) - 1).clamp(min=1)
    low = place.long().clamp(max=last)
    return torch.lerp(rows[low], rows[(low + 1).clamp(max=last)], (place - low)[..., None])


class VisionTower(Module):
    """CLIP's vision transformer, applied to each frame by itself."""

    def __init__(self, size: dict, dim: int, act: str):
        super().__init__()
        width, self.patch = size["width"], size["patch_size"]
        self.mean_std = size.get("mean", MEAN), size.get("std", STD)
        self.patch_embedding = Linear(3 * self.patch**2, width, bias=False)
        self.class_embedding = Parameter(torch.zeros(width))
        self.positions = Parameter(torch.zeros(1 + (size["image_size"] // self.patch) ** 2, width))
        self.norm_pre, self.norm_post = LayerNorm(width), LayerNorm(width)
        self.blocks = ModuleList(Block(width, size["heads"], act) for _ in range(size["layers"]))
        self.projection = Linear(width, dim, bias=False)

    def forward(self, frames: Tensor) -> Tensor:
        """u8[n H W 3], or f32 that is normalised already -> [n d], not normalised."""
        mean, std = torch.tensor(self.mean_std, device=frames.device)
        x = frames if frames.is_floating_point() else (frames.float() / 255.0 - mean) / std
        # One row per patch: [n rows p columns p 3] -> [n rows*columns p*p*3].
        x = x.unflatten(2, (-1, self.patch)).unflatten(1, (-1, self.patch))
        x = self.patch_embedding(x.transpose(2, 3).flatten(3).flatten(1, 2))
        x = torch.cat([self.class_embedding.expand(x.shape[0], 1, -1), x], dim=1) + self.positions
        x, full_mask = self.norm_pre(x), torch.ones(1, 1, dtype=torch.bool, device=x.device)
        for block in self.blocks:
            x = block(x, full_mask)
        return self.projection(self.norm_post(x[:, 0]))


class TextTower(Module):
    """CLIP's causal transformer over a long caption."""

    def __init__(self, size: dict, dim: int, act: str):
        super().__init__()
        width, frozen = size["width"], size.get("frozen_positions", 0)
        self.token_embedding = Embedding(size["vocab_size"], width)
        if frozen:  # first rows, which are not trained
            self.positions_frozen = Parameter(torch.zeros(frozen, width), requires_grad=False)
        self.positions = Parameter(torch.zeros(size["context"] - frozen, width))
        self.blocks = ModuleList(Block(width, size["heads"], act) for _ in range(size["layers"]))
        self.norm_final = LayerNorm(width)
        self.projection = Linear(width, dim, bias=False)

    def forward(self, tokens: Tensor, token_mask: Tensor) -> Text:
        """i64[c l], bool[c l]; at most `context` tokens."""
        length, positions = tokens.shape[1], self.positions
        if hasattr(self, "positions_frozen"):
            positions = torch.cat([self.positions_frozen, positions])
        causal = torch.ones(length, length, dtype=torch.bool, device=tokens.device).tril()
        x = self.token_embedding(tokens) + positions[:length]
        for block in self.blocks:
            x = block(x, causal & token_mask[:, None, :])
        y = torch.where(token_mask[..., None], self.norm_final(x), 0.0)
        end = y[torch.arange(y.shape[0], device=y.device), (token_mask.sum(-1) - 1).clamp(min=0)]
        return Text(y, token_mask, self.projection(end))


class SequenceHead(Module):
    """Global head `seq_transformer`: blocks over frames with positions, added to the frames."""

    def __init__(self, cfg: dict):
        super().__init__()
        width, block = cfg["embed_dim"], (max(1, cfg["embed_dim"] // 64), cfg["activation"])
        self.positions = Parameter(torch.zeros(cfg["frame_positions"], width))
        self.blocks = ModuleList(Block(width, *block) for _ in range(cfg.get("head_layers", 4)))

    def forward(self, frames: Tensor, frame_mask: Tensor) -> Tensor:
        """[b f d], bool[b f] -> [b f d]."""
        x = frames + positions_of(self.positions, frame_mask)
        for block in self.blocks:
            x = block(x, frame_mask[:, None, :])
        return frames + x
