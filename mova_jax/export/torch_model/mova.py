"""The whole model."""

import json
import pathlib

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import Module, Parameter

from .masks import ConceptMaskNetwork, Masks, TemporalMaskNetwork, straight_through
from .scores import (
    cosine_of,
    frame_sums,
    mean_of_parts,
    normalise,
    ordered_score,
    pool_frames,
    text_sums,
)
from .towers import SequenceHead, Text, TextTower, Video, VisionTower

FORMATS = (1, 2, 3)


class Mova(Module):
    """The whole model. `config` is the dict of config.json; other arguments are of a base class."""

    def __init__(self, config: dict, *args):
        super().__init__(*args)
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
        if cfg.get("sharpness"):
            self.log_sharpness = Parameter(torch.tensor(cfg["sharpness"]).log())

    @classmethod
    def from_pretrained(cls, folder: str) -> "Mova":
        """The model of a folder; one error names all that is missing, unexpected, ill-shaped."""
        config = json.loads(pathlib.Path(folder, "config.json").read_text(encoding="utf-8"))
        if config.get("format") != "mova_jax" or config.get("format_version") not in FORMATS:
            raise ValueError(f"config.json: expected format 'mova_jax', format_version {FORMATS}")
        model = cls(config)
        model.load_state_dict(load_file(f"{folder}/model.safetensors"))
        return model.eval()

    @property
    def sharpness(self) -> Tensor | float:
        """Factor on the cosines in the pools `softmax` and `logmeanexp`."""
        if hasattr(self, "log_sharpness"):
            return self.log_sharpness.exp()
        return self.config.get("losses", {}).get("pool_scale", 10.0)

    @property
    def masks_see_frames(self) -> bool:
        """Whether masks depend on frames; else those of a text hold for all videos."""
        sees_frame = self.cmn is not None and self.config["model"]["cmn"]["sees_frame"]
        return self.tmn is not None or sees_frame

    def encode_video(self, frames: Tensor, frame_mask: Tensor) -> Video:
        """u8[b f H W 3] or floats that are normalised already, bool[b f]."""
        zv = self.vision(frames.flatten(0, 1)).unflatten(0, frame_mask.shape)
        zv = torch.where(frame_mask[..., None], zv, 0.0)
        x = normalise(zv if self.head is None else self.head(zv, frame_mask))
        return Video(zv, frame_mask, normalise((x * frame_mask[..., None]).sum(-2)))

    def encode_text(
        self,
        tokens: Tensor,
        token_mask: Tensor,
        part_tokens: Tensor | None = None,
        part_token_mask: Tensor | None = None,
    ) -> Text:
        """i64[c l], bool[c l]; i64[c p t], bool[c p t], all False for a part that pads."""
        text = self.text(tokens, token_mask)
        if part_tokens is None:
            return text
        parts = self.text(part_tokens.flatten(0, 1), part_token_mask.flatten(0, 1))
        shape = part_tokens.shape[:2]
        return text._replace(parts=Text(*(x.unflatten(0, shape) for x in parts[:3])))

    def masks(self, video: Video, text: Text) -> Masks:
        """Masks [b f d] of each video with the caption of its row, or [b p f d] with its parts.

        Leading axes broadcast.
        """
        if text.parts is not None:
            video, text = Video(*(x[:, None] for x in video)), text.parts
        mask, part = self._text_part(video, text)
        if self.cmn is None:
            return Masks(mask, torch.ones_like(part), part)
        if self.masks_see_frames:
            return Masks(mask, self._concepts(part, video.frames, text), part)
        return Masks(mask, self.video_mask(text)[..., None, :].expand_as(part), part)

    def _text_part(self, video: Video, text: Text) -> tuple[Tensor, Tensor]:
        """m^T and s, both [... f d]."""
        (frames, frame_mask, _), (y, token_mask, pooled, _) = video, text
        cfg, pooled = self.config["model"], pooled[..., None, :]
        if self.tmn is None:
            part = pooled * torch.ones_like(frames)
            return torch.ones_like(part), part
        tokens = y.detach() if cfg["tmn"]["detach_tokens"] else y
        mask = straight_through(self.tmn(frames, frame_mask, tokens, token_mask), cfg["masks"])
        if cfg["tmn"]["layout"] != "tokens":
            return mask, pooled * mask
        # The part is the mean of the selected tokens, weighted by the mask.
        mask = mask * token_mask[..., None, :]
        total = mask.sum(-1, keepdim=True)
        total = torch.where(total > 1e-6, total, mask.new_ones(()))
        part = torch.einsum("...fl,...ld->...fd", mask, self.text.projection(y)) / total
        return torch.ones_like(part), part

    def _concepts(self, part: Tensor, frames: Tensor, text: Text) -> Tensor:
        """m^V [... f d] of parts s and frames zv, both [... f d]."""
        cfg, y = self.config["model"], text.tokens
        words = y.detach() if cfg["cmn"]["detach_tokens"] else y
        return straight_through(self.cmn(part, frames, words, text.token_mask), cfg["masks"])

    def video_mask(self, text: Text) -> Tensor | None:
        """m^V [... d] of texts, in models whose masks no frame changes; None without masks."""
        if self.cmn is None:
            return None
        part = text.pooled[..., None, :]
        return self._concepts(part, part, text)[..., 0, :]

    def timeline(self, video: Video, text: Text) -> Tensor:
        """Cosine of each frame with the caption of its row, under the masks if any.

        [b f], or [b p f] of each part.
        """
        masks = self.masks(video, text)
        frames = video.frames if text.parts is None else video.frames[:, None]
        return cosine_of(frame_sums(frames, masks.video, masks.part))

    def scores(self, video: Video, text: Text, block: int = 0) -> dict[str, Tensor]:
        """Scores [b c] of all pairs by name; `block` > 0 bounds the memory: videos at a time."""
        scores = {"global": video.pooled @ normalise(text.pooled).T}
        if self.config["model"]["modular_scale"]:
            blocks = zip(*(x.split(block or len(x)) for x in video), strict=True)
            scores["modular"] = torch.cat([self._pair_scores(Video(*x), text) for x in blocks])
            scores["blend"] = scores["global"] + self.config["blend_weight"] * scores["modular"]
        return scores

    def _pair_scores(self, video: Video, text: Text) -> Tensor:
        """Modular scores [b c] by `score_pool`; of a divided caption, by its parts."""
        divided = text.parts is not None
        scored = text.parts if divided else text
        pairs = Video(*(x[:, None, None] if divided else x[:, None] for x in video))
        if self.masks_see_frames:
            masks = self.masks(pairs, scored)
            sums = frame_sums(pairs.frames, masks.video, masks.part)
        else:
            sums = text_sums(video.frames, scored.pooled, self.video_mask(scored))
        part_mask, order = scored.token_mask.any(-1), self.config.get("score_order", 0.0)
        if divided and order:
            frame_mask = video.frame_mask[:, None]
            return ordered_score(cosine_of(sums), frame_mask, part_mask, self.sharpness, order)
        pool = self.config["score_pool"]
        scores = pool_frames(sums, pairs.frames, pairs.frame_mask, pool, self.sharpness)
        return mean_of_parts(scores, part_mask) if divided else scores
