"""MoVA in plain PyTorch: one file, to be copied beside `config.json` and `model.safetensors`.

    from torch_model import Mova  # needs torch and safetensors, nothing else
    model = Mova.from_pretrained("folder")
    video, text = model.encode_video(frames, frame_mask), model.encode_text(tokens, token_mask)
    scores, cosines = model.scores(video, text), model.timeline(video, text)

Frames are RGB bytes of the model's image size; the last valid token of a caption is end-of-text.
Everything is float32 and differentiable. Masks of validity are bool, True = valid, and end in
`_mask`; `Masks` select dimensions. Axes, in shapes and einsum strings:

    b videos, c captions    f frames, l tokens    d joint embedding, w width of a tower
    n heads, e width of a head    ... leading axes, which broadcast: [b 1 f d] meets [c l w]

Keys that exports of format 1 have and those of format 2 have not are read by `get`.
"""

import json
import pathlib
from collections import namedtuple

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import Embedding, Identity, LayerNorm, Linear, Module, ModuleList, Parameter
from torch.nn import functional as F

PIXELS = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # mean, std
ACTIVATIONS = {"gelu": F.gelu, "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x)}

# Videos: zv [b f d], 0 where padded, not normalised; bool[b f]; one vector [b d] of length 1.
Video = namedtuple("Video", "frames frame_mask pooled")
# Captions: y [c l w], after the last norm, 0 where padded; bool[c l]; zt [c d], not normalised.
Text = namedtuple("Text", "tokens token_mask pooled")
# All [... f d]: m^T and m^V in 0..1, which select dimensions of zt and of zv, and s = zt * m^T.
Masks = namedtuple("Masks", "text video part")


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
        self.patch_embedding = Linear(3 * self.patch**2, width, bias=False)
        self.class_embedding = Parameter(torch.zeros(width))
        self.positions = Parameter(torch.zeros(1 + (size["image_size"] // self.patch) ** 2, width))
        self.norm_pre, self.norm_post = LayerNorm(width), LayerNorm(width)
        self.blocks = ModuleList(Block(width, size["heads"], act) for _ in range(size["layers"]))
        self.projection = Linear(width, dim, bias=False)

    def forward(self, frames: Tensor) -> Tensor:
        """u8[n H W 3] -> [n d], not normalised."""
        mean, std = torch.tensor(PIXELS, device=frames.device)
        x = (frames.float() / 255.0 - mean) / std
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


def inverse_length(squared: Tensor) -> Tensor:
    """`1 / sqrt(squared)`; 0 with gradient 0 where the length is 0, as under an empty mask."""
    return torch.where(squared > 1e-12, squared, torch.inf).rsqrt()


def normalise(x: Tensor) -> Tensor:
    """[... d] at length 1; a zero vector stays 0 with gradient 0."""
    return x * inverse_length(x.square().sum(-1, keepdim=True))


def straight_through(logits: Tensor, cfg: dict) -> Tensor:
    """A mask from logits: `soft` is the sigmoid, `hard` is 0 or 1 with the sigmoid's gradient."""
    soft = torch.sigmoid((logits + cfg["init_bias"]) / cfg.get("temperature", 1.0))
    return soft if cfg["kind"] == "soft" else (soft >= 0.5).float() + (soft - soft.detach())


class Mova(Module):
    """The whole model. `config` is the dict of config.json."""

    def __init__(self, config: dict):
        super().__init__()
        self.config, cfg = config, config["model"]
        common = cfg["embed_dim"], cfg["activation"]
        self.vision = VisionTower(cfg["vision"], *common)
        self.text = TextTower(cfg["text"], *common)
        self.head = SequenceHead(cfg) if cfg["global_head"] == "seq_transformer" else None
        self.tmn = TemporalMaskNetwork(cfg) if cfg["tmn"]["layout"] != "none" else None
        self.cmn = ConceptMaskNetwork(cfg) if cfg["cmn"]["kind"] != "none" else None
        self.logit_scale = Parameter(torch.tensor(cfg["scale"]).log())
        if cfg["modular_scale"]:
            self.modular_logit_scale = Parameter(torch.tensor(cfg["modular_scale"]).log())

    @classmethod
    def from_pretrained(cls, folder: str) -> "Mova":
        """The model of a folder; one error names all that is missing, unexpected, ill-shaped."""
        config = json.loads(pathlib.Path(folder, "config.json").read_text(encoding="utf-8"))
        if config.get("format") != "mova_jax" or config.get("format_version") not in (1, 2):
            raise ValueError("config.json: expected format 'mova_jax', format_version 1 or 2")
        model = cls(config)
        model.load_state_dict(load_file(f"{folder}/model.safetensors"))
        return model.eval()

    def encode_video(self, frames: Tensor, frame_mask: Tensor) -> Video:
        """u8[b f H W 3], bool[b f]."""
        zv = self.vision(frames.flatten(0, 1)).unflatten(0, frame_mask.shape)
        zv = torch.where(frame_mask[..., None], zv, 0.0)
        x = normalise(zv if self.head is None else self.head(zv, frame_mask))
        return Video(zv, frame_mask, normalise((x * frame_mask[..., None]).sum(-2)))

    def encode_text(self, tokens: Tensor, token_mask: Tensor) -> Text:
        """i64[c l], bool[c l]."""
        return self.text(tokens, token_mask)

    def masks(self, video: Video, text: Text) -> Masks:
        """Masks [b f d] of each video with the caption of its row; leading axes broadcast."""
        (frames, frame_mask, _), (y, token_mask, pooled) = video, text
        cfg, mask = self.config["model"], torch.ones_like(frames)
        tokens, words = (y.detach() if cfg[n]["detach_tokens"] else y for n in ("tmn", "cmn"))
        if self.tmn is not None:
            mask = straight_through(self.tmn(frames, frame_mask, tokens, token_mask), cfg["masks"])
        if cfg["tmn"]["layout"] != "tokens":
            part = pooled[..., None, :] * mask
        else:  # the part is the mean of the selected tokens
            mask = mask * token_mask[..., None, :]
            # Not `clamp`: as in JAX, half of the gradient passes where one token is selected.
            count = torch.maximum(mask.sum(-1, keepdim=True), mask.new_ones(()))
            part = torch.einsum("...fl,...ld->...fd", mask, self.text.projection(y)) / count
            mask = torch.ones_like(part)
        concepts = torch.ones_like(part)
        if self.cmn is not None:
            concepts = straight_through(self.cmn(part, frames, words, token_mask), cfg["masks"])
        return Masks(mask, concepts, part)

    def timeline(self, video: Video, text: Text) -> Tensor:
        """Cosine [b f] of each frame with the caption of its row, under the masks if any."""
        masks = self.masks(video, text)
        return (normalise(video.frames * masks.video) * normalise(masks.part)).sum(-1)

    def scores(self, video: Video, text: Text, block: int = 0) -> dict[str, Tensor]:
        """Scores [b c] of all pairs by name; `block` > 0 bounds the memory: videos at a time."""
        scores = {"global": video.pooled @ normalise(text.pooled).T}
        if self.config["model"]["modular_scale"]:
            blocks = zip(*(x[:, None].split(block or len(x)) for x in video), strict=True)
            scores["modular"] = torch.cat([self._pair_score(Video(*x), text) for x in blocks])
            scores["blend"] = scores["global"] + self.config["blend_weight"] * scores["modular"]
        return scores

    def _pair_score(self, video: Video, text: Text) -> Tensor:
        """Modular score [...] of pairs, from their valid frames by `score_pool`."""
        masks, pool, valid = self.masks(video, text), self.config["score_pool"], video.frame_mask
        v, s = video.frames * masks.video, torch.where(valid[..., None], masks.part, 0.0)
        if pool == "aligned":  # the global score of mean frames, with masks in it
            unit, count = normalise(video.frames), valid.sum(-1).clamp(min=1)
            dot, mean_sq = (unit * masks.video * s).sum((-2, -1)), s.square().sum((-2, -1)) / count
            return dot * inverse_length(unit.sum(-2).square().sum(-1)) * inverse_length(mean_sq)
        if pool == "joint":  # one cosine of all frames laid end to end
            return (normalise(v.flatten(-2)) * normalise(s.flatten(-2))).sum(-1)
        cosine = (normalise(v) * normalise(s)).sum(-1)
        scale = self.config.get("losses", {}).get("pool_scale", 10.0)
        logits = {"softmax": scale, "mean": 0.0}[pool] * cosine
        return (logits.masked_fill(~valid, -1e30).softmax(-1) * cosine).sum(-1)
