"""The two mask networks, and masks from their logits."""

from collections import namedtuple

import torch
from torch import Tensor
from torch.nn import Identity, LayerNorm, Linear, Module, ModuleList, Parameter

from .scores import normalise
from .towers import Attention, Block, Mlp, attend, positions_of

# All [... f d]: m^T and m^V in 0..1, which select dimensions of zt and of zv, and s = zt * m^T.
Masks = namedtuple("Masks", "text video part")


class TemporalMaskNetwork(Module):
    """The part of the caption that a frame is about: dimensions of zt, or tokens of it."""

    def __init__(self, cfg: dict):
        super().__init__()
        size, width, dim = cfg["tmn"], cfg["text"]["width"], cfg["embed_dim"]
        heads, act = size.get("heads", cfg["text"]["heads"]), cfg["activation"]
        self.layout, depth = size["layout"], size["layers"]
        self.positions = Parameter(torch.zeros(cfg["frame_positions"], width))
        self.project = Linear(dim, width, bias=False) if dim != width else Identity()
        by_token = {"select": size.get("token_layers", 0), "tokens": depth}.get(self.layout, 0)
        by_frame, decoder = depth * (self.layout in ("cross", "joint")), self.layout == "cross"
        self.token_blocks = ModuleList(Block(width, heads, act) for _ in range(by_token))
        self.blocks = ModuleList(Block(width, heads, act, decoder) for _ in range(by_frame))
        if self.layout == "select":
            self.readers = ModuleList(Attention(width, heads, reader=True) for _ in range(depth))
            self.norm_mlp, self.mlp = LayerNorm(width), Mlp(width, act)
        if self.layout == "tokens":
            self.query, self.key = Linear(width, width), Linear(width, width)
        else:
            self.norm_out, self.out = LayerNorm(width), Linear(width, dim)

    def forward(self, frames: Tensor, frame_mask: Tensor, tokens: Tensor, token_mask: Tensor):
        """zv [... f d], bool[... f], y [... l w], bool[... l] -> logits [... f d], or [... f l]."""
        x = self.project(normalise(frames) * frames.shape[-1] ** 0.5)
        x = x + positions_of(self.positions, frame_mask)
        mask, token_mask = frame_mask[..., None, :], token_mask[..., None, :]
        for block in self.token_blocks:
            tokens = block(tokens, token_mask)
        if self.layout == "joint":  # one sequence of frames and tokens
            lead = torch.broadcast_shapes(x.shape[:-2], tokens.shape[:-2])
            x = torch.cat([y.expand(*lead, -1, -1) for y in (x, tokens)], dim=-2)
            mask = torch.cat([y.expand(*lead, -1, -1) for y in (mask, token_mask)], dim=-1)
        for block in self.blocks:
            x = block(x, mask, token_mask, tokens)
        x = x[..., : frame_mask.shape[-1], :]
        if self.layout == "tokens":
            query = self.query(x) * x.shape[-1] ** -0.5
            return torch.einsum("...fw,...lw->...fl", query, self.key(tokens))
        if self.layout == "select":  # frames say where to read; only what is read goes on
            query, x = x, torch.zeros_like(x)
            for reader in self.readers:
                x = x + reader(query + x, token_mask, tokens)
            x = x + self.mlp(self.norm_mlp(x))
        return self.out(self.norm_out(x))


class ConceptMaskNetwork(Module):
    """The concepts of a frame that match its part of the caption."""

    def __init__(self, cfg: dict):
        super().__init__()
        width, dim = cfg["text"]["width"], cfg["embed_dim"]
        heads = cfg["cmn"].get("heads", cfg["text"]["heads"])
        self.blocks = ModuleList([Block(width, heads, cfg["activation"])])
        self.query, self.out = Linear(dim, width), Linear(width, dim)
        self.query_frame = Linear(dim, width, bias=False) if cfg["cmn"]["sees_frame"] else None

    def forward(self, part: Tensor, frames: Tensor, tokens: Tensor, token_mask: Tensor) -> Tensor:
        """s and zv [... f d], y [... l w], bool[... l] -> logits [... f d]."""
        query = self.query(normalise(part) * part.shape[-1] ** 0.5)
        if self.query_frame is not None:
            query = query + self.query_frame(normalise(frames) * part.shape[-1] ** 0.5)
        tokens = self.blocks[0](tokens, token_mask[..., None, :])
        return self.out(attend(1, query, tokens, tokens, token_mask[..., None, :]))


def straight_through(logits: Tensor, cfg: dict) -> Tensor:
    """A mask from logits: `soft` is the sigmoid, others are 0 or 1 with its gradient."""
    soft = torch.sigmoid((logits + cfg["init_bias"]) / cfg.get("temperature", 1.0))
    return soft if cfg["kind"] == "soft" else (soft >= 0.5).float() + (soft - soft.detach())
