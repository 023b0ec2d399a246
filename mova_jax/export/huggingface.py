"""Writes the two towers as folders that Hugging Face's transformers and diffusers load.

In: our parameters by name, `config.model`, a tokenizer's folder. Out: a folder for

    CLIPModel.from_pretrained(folder), CLIPProcessor.from_pretrained(folder)   # write_clip
    CLIPTextModel.from_pretrained(folder)                                      # write_text_encoder

Both take captions of `model.text.context` tokens. These classes have no mask networks and no
`seq_transformer` head: their global score is that of mean frames.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPProcessor, CLIPTokenizer

from mova_jax.config import Model
from mova_jax.weights.files import write_safetensors
from mova_jax.weights.layouts import to_huggingface

_METADATA = {"format": "pt"}  # transformers refuses files without it


def write_clip(
    folder: Path, params: Mapping[str, np.ndarray], model: Model, tokenizer: Path
) -> None:
    """Writes the towers as a `CLIPModel`, with processor and tokenizer.

    Args:
        folder: an empty one.
        params: all parameters by our names.
        model: `config.model` that they belong to.
        tokenizer: folder of the vocabulary.
    """
    words = write_processor(folder, model, tokenizer)
    tensors = to_huggingface(params)
    # Our scale is capped where it is used; transformers uses it as it is.
    tensors["logit_scale"] = np.minimum(tensors["logit_scale"], np.float32(math.log(100)))
    write_safetensors(tensors, folder / "model.safetensors", _METADATA)
    write_json(
        folder / "config.json",
        clip_config(model, _special_tokens(words)) | _architecture("CLIPModel"),
    )


def write_processor(folder: Path, model: Model, tokenizer: Path) -> CLIPTokenizer:
    """Writes tokenizer and image processor, which CLIPProcessor has together.

    Args:
        folder: to write to.
        model: `config.model`.
        tokenizer: folder of the vocabulary.
    """
    words = write_tokenizer(folder, tokenizer, model.text.context)
    size = model.vision.image_size
    images = CLIPImageProcessorPil(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_mean=list(model.vision.mean),
        image_std=list(model.vision.std),
    )
    CLIPProcessor(images, words).save_pretrained(folder)
    images.save_pretrained(folder)  # in a file of its own, for transformers before 5
    _tidy_tokenizer(folder)
    return words


def write_text_encoder(
    folder: Path, params: Mapping[str, np.ndarray], model: Model, tokenizer: Path
) -> None:
    """Writes the text tower as a `CLIPTextModel`.

    A text-to-video pipeline of diffusers takes it in place of its own text encoder when that is as
    wide.

    Args:
        folder: an empty one.
        params: all parameters by our names.
        model: `config.model` that they belong to.
        tokenizer: folder of the vocabulary.
    """
    words = write_tokenizer(folder, tokenizer, model.text.context)
    tensors = to_huggingface(params)
    # With their prefix: versions before 5 expect it, later ones take it too.
    text = {name: value for name, value in tensors.items() if name.startswith("text_model.")}
    write_safetensors(text, folder / "model.safetensors", _METADATA)
    config = clip_config(model, _special_tokens(words))["text_config"]
    write_json(folder / "config.json", config | _architecture("CLIPTextModel"))


def clip_config(model: Model, ids: Mapping[str, int]) -> dict:
    """A CLIPConfig of the towers' sizes.

    Args:
        model: `config.model`.
        ids: `eos_token_id` and other special tokens.
    """
    common = {"hidden_act": model.activation, "projection_dim": model.embed_dim}
    sizes = {"vocab_size": model.text.vocab_size, "max_position_embeddings": model.text.context}
    config = CLIPConfig(
        text_config=common | dict(ids) | sizes | _tower(model.text),
        vision_config=common
        | {"image_size": model.vision.image_size, "patch_size": model.vision.patch_size}
        | _tower(model.vision),
        projection_dim=model.embed_dim,
    )
    return config.to_dict()


def _special_tokens(words: CLIPTokenizer) -> dict[str, int]:
    return {
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }


def _tower(size) -> dict[str, int]:
    """The sizes of a transformer."""
    return {
        "hidden_size": size.width,
        "intermediate_size": 4 * size.width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
    }


def _architecture(name: str) -> dict:
    return {"architectures": [name], "dtype": "float32"}


def write_tokenizer(folder: Path, vocabulary: Path, context: int) -> CLIPTokenizer:
    """Writes a tokenizer that pads and truncates to the context of the text tower.

    Args:
        folder: to write to.
        vocabulary: folder of the run's tokenizer.
        context: tokens, with start and end of text.
    """
    words = CLIPTokenizer.from_pretrained(vocabulary, local_files_only=True)
    words.model_max_length = context
    words.save_pretrained(folder)
    # transformers before 5 reads CLIP's vocabulary from these two.
    bpe = json.loads(words.backend_tokenizer.to_str())["model"]
    write_json(folder / "vocab.json", bpe["vocab"])
    merges = [" ".join(pair) for pair in bpe["merges"]]
    text = "\n".join(["#version: 0.2", *merges]) + "\n"
    (folder / "merges.txt").write_text(text, encoding="utf-8")
    _tidy_tokenizer(folder)
    return words


def _tidy_tokenizer(folder: Path) -> None:
    """Completes tokenizer_config.json: without how the tokenizer was loaded here."""
    path = folder / "tokenizer_config.json"
    fields = json.loads(path.read_text(encoding="utf-8"))
    for name in ("is_local", "local_files_only"):
        fields.pop(name, None)
    # The name of end-of-text in a caption is text, as in `data/tokenizer.py`, and does not end it.
    fields["split_special_tokens"] = True
    write_json(path, fields)


def write_json(path: Path, fields: dict) -> None:
    """Writes fields in the order of their names."""
    path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
