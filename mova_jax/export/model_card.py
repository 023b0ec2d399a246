"""Writes the model card: README.md of an exported folder.

It describes the weights, their training, the metrics with their protocol, how to load them in three
lines, and their licence. Its head is the metadata of the Hugging Face Hub, the metrics among them.
"""

from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from mova_jax.config import Config
from mova_jax.data.tokenizer import PART_TOKENS
from mova_jax.export.bundle import Bundle
from mova_jax.losses.scores import search_scoring

_DESCRIPTION = {
    "pytorch": "a MoVA model for PyTorch: encoders, mask networks if any, and all scores",
    "hub": "a MoVA model for transformers: encoders, mask networks if any, and all scores",
    "huggingface": "the two encoders of a MoVA model as a CLIPModel",
    "text_encoder": "the text encoder of a MoVA model as a CLIPTextModel",
    "onnx": "the two encoders of a MoVA model as ONNX files",
}
_LIBRARY = dict.fromkeys(("hub", "huggingface", "text_encoder"), "transformers") | {"onnx": "onnx"}
_WHOLE = ("pytorch", "hub")  # have all of the model
_LOAD = {
    "pytorch": """\
from torch_model import Mova            # a folder in this one; needs torch and safetensors
model = Mova.from_pretrained(".")
scores = model.scores(model.encode_video(frames, frame_mask), model.encode_text(tokens, mask))
""",
    "hub": """\
from transformers import AutoModel, AutoProcessor     # needs torch; ftfy for other than ASCII
model = AutoModel.from_pretrained(".", trust_remote_code=True)
processor = AutoProcessor.from_pretrained(".", trust_remote_code=True)
pixels = processor(images=frames, return_tensors="pt")["pixel_values"]    # frames of one video
found = model(**model.tokenise(processor.tokenizer, captions), pixel_values=pixels[None])
found.scores, found.video_embeds, found.text_embeds, found.frame_embeds
""",
    "huggingface": """\
from transformers import CLIPModel, CLIPProcessor
model, processor = CLIPModel.from_pretrained("."), CLIPProcessor.from_pretrained(".")
inputs = processor(text=captions, images=frames, padding=True, truncation=True, return_tensors="pt")
""",
    "text_encoder": """\
from transformers import CLIPTextModel, CLIPTokenizer
encoder, tokenizer = CLIPTextModel.from_pretrained("."), CLIPTokenizer.from_pretrained(".")
# diffusers: Pipeline.from_pretrained(..., text_encoder=encoder, tokenizer=tokenizer)
""",
    "onnx": """\
import onnxruntime
text = onnxruntime.InferenceSession("text_encoder.onnx")
y, zt = text.run(None, {"tokens": tokens, "token_mask": token_mask})    # i64[c l], bool[c l]
""",
}
_ABOUT = {
    "pytorch": "Frames are RGB bytes [b f H W 3] of {image} x {image} pixels, {frames} of a video "
    "spread evenly; captions have at most {context} tokens, begin with start-of-text and end with "
    "end-of-text. Masks of validity are bool, True = valid.",
    "hub": "`trust_remote_code` runs modeling_mova.py of this folder: read it first. Take {frames} "
    "frames of a video, spread evenly. `tokenise` cuts captions of more than {context} tokens at "
    "the end of a sentence{divides}. `scores` [b c] orders the videos for a caption and the "
    "captions for a video; the global score is the product of `video_embeds` and `text_embeds`.",
    "huggingface": "A video's global score is the cosine of a caption with the mean of its frames' "
    "embeddings, each at length 1, {frames} frames spread evenly{head}. Captions have at most "
    "{context} tokens.",
    "text_encoder": "Takes captions of up to {context} tokens; its states are {width} wide. A "
    "text-to-video pipeline takes it where its own text encoder is as wide.",
    "onnx": "frame_encoder.onnx: frames u8[n {image} {image} 3] to zv f32[n d]. text_encoder.onnx: "
    "tokens i64[c l] and token_mask bool[c l], l up to {context}, to the token states y and the "
    "embedding zt. Neither embedding is normalised. A video's global score is the cosine of zt "
    "with the mean of its frames' zv, each at length 1{head}.",
}
_METHOD = """\
Frames of a video and {texts} are encoded as in CLIP{masks}
(after Modular Long Video-Text Alignment, [arXiv 2607.00858](https://arxiv.org/abs/2607.00858))."""
_MASKS = {  # by whether there is a TMN and a CMN
    (True, True): "; for each frame two masks select the part of the {text} that it is about and "
    "its concepts that match",
    (True, False): "; for each frame a mask selects the part of the {text} that it is about",
    (False, True): "; a mask selects the concepts of a frame that match the {text}",
    (False, False): "",
}
_ENCODERS = """\
They are those of a model for long videos and long captions (Modular Long Video-Text Alignment,
[arXiv 2607.00858](https://arxiv.org/abs/2607.00858)); its other modules, such as mask networks, are
not in this folder."""
_PARTS = """\


## Captions in parts

The modular score is the mean over the parts of a caption: each sentence is encoded as a text of its
own and finds its own frames. A caption has at most {parts} parts; where it has fewer than others of
its batch, parts whose mask is all False pad it. A caption without parts is scored as a whole.

```python
from torch_model.sentences import clean_text, merge_parts, split_sentences  # needs numpy, ftfy
from transformers import CLIPTokenizer

tokenizer = CLIPTokenizer.from_pretrained(".")

def tokenise(texts, most):
    texts = [clean_text(text) for text in texts]
    found = tokenizer(texts, padding=True, truncation=True, max_length=most, return_tensors="pt")
    return found["input_ids"], found["attention_mask"].bool()

part_tokens, part_mask = tokenise(merge_parts(split_sentences(caption), {parts}), {length})
text = model.encode_text(*tokenise([caption], {context}), part_tokens[None], part_mask[None])
```"""


_HEAD = """\
; the model's own global score goes through a seq_transformer head, which is not in this folder"""
_CARD = """\
---
{metadata}
---

# MoVA, {kind}

This is {description}. {method}

{origin}

## Load it

```python
{load}```

{about}

Captions are cleaned before they are tokenised, as by OpenAI's CLIP: \
`html.unescape(html.unescape(ftfy.fix_text(caption)))`.

## The model

| | |
|---|---|
| frame encoder | ViT, {model.vision.layers} layers, {model.vision.width} wide, patches of \
{model.vision.patch_size} pixels, {model.vision.image_size} x {model.vision.image_size} pixels |
| text encoder | {model.text.layers} layers, {model.text.width} wide, {model.text.context} tokens, \
vocabulary of {model.text.vocab_size} |
| joint embedding | {model.embed_dim} dimensions, {model.activation} |
| global head | {model.global_head} |
| pair scores | {pool} over frames; captions in {parts} |
| mask networks | TMN {model.tmn.layout}, CMN {model.cmn.kind}, {model.masks.kind} masks |

## Training

| | |
|---|---|
{training}

## Measured

{measured}

## Licence

{licence}
"""


def write_card(folder: Path, kind: str, bundle: Bundle) -> None:
    """Writes README.md.

    Args:
        folder: of the export.
        kind: its format.
        bundle: the exported model.
    """
    (folder / "README.md").write_text(text_of(kind, bundle), encoding="utf-8")


def text_of(kind: str, bundle: Bundle) -> str:
    """The card of a format, as Markdown."""
    model, training = bundle.config.model, bundle.training
    divided = kind == "pytorch" and bundle.config.data.parts
    about = _ABOUT[kind] + (_PARTS if divided else "")
    about = about.format(
        image=model.vision.image_size,
        context=model.text.context,
        width=model.text.width,
        frames=bundle.config.eval.frames,
        parts=bundle.config.data.parts,
        length=min(model.text.context, PART_TOKENS),
        divides=", and divides them into sentences" if bundle.config.data.parts else "",
        head="" if model.global_head == "mean" else _HEAD,
    )
    return _CARD.format(
        metadata=_metadata(kind, bundle),
        kind="transformers" if kind == "hub" else kind.replace("_", " "),
        description=_DESCRIPTION[kind],
        method=_method(bundle.config) if kind in _WHOLE else _ENCODERS,
        origin=_origin(training),
        load=_LOAD[kind],
        about=about,
        model=model,
        pool=search_scoring(bundle.config.losses, bundle.config.eval).pool,
        parts=_parts(bundle.config),
        training="\n".join(f"| {k.replace('_', ' ')} | {v} |" for k, v in training.items()),
        measured=_measured(kind, bundle),
        licence=bundle.licence or "not stated: ask the publisher of this folder",
    )


def _metadata(kind: str, bundle: Bundle) -> str:
    """The head of the card, in YAML; the Hub shows `model-index`, the metrics, beside it."""
    data = ModelCardData(
        license=bundle.licence or "other",
        library_name=_LIBRARY.get(kind, "pytorch"),
        pipeline_tag="feature-extraction",
        tags=["video-text-retrieval", "long-video", "clip", "mova"],
        model_name="MoVA",
        eval_results=_results(kind, bundle) or None,
    )
    if not data.eval_results:
        del data.model_name
    return data.to_yaml(original_order=["license"])


def _results(kind: str, bundle: Bundle) -> list[EvalResult]:
    """The metrics of the table, each with its gallery."""
    found, data = [], str(bundle.training.get("data", ""))
    for split, score in _measurements(kind, bundle):
        gallery = int(bundle.metrics[f"{split}/gallery"])
        for way in ("t2v", "v2t"):
            found += [
                EvalResult(
                    task_type="retrieval",
                    task_name="Video-text retrieval",
                    dataset_type=data,
                    dataset_name=f"{data}, {split}",
                    dataset_split=split,
                    metric_type=f"recall_at_{k}",
                    metric_name=f"{way.upper()} R@{k} in percent, {score} score, gallery {gallery}",
                    metric_value=round(bundle.metrics[f"{split}/{score}/{way}/r{k}"], 4),
                )
                for k in (1, 5, 10)
            ]
    return found


def _measurements(kind: str, bundle: Bundle) -> list[tuple[str, str]]:
    """Splits and scores that were measured, of those that the folder can compute."""
    return [
        (split, score)
        for split in bundle.config.eval.splits
        for score in _scores(kind, bundle)
        if f"{split}/{score}/t2v/r1" in bundle.metrics
    ]


def _method(config: Config) -> str:
    """The sentence on how the model compares videos and captions."""
    text, texts = "caption", "a long caption"
    if config.data.parts:
        text, texts = "sentence", "the sentences of a long caption, each for itself,"
    masks = _MASKS[config.model.tmn.layout != "none", config.model.cmn.kind != "none"]
    return _METHOD.format(texts=texts, masks=masks.format(text=text))


def _parts(config: Config) -> str:
    """The division of captions, for the table of the model."""
    if not config.data.parts:
        return "one part"
    order = config.losses.order
    in_order = f", in the order of time with prior probability {order:g}" if order else ""
    return f"at most {config.data.parts} parts{in_order}"


def _origin(training: Mapping[str, object]) -> str:
    """The sentence on where the weights come from."""
    if training["steps"]:
        return "It was trained with mova_jax, an independent implementation."
    return (
        f"**Nothing was trained yet**: the encoders are those of {training['started_from']}, "
        "converted by mova_jax, an independent implementation; modules that they lack, such as "
        "mask networks, have random weights. It is a start for training."
    )


def _scores(kind: str, bundle: Bundle) -> tuple[str, ...]:
    """The scores that the folder can compute."""
    if kind in _WHOLE:
        return ("global", "modular", "blend")
    mean_frames = kind in ("huggingface", "onnx") and bundle.config.model.global_head == "mean"
    return ("global",) if mean_frames else ()


def _measured(kind: str, bundle: Bundle) -> str:
    """A table of the retrieval metrics of each split, with the protocol below."""
    metrics, scores = bundle.metrics, _scores(kind, bundle)
    chosen = (
        f"checkpoint and blend weight ({bundle.blend_weight:g}) chosen on the validation split"
        if "validation/gallery" in metrics
        else f"the last checkpoint, blend weight {bundle.blend_weight:g}, no validation split"
    )
    precision = bundle.config.model.dtype
    splits = [s for s in bundle.config.eval.splits if f"{s}/gallery" in metrics]
    if not scores or not splits:
        return "Nothing was measured of this part alone." if splits else "Nothing was measured."
    rows = [_row(metrics, split, score) for split, score in _measurements(kind, bundle)]
    return "\n".join(
        [
            "| split | score | gallery | T2V R@1 | R@5 | R@10 | V2T R@1 | R@5 | R@10 | chance |",
            "|---" * 10 + "|",
            *rows,
            "",
            f"Percent. {bundle.config.eval.frames} frames a video, one seed "
            f"({bundle.config.seed}), ties counted half, computed in {precision}; {chosen}. T2V: "
            "captions search videos, V2T: the reverse.",
        ]
    )


def _row(metrics: Mapping[str, float], split: str, score: str) -> str:
    gallery = metrics[f"{split}/gallery"]
    figures = [
        f"{metrics[f'{split}/{score}/{way}/{figure}']:.1f}"
        for way in ("t2v", "v2t")
        for figure in ("r1", "r5", "r10")
    ]
    return f"| {' | '.join([split, score, f'{gallery:.0f}', *figures, f'{100 / gallery:.1f}'])} |"
