"""MoVA in plain PyTorch: one file, to be copied beside `config.json` and `model.safetensors`.

    from torch_model import Mova  # needs torch and safetensors, nothing else
    model = Mova.from_pretrained("folder")
    video, text = model.encode_video(frames, frame_mask), model.encode_text(tokens, token_mask)

Then `model.scores(video, text)` are those of all pairs, `model.timeline(video, text)` are cosines
of each frame with the caption of its row, and `model.losses(...)` is what to train it further on.
Frames are RGB bytes of the model's image size; the last valid token of a caption is end-of-text.
All is computed in float32, whatever `model.dtype` is. Masks of validity are bool, True = valid, and
end in `_mask`; `Masks` select dimensions. Axes, in shapes and einsum strings:

    b videos, c captions    f frames, l tokens    d joint embedding, w width of a tower
    n heads, e width of a head    ... leading axes, which broadcast: [b 1 f d] meets [1 c l w]
"""

import json
import pathlib
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import Embedding, Identity, LayerNorm, Linear, Module, ModuleList, Parameter
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

PIXELS = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # mean, std
ACTIVATIONS = {"gelu": F.gelu, "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x)}


class Video(NamedTuple):
    """Videos as their frames, and as one vector each."""

    frames: Tensor  # [b f d] zv, not normalised; 0 where padded
    frame_mask: Tensor  # bool[b f]
    pooled: Tensor  # [b d], of length 1


class Text(NamedTuple):
    """Captions as their tokens, and as one vector each."""

    tokens: Tensor  # [c l w] y, after the last layer norm; 0 where padded
    token_mask: Tensor  # bool[c l]
    pooled: Tensor  # [c d] zt, not normalised


class Masks(NamedTuple):
    """What a caption says of each frame, and which concepts of the frame answer to it."""

    text: Tensor  # [... f d] m^T in 0..1: the dimensions of zt that the frame is about
    video: Tensor  # [... f d] m^V in 0..1: the dimensions of zv that answer to them
    part: Tensor  # [... f d] s = zt * m^T, the frame's part of the caption
    text_mask_density: Tensor  # [... f] share of the text mask that is open


def attend(heads: int, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """Attention of [... q w] to [... l w] where bool[... q l]; 0 for a query with nothing there."""
    # Leading axes broadcast inside the matmuls: no copy of the keys for every pair.
    query, key, value = (x.unflatten(-1, (heads, -1)) for x in (query, key, value))
    hidden = ~mask[..., None, :, :]
    logits = torch.einsum("...qne,...lne->...nql", query * query.shape[-1] ** -0.5, key)
    weights = logits.masked_fill(hidden, -1e30).softmax(-1).masked_fill(hidden, 0.0)
    return torch.einsum("...nql,...lne->...qne", weights, value).flatten(-2)


class Attention(Module):
    """Multi-head attention of rows to each other, or as a reader to tokens."""

    def __init__(self, width: int, heads: int, reader: bool = False):
        super().__init__()
        self.heads, self.out = heads, Linear(width, width)
        if reader:
            self.query, self.key_value = Linear(width, width), Linear(width, 2 * width)
        else:
            self.qkv = Linear(width, 3 * width)

    def forward(self, x: Tensor, mask: Tensor, tokens: Tensor | None = None) -> Tensor:
        """[... q w], bool[... q l], of a reader [... l w] -> [... q w]."""
        if tokens is None:
            query_key_value = self.qkv(x).chunk(3, -1)
        else:
            query_key_value = self.query(x), *self.key_value(tokens).chunk(2, -1)
        return self.out(attend(self.heads, *query_key_value, mask))


class Mlp(Module):
    """Width to four times the width and back."""

    def __init__(self, width: int, activation: str):
        super().__init__()
        self.up, self.down = Linear(width, 4 * width), Linear(4 * width, width)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        """[... w] -> [... w]."""
        return self.down(self.activation(self.up(x)))


class Block(Module):
    """CLIP's residual block, with the norms in front; a decoder's reads tokens in between."""

    def __init__(self, width: int, heads: int, activation: str, decoder: bool = False):
        super().__init__()
        self.norm_attention, self.attention = LayerNorm(width), Attention(width, heads)
        self.decoder = decoder
        if decoder:
            self.norm_tokens, self.tokens = LayerNorm(width), Attention(width, heads, reader=True)
        self.norm_mlp, self.mlp = LayerNorm(width), Mlp(width, activation)

    def forward(self, x: Tensor, mask: Tensor, *tokens: Tensor) -> Tensor:
        """[... q w], bool[... q q], of a decoder bool[... q l], [... l w] -> [... q w]."""
        x = x + self.attention(self.norm_attention(x), mask)
        if self.decoder:
            x = x + self.tokens(self.norm_tokens(x), *tokens)
        return x + self.mlp(self.norm_mlp(x))


def positions_of(rows: Tensor, frame_mask: Tensor) -> Tensor:
    """Positions [... f w] of valid frames: from the first row [r w] to the last, interpolated."""
    last = len(rows) - 1
    index = (frame_mask.cumsum(-1) - 1).clamp(min=0)
    place = index * last / (frame_mask.sum(-1, keepdim=True) - 1).clamp(min=1)
    low = place.long().clamp(max=last)
    share = (place - low)[..., None]
    return rows[low] * (1 - share) + rows[(low + 1).clamp(max=last)] * share


class VisionTower(Module):
    """CLIP's vision transformer on each frame alone."""

    def __init__(self, size: dict, dim: int, act: str):
        super().__init__()
        width, self.patch = size["width"], size["patch_size"]
        side = size["image_size"] // self.patch
        self.patch_embedding = Linear(3 * self.patch**2, width, bias=False)
        self.class_embedding = Parameter(0.01 * torch.randn(width))
        self.positions = Parameter(0.01 * torch.randn(side * side + 1, width))
        self.norm_pre, self.norm_post = LayerNorm(width), LayerNorm(width)
        self.blocks = ModuleList(Block(width, size["heads"], act) for _ in range(size["layers"]))
        self.projection = Linear(width, dim, bias=False)

    def forward(self, frames: Tensor) -> Tensor:
        """u8[n H W 3] -> [n d], not normalised."""
        mean, std = torch.tensor(PIXELS, device=frames.device)
        x = (frames.float() / 255.0 - mean) / std
        # A row a patch, of its pixels by RGB: [n rows p columns p 3] -> [n rows*columns p*p*3].
        x = x.unflatten(2, (-1, self.patch)).unflatten(1, (-1, self.patch))
        x = self.patch_embedding(x.transpose(2, 3).flatten(3).flatten(1, 2))
        x = torch.cat([self.class_embedding.expand(x.shape[0], 1, -1), x], dim=1) + self.positions
        x, everywhere = self.norm_pre(x), torch.ones(1, 1, dtype=torch.bool, device=x.device)
        for block in self.blocks:
            x = block(x, everywhere)
        return self.projection(self.norm_post(x[:, 0]))


class TextTower(Module):
    """CLIP's causal transformer over a long caption."""

    def __init__(self, size: dict, dim: int, act: str):
        super().__init__()
        width, frozen = size["width"], size.get("frozen_positions", 0)
        self.token_embedding = Embedding(size["vocab_size"], width)
        if frozen:  # the first rows, which no training moves
            self.positions_frozen = Parameter(torch.zeros(frozen, width), requires_grad=False)
        self.positions = Parameter(0.01 * torch.randn(size["context"] - frozen, width))
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
    """Frames and their positions through blocks, added to the frames."""

    def __init__(self, cfg: dict):
        super().__init__()
        width, block = cfg["embed_dim"], (max(1, cfg["embed_dim"] // 64), cfg["activation"])
        self.positions = Parameter(0.01 * torch.randn(cfg["frame_positions"], width))
        self.blocks = ModuleList(Block(width, *block) for _ in range(cfg["head_layers"]))

    def forward(self, frames: Tensor, frame_mask: Tensor) -> Tensor:
        """[b f d], bool[b f] -> [b f d]."""
        x = frames + positions_of(self.positions, frame_mask)
        for block in self.blocks:
            x = block(x, frame_mask[:, None, :])
        return frames + x


class TemporalMaskNetwork(Module):
    """Which part of the caption is this frame about? In one of four layouts.

    `select` reads tokens: a frame decides where to look, and adds nothing of itself. `cross` has
    decoder blocks, `joint` blocks over frames and tokens, `tokens` logits of tokens.
    """

    def __init__(self, cfg: dict):
        super().__init__()
        size, width, dim = cfg["tmn"], cfg["text"]["width"], cfg["embed_dim"]
        heads, depth, act = size["heads"], size["layers"], cfg["activation"]
        self.layout = size["layout"]
        self.positions = Parameter(0.01 * torch.randn(cfg["frame_positions"], width))
        self.project = Linear(dim, width, bias=False) if dim != width else Identity()
        by_token = {"select": size["token_layers"], "tokens": depth}.get(self.layout, 0)
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
        if self.layout == "joint":
            lead = torch.broadcast_shapes(x.shape[:-2], tokens.shape[:-2])
            x = torch.cat([y.expand(*lead, -1, -1) for y in (x, tokens)], dim=-2)
            mask = torch.cat([y.expand(*lead, -1, -1) for y in (mask, token_mask)], dim=-1)
        for block in self.blocks:
            x = block(x, mask, token_mask, tokens)
        x = x[..., : frame_mask.shape[-1], :]
        if self.layout == "tokens":
            query = self.query(x) * x.shape[-1] ** -0.5
            return torch.einsum("...fw,...lw->...fl", query, self.key(tokens))
        if self.layout == "select":
            asked, x = x, torch.zeros_like(x)
            for reader in self.readers:
                x = x + reader(asked + x, token_mask, tokens)
            x = x + self.mlp(self.norm_mlp(x))
        return self.out(self.norm_out(x))


class ConceptMaskNetwork(Module):
    """Which concepts of the frame answer to its part of the caption?"""

    def __init__(self, cfg: dict):
        super().__init__()
        width, dim = cfg["text"]["width"], cfg["embed_dim"]
        self.blocks = ModuleList([Block(width, cfg["cmn"]["heads"], cfg["activation"])])
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
    """`1 / sqrt(squared)`; 0 with gradient 0 where there is no length, as of an empty mask."""
    present = squared > 1e-12
    return torch.where(present, torch.where(present, squared, 1.0).rsqrt(), 0.0)


def normalise(x: Tensor) -> Tensor:
    """[... d] at length 1; a zero vector stays 0 with gradient 0."""
    return x * inverse_length(x.square().sum(-1, keepdim=True))


def straight_through(logits: Tensor, cfg: dict) -> Tensor:
    """A mask from logits: `soft` is the sigmoid, `hard` is 0 or 1 with the sigmoid's gradient."""
    soft = torch.sigmoid((logits + cfg["init_bias"]) / cfg["temperature"])
    return soft if cfg["kind"] == "soft" else (soft >= 0.5).float() + (soft - soft.detach())


def capped_exp(x: Tensor) -> Tensor:
    """`min(exp(x), 100)` with the gradient of `exp(x)`: a scale at the cap can come down again."""
    return x.exp() - (x.exp() - 100.0).clamp(min=0.0).detach()


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over the True places of a mask of the same shape; 0 where there is none."""
    return torch.where(mask, x, 0.0).sum() / mask.sum().clamp(min=1)


def cosine_of(dot: Tensor, video_sq: Tensor, text_sq: Tensor) -> Tensor:
    """From v . s, |v|^2 and |s|^2; 0 with gradient 0 where a vector has no length."""
    return dot * inverse_length(video_sq) * inverse_length(text_sq)


def pool_frames(sums: tuple, frames: Tensor, frame_mask: Tensor, cfg: dict) -> Tensor:
    """The score [...] of a pair over its valid frames, from the sums of `cosine_of` and zv."""
    dot, video_sq, text_sq = (torch.where(frame_mask, x, 0.0) for x in sums)
    if cfg["pool"] == "aligned":  # the global score of mean frames, with masks in it
        dot = dot * inverse_length(frames.square().sum(-1))
        total = torch.einsum("...f,...fd->...d", frame_mask.float(), normalise(frames))
        mean_sq = text_sq.sum(-1) / frame_mask.sum(-1).clamp(min=1)
        return cosine_of(dot.sum(-1), total.square().sum(-1), mean_sq)
    if cfg["pool"] == "joint":  # one cosine of all frames laid end to end
        return cosine_of(dot.sum(-1), video_sq.sum(-1), text_sq.sum(-1))
    cosine = cosine_of(dot, video_sq, text_sq)
    if cfg["pool"] == "mean":
        return cosine.sum(-1) / frame_mask.sum(-1).clamp(min=1)
    if cfg["pool"] == "softmax":
        logits = (cfg["pool_scale"] * cosine).masked_fill(~frame_mask, -1e30)
        return (logits.softmax(-1) * cosine).sum(-1)
    raise ValueError(f"losses.pool is {cfg['pool']!r}, which this file does not know")


def cross_entropy(logits, candidate_mask: Tensor, row_mask: Tensor, own=None) -> Tensor:
    """Mean over valid rows of [r k]; column own[r] is right, by default r, and a candidate."""
    own = torch.arange(len(logits), device=logits.device) if own is None else own
    candidates = candidate_mask | F.one_hot(own, logits.shape[1]).bool()
    logits = logits.masked_fill(~candidates, -torch.inf)
    return masked_mean(F.cross_entropy(logits, own, reduction="none"), row_mask)


def hard_candidates(scores: Tensor, valid: Tensor, k: int) -> Tensor | None:
    """i64[b k+1]: each video's own caption, then the k highest others of [b c]; None for all."""
    ranked = scores.masked_fill(~valid, -torch.inf).fill_diagonal_(torch.inf)
    return ranked.argsort(dim=1, descending=True, stable=True)[:, : k + 1] if k else None


def frame_contrast(frames: Tensor, parts: Tensor, valid: Tensor, cfg: dict) -> Tensor:
    """L_tv: zv [b f d] near its own part s [b f d], away from parts of other frames and videos."""
    frames, parts = (normalise(torch.where(valid[..., None], x, 0.0)) for x in (frames, parts))
    positive, relative = (frames * parts).sum(-1), cfg["frame_form"] == "relative"
    threshold = positive[..., None, None] - cfg["margin"] if relative else cfg["margin"]
    over = torch.relu(torch.einsum("bfd,cgd->bfcg", frames, parts) - threshold)
    video, frame = (torch.eye(n, dtype=torch.bool, device=valid.device) for n in valid.shape)
    video, frame = video[:, None, :, None], frame[:, None, :]
    negative = valid & ~(video & frame)  # [b f c g]
    if cfg["frame_negatives"] == "same_index":
        negative = negative & (video | frame)
    cost = torch.where(negative, over, 0.0).sum((-2, -1)) / negative.sum((-2, -1)).clamp(min=1)
    return masked_mean(cost if relative else cost + 1 - positive, valid)


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
        if (config.get("format"), config.get("format_version")) != ("mova_jax", 1):
            raise ValueError(f"{folder}/config.json: expected format 'mova_jax', format_version 1")
        model = cls(config)
        model.load_state_dict(load_file(f"{folder}/model.safetensors"))
        return model.eval()

    def encode_frames(self, frames: Tensor) -> Tensor:
        """u8[n H W 3] -> zv [n d], not normalised."""
        return self.vision(frames)

    def encode_video(self, frames: Tensor, frame_mask: Tensor) -> Video:
        """u8[b f H W 3], bool[b f]."""
        zv = self.vision(frames.flatten(0, 1)).unflatten(0, frame_mask.shape)
        zv = torch.where(frame_mask[..., None], zv, 0.0)
        x = normalise(zv if self.head is None else self.head(zv, frame_mask))
        count = frame_mask.sum(-1, keepdim=True).clamp(min=1)
        return Video(zv, frame_mask, normalise((x * frame_mask[..., None]).sum(-2) / count))

    def encode_text(self, tokens: Tensor, token_mask: Tensor) -> Text:
        """i64[c l], bool[c l]."""
        return self.text(tokens, token_mask)

    def masks(self, video: Video, text: Text) -> Masks:
        """Those [b f d] of each video with the caption of its row; leading axes broadcast."""
        (frames, frame_mask, _), (y, token_mask, pooled) = video, text
        cfg, mask = self.config["model"], torch.ones_like(frames)
        if self.tmn is not None:
            tokens = y.detach() if cfg["tmn"]["detach_tokens"] else y
            mask = straight_through(self.tmn(frames, frame_mask, tokens, token_mask), cfg["masks"])
        if cfg["tmn"]["layout"] != "tokens":
            part, kept = pooled[..., None, :] * mask, mask.mean(-1)
        else:  # the part is what the kept tokens say on average
            mask = mask * token_mask[..., None, :]
            count = mask.sum(-1)
            kept = count / token_mask.sum(-1, keepdim=True).clamp(min=1)
            # Not `clamp`: as in JAX, half of the gradient passes where one token is kept.
            count = torch.maximum(count, torch.ones_like(count))[..., None]
            part = torch.einsum("...fl,...ld->...fd", mask, self.text.projection(y)) / count
            mask = torch.ones_like(part)
        concepts = torch.ones_like(part)
        if self.cmn is not None:
            tokens = y.detach() if cfg["cmn"]["detach_tokens"] else y
            concepts = straight_through(self.cmn(part, frames, tokens, token_mask), cfg["masks"])
        return Masks(mask, concepts, part, kept)

    def timeline(self, video: Video, text: Text) -> Tensor:
        """Cosine [b f] of each frame and the caption of its row, under the masks if there are."""
        return cosine_of(*self._sums(video, text))

    def scores(self, video: Video, text: Text, block: int = 0) -> dict[str, Tensor]:
        """Of all pairs [b c], by name; `block` > 0 bounds the memory: videos at a time."""
        found = {"global": video.pooled @ normalise(text.pooled).T}
        if self.config["model"]["modular_scale"]:
            cfg = self.config["losses"] | {"pool": self.config["score_pool"]}
            found["modular"] = self._pair_scores(video, text, cfg, block)
            found["blend"] = found["global"] + self.config["blend_weight"] * found["modular"]
        return found

    def losses(self, frames, frame_mask, tokens, token_mask, step: int = 0):
        """The loss of `config["losses"]`, and its parts by name; caption i belongs to video i.

        Arguments are those of `encode_video` and `encode_text`; `step` is that of the warm-up, from
        0. Rows without a valid frame or a valid token count nowhere.
        """
        cfg, valid = self.config["losses"], frame_mask.any(-1) & token_mask.any(-1)
        video, text = self.encode_video(frames, frame_mask), self.encode_text(tokens, token_mask)
        scores, scale = video.pooled @ normalise(text.pooled).T, capped_exp(self.logit_scale)
        contrast = sum(cross_entropy(scale * x, valid, valid) for x in (scores, scores.T)) / 2
        wrong = valid[:, None] & ~torch.eye(len(valid), dtype=torch.bool, device=valid.device)
        found = (scores.diagonal() > scores.masked_fill(~wrong, -torch.inf).amax(0)).float()
        parts = {"contrast": contrast, "in_batch_r1": masked_mean(found, valid), "scale": scale}
        loss, modular = cfg["contrast"] * contrast, ("frame", "sfdm", "dfsm", "sparsity")
        if any(cfg[name] for name in modular):
            if cfg["detach_towers"]:
                video, text = Video(*map(torch.detach, video)), Text(*map(torch.detach, text))
            parts |= self._modular_terms(video, text, scores, valid)
            ramp = min(1.0, (step + 1) / cfg["warmup_steps"]) if cfg["warmup_steps"] else 1.0
            loss = loss + ramp * sum(cfg[name] * parts[name] for name in modular if name in parts)
        return loss, {name: x.detach() for name, x in parts.items()}

    def _modular_terms(self, video: Video, text: Text, scores: Tensor, valid: Tensor):
        """L_tv, sfdm, dfsm and L_s by name, and what to watch."""
        cfg, parts = self.config["losses"], {}
        masks, seen = self.masks(video, text), video.frame_mask & valid[:, None]
        if cfg["frame"]:
            parts["frame"] = frame_contrast(video.frames, masks.part, seen, cfg)
        if cfg["sfdm"] or cfg["dfsm"]:
            scale = parts["modular_scale"] = capped_exp(self.modular_logit_scale)
        if cfg["sfdm"] or (cfg["dfsm"] and cfg["dfsm_masks"] == "pair"):
            candidates = hard_candidates(scores, valid, cfg["hard_pairs"])
            pairs = self._pair_scores(video, text, cfg, cfg["pair_block"], candidates)
        if cfg["sfdm"]:  # same frame, different masks: which caption?
            # Of candidates the first is right; without them all take part: valid[None] is [1 b].
            own = None if candidates is None else torch.zeros_like(candidates[:, 0])
            parts["sfdm"] = cross_entropy(scale * pairs, valid[candidates], valid, own)
        if cfg["dfsm"]:  # different frames, same mask: which video?
            if cfg["dfsm_masks"] == "own":  # each caption's on all videos, by two matmuls
                dot = torch.einsum("bfd,cfd->bcf", video.frames, masks.video * masks.part)
                video_sq = torch.einsum("bfd,cfd->bcf", video.frames**2, masks.video**2)
                both = video.frame_mask[:, None] & video.frame_mask
                sums = dot, video_sq, (masks.part**2).sum(-1)
                pairs = pool_frames(sums, video.frames[:, None], both, cfg)
            parts["dfsm"] = cross_entropy(scale * pairs.T, valid, valid)
        if self.tmn is not None or self.cmn is not None:
            parts["text_mask_density"] = masked_mean(masks.text_mask_density, seen)
            parts["video_mask_density"] = masked_mean(masks.video.mean(-1), seen)
            if cfg["sparsity"]:
                parts["sparsity"] = parts["text_mask_density"] + parts["video_mask_density"]
        return parts

    def _sums(self, video: Video, text: Text) -> tuple[Tensor, Tensor, Tensor]:
        """v . s, |v|^2 and |s|^2 of each frame under the masks of `masks`, [... f]."""
        masks = self.masks(video, text)
        v, s = video.frames * masks.video, masks.part
        return (v * s).sum(-1), v.square().sum(-1), s.square().sum(-1)

    def _pair_scores(self, video: Video, text: Text, cfg: dict, block: int, candidates=None):
        """Scores by each pair's own masks, [b c], or [b k] of candidates i64[b k]."""

        def score(rows):
            # x[None] is every caption, [1 c ...]; x[chosen] those of each video, [b k ...].
            chosen = None if candidates is None else candidates[rows]
            pairs = Video(*(x[rows, None] for x in video)), Text(*(x[chosen] for x in text))
            return pool_frames(self._sums(*pairs), *pairs[0][:2], cfg)

        blocks = torch.arange(len(video.frames)).split(block or len(video.frames))
        if block and torch.is_grad_enabled():  # the backward pass makes a block's masks again
            return torch.cat([checkpoint(score, rows, use_reentrant=False) for rows in blocks])
        return torch.cat([score(rows) for rows in blocks])
