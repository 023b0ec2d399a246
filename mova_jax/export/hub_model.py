"""MoVA for transformers: encoders, mask networks if any, and all scores of videos and captions.

    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    pixels = processor(images=frames, return_tensors="pt")["pixel_values"][None]   # of one video
    texts = model.tokenise(processor.tokenizer, ["A dog jumps. It runs away."])
    model(**texts, pixel_values=pixels).scores                                     # [b c]

Everything is float32. Masks of validity are bool, True = valid, and end in `_mask`; `Masks` select
dimensions. Axes, in shapes and einsum strings:

    b videos, c captions, p parts of a caption    f frames, l tokens, t tokens of a part
    d joint embedding, w width of a tower    n heads, e width of a head
    ... leading axes, which broadcast: [b 1 f d] meets [c l w]
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput

from mova_jax.data.sentences import clean_text, fill_room, merge_parts, split_sentences
from mova_jax.export.torch_model.mova import Mova
from mova_jax.export.torch_model.scores import normalise

PART_TOKENS = 77  # of a part of a caption, at most


class MovaConfig(PretrainedConfig):
    """config.json, whose keys `Mova` reads as those of a dict."""

    model_type = "mova"

    def __getitem__(self, name: str):
        return getattr(self, name)

    def get(self, name: str, default=None):
        """The value of a key, or `default`."""
        return getattr(self, name, default)


@dataclass
class MovaOutput(ModelOutput):
    """Embeddings of what was given; scores of all pairs when videos and captions were given."""

    scores: Tensor | None = None  # [b c], of record: the blend, or global without modular scores
    global_scores: Tensor | None = None  # [b c]
    modular_scores: Tensor | None = None  # [b c], of a model that has them
    frame_embeds: Tensor | None = None  # [b f d], not normalised, 0 where padded
    video_embeds: Tensor | None = None  # [b d], of length 1
    text_embeds: Tensor | None = None  # [c d], of length 1
    part_embeds: Tensor | None = None  # [c p d], not normalised


class MovaModel(Mova, PreTrainedModel):
    """The whole model."""

    config_class = MovaConfig
    main_input_name = "pixel_values"

    def __init__(self, config: MovaConfig):
        super().__init__(config, config)
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args, **kwargs) -> "MovaModel":
        """As `PreTrainedModel.from_pretrained`; that of `Mova` reads folders only."""
        return super(Mova, cls).from_pretrained(*args, **kwargs)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        frame_mask: Tensor | None = None,
        part_input_ids: Tensor | None = None,
        part_attention_mask: Tensor | None = None,
    ) -> MovaOutput:
        """Embeds captions, videos or both, and scores all pairs.

        Args:
            input_ids: i64[c l], start and end of text included.
            attention_mask: [c l], 0 where padded; none is by default.
            pixel_values: [b f 3 H W] of the model's image size: floats of the image processor, or
                RGB bytes.
            frame_mask: [b f], 0 where padded; none is by default.
            part_input_ids: i64[c p t], of a model that scores captions by parts, see `tokenise`.
            part_attention_mask: [c p t], all 0 for a part that pads.
        """
        found, video, text = MovaOutput(), None, None
        if pixel_values is not None:
            mask = torch.ones_like(pixel_values[..., 0, 0, 0]) if frame_mask is None else frame_mask
            video = self.encode_video(pixel_values.movedim(2, -1), mask.bool())
            found.frame_embeds, found.video_embeds = video.frames, video.pooled
        if input_ids is not None:
            mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            parts = None if part_attention_mask is None else part_attention_mask.bool()
            text = self.encode_text(input_ids, mask.bool(), part_input_ids, parts)
            found.text_embeds = normalise(text.pooled)
            found.part_embeds = None if text.parts is None else text.parts.pooled
        if video is not None and text is not None:
            scores = self.scores(video, text)
            found.global_scores, found.modular_scores = scores["global"], scores.get("modular")
            found.scores = scores.get("blend", scores["global"])
        return found

    def tokenise(self, tokenizer, captions: str | Sequence[str]) -> dict[str, Tensor]:
        """Texts as inputs of `forward`, divided into parts where the model scores by parts.

        A text that is too long keeps as many whole sentences as fit; where they fill less than
        half, the first tokens of the next one too.

        Args:
            tokenizer: of the folder.
            captions: one, or several.
        """
        captions = [captions] if isinstance(captions, str) else list(captions)
        context, most = self.config["model"]["text"]["context"], self.config.get("parts", 0)
        ids = [_token_ids(tokenizer, text, context) for text in captions]
        tokens, mask = _padded(ids, tokenizer.pad_token_id)
        found = {"input_ids": tokens, "attention_mask": mask}
        if most:
            sentences = (map(clean_text, split_sentences(text)) for text in captions)
            parts = [merge_parts(one, most) or [""] for one in sentences]
            rows = max(map(len, parts))
            length = min(context, PART_TOKENS)
            ids = [[_token_ids(tokenizer, part, length) for part in texts] for texts in parts]
            flat = [row for texts in ids for row in [*texts, *[[]] * (rows - len(texts))]]
            tokens, mask = _padded(flat, tokenizer.pad_token_id)
            found["part_input_ids"] = tokens.unflatten(0, (-1, rows))
            found["part_attention_mask"] = mask.unflatten(0, (-1, rows))
        return {name: value.to(self.device) for name, value in found.items()}


def _token_ids(tokenizer, text: str, most: int) -> list[int]:
    """Ids with start and end of text, at most so many."""
    text = clean_text(text)
    ids = tokenizer(text.lower(), verbose=False)["input_ids"]
    if len(ids) <= most:
        return ids
    sentences = (
        tokenizer(sentence.lower(), add_special_tokens=False, verbose=False)["input_ids"]
        for sentence in split_sentences(text)
    )
    return [ids[0], *fill_room(sentences, most - 2), ids[-1]]


def _padded(rows: list[list[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Ids i64[n l] and mask i64[n l], 1 where a token is."""
    length = max(map(len, rows))
    tokens = torch.tensor([[*ids, *[pad] * (length - len(ids))] for ids in rows])
    mask = torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids in rows])
    return tokens, mask
