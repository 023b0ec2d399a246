"""The sizes of a CLIP, read from its tensors and the config.json beside it.

In: tensors by the names of their file. Out: keys of `config.model` with their values, so that a
model can be made that the tensors fit into.
"""

import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from mova_jax import config as config_lib
from mova_jax.config import Model
from mova_jax.weights import clip_names
from mova_jax.weights.files import WeightsError
from mova_jax.weights.layouts import TWO_TABLES
from mova_jax.weights.positions import KEPT
from mova_jax.weights.settings import TOWERS, settings_of

_HEAD_WIDTH = 64  # of every published CLIP


def sizes_of(
    tensors: Mapping[str, np.ndarray], layout: str, path: str | os.PathLike
) -> dict[str, Any]:
    """`{"model.vision.width": 768, ...}` of the model that the tensors are of.

    Args:
        tensors: by their own names.
        layout: from `detect_layout`.
        path: where they come from, for what shapes do not say (`settings_of`). Where nothing says
            it, heads are 64 wide and the activation is left out.

    Raises:
        WeightsError: a tensor that tells a size is missing.
    """
    table = clip_names.HUGGINGFACE if layout == "huggingface" else clip_names.openai_table(tensors)
    names = {ours: theirs for ours, theirs, _ in table.tensors}
    kinds = {ours: kind for ours, _, kind in table.tensors}
    stacks = dict(table.stacks)
    try:
        patches = tensors[names["vision/patch_embedding/kernel"]].shape  # [w 3 p p]
        positions = len(tensors[table.image_positions])
        vocabulary, text_width = tensors[names["text/token_embedding"]].shape
        ends = tensors[names["vision/projection/kernel"]].shape
    except KeyError as error:
        raise WeightsError(
            [f"missing {error.args[0]}, which tells the size of the model"]
        ) from None
    widths = {"text": text_width, "vision": patches[0]}
    said = settings_of(layout, path, widths)
    heads = {part: said[part].heads or max(1, widths[part] // _HEAD_WIDTH) for part in TOWERS}
    # What the weights were trained with, and their tensors only fit as they are.
    kept = {"model.text.frozen_positions": KEPT} if layout in TWO_TABLES else {}
    if layout == "smartclip":
        kept["model.masks.init_bias"] = 0.0
    return kept | {
        "model.vision.width": patches[0],
        "model.vision.patch_size": patches[-1],
        "model.vision.image_size": math.isqrt(positions - 1) * patches[-1],
        "model.vision.layers": _depth(tensors, stacks["vision/blocks/blocks"]),
        "model.vision.heads": heads["vision"],
        "model.text.width": text_width,
        "model.text.vocab_size": vocabulary,
        "model.text.layers": _depth(tensors, stacks["text/blocks/blocks"]),
        "model.text.heads": heads["text"],
        "model.embed_dim": ends[kinds["vision/projection/kernel"] != "linear"],
        **({"model.activation": said["text"].activation} if said["text"].activation else {}),
        # Mask networks work at the width of the text tower, with its heads.
        "model.tmn.heads": heads["text"],
        "model.cmn.heads": heads["text"],
    }


def _depth(tensors: Mapping[str, np.ndarray], stack: str) -> int:
    """Number of blocks under a name."""
    prefix = f"{stack}."
    numbers = {n.removeprefix(prefix).split(".")[0] for n in tensors if n.startswith(prefix)}
    return len(numbers)


def towers(sizes: Mapping[str, Any], context: int) -> Model:
    """`config.model` of the two towers alone, for comparisons with other CLIPs.

    Args:
        sizes: from `sizes_of`.
        context: text positions, `model.text.context`.
    """
    fields: dict[str, Any] = {
        "vision": {},
        "text": {"context": context},
        "dtype": "float32",
        "remat": "none",
        "global_head": "mean",
        "head_layers": 1,
        "frame_positions": 1,
        "scale": 100.0,
        "modular_scale": 0.0,
        "tmn": {"layout": "none", "layers": 1, "token_layers": 0, "detach_tokens": False},
        "cmn": {"kind": "none", "sees_frame": False, "detach_tokens": True},
        "masks": {"kind": "hard", "temperature": 1.0, "init_bias": 0.0},
        "activation": "quick_gelu",  # transformers' own, where nothing says it
    }
    for name, value in sizes.items():
        *section, key = name.removeprefix("model.").split(".")
        (fields[section[0]] if section else fields)[key] = value
    return config_lib.section(Model, fields)
