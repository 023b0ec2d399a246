"""The two towers as folders that Hugging Face's transformers and diffusers load.

In: our parameters by name, `config.model`, a tokenizer's folder. Out: a folder for

    CLIPModel.from_pretrained(folder), CLIPProcessor.from_pretrained(folder)   # write_clip
    CLIPTextModel.from_pretrained(folder)                                      # write_text_encoder

Both take captions of `model.text.context` tokens. Mask networks and a `seq_transformer` head have
no place in these classes: their global score is that of mean frames.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPProcessor, CLIPTokenizer

from mova_jax.config import Model
from mova_jax.models.vision import PIXEL_MEAN, PIXEL_STD
from mova_jax.weights.files import write_safetensors
from mova_jax.weights.layouts import to_huggingface

_METADATA = {"format": "pt"}  # transformers refuses files that do not say so


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
    words = _tokenizer(tokenizer, model.text.context)
    write_safetensors(to_huggingface(params), folder / "model.safetensors", _METADATA)
    _write_json(folder / "config.json", _clip_config(model, words) | _made_as("CLIPModel"))
    size = model.vision.image_size
    images = CLIPImageProcessorPil(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_mean=PIXEL_MEAN.tolist(),
        image_std=PIXEL_STD.tolist(),
    )
    CLIPProcessor(images, words).save_pretrained(folder)
    images.save_pretrained(folder)  # transformers before 5 reads it from a file of its own


def write_text_encoder(
    folder: Path, params: Mapping[str, np.ndarray], model: Model, tokenizer: Path
) -> None:
    """Writes the text tower as a `CLIPTextModel`, which text-to-video pipelines of diffusers take.

    A pipeline takes it in place of its own text encoder when the widths agree.

    Args:
        folder: an empty one.
        params: all parameters by our names.
        model: `config.model` that they belong to.
        tokenizer: folder of the vocabulary.
    """
    words = _tokenizer(tokenizer, model.text.context)
    tensors = to_huggingface(params)
    # With their prefix: versions before 5 expect it, later ones take it too.
    text = {name: value for name, value in tensors.items() if name.startswith("text_model.")}
    write_safetensors(text, folder / "model.safetensors", _METADATA)
    config = _clip_config(model, words)["text_config"]
    _write_json(folder / "config.json", config | _made_as("CLIPTextModel"))
    words.save_pretrained(folder)


def _clip_config(model: Model, words: CLIPTokenizer) -> dict:
    """A CLIPConfig of the towers' sizes."""
    common = {"hidden_act": model.activation, "projection_dim": model.embed_dim}
    ids = {
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }
    sizes = {"vocab_size": model.text.vocab_size, "max_position_embeddings": model.text.context}
    config = CLIPConfig(
        text_config=common | ids | sizes | _tower(model.text),
        vision_config=common
        | {"image_size": model.vision.image_size, "patch_size": model.vision.patch_size}
        | _tower(model.vision),
        projection_dim=model.embed_dim,
    )
    return config.to_dict()


def _tower(size) -> dict[str, int]:
    """The sizes of a transformer."""
    return {
        "hidden_size": size.width,
        "intermediate_size": 4 * size.width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
    }


def _made_as(architecture: str) -> dict:
    return {"architectures": [architecture], "dtype": "float32"}


def _tokenizer(folder: Path, context: int) -> CLIPTokenizer:
    """The tokenizer, which pads and cuts at the length that the towers take."""
    words = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    words.model_max_length = context
    return words


def _write_json(path: Path, fields: dict) -> None:
    path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")
