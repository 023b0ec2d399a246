"""Infers activation, head count and pixel normalisation from config files, sizes from shapes.

    config_settings("huggingface", "clip-vit-base-patch16", widths)["text"].heads    # 8
    model_sizes(tensors, "huggingface", "clip-vit-base-patch16")["model.text.width"]  # 512

`load.py` compares the settings with the model that the weights are read for; `import` makes a model
of these sizes.
"""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mova_jax.config.schema import CLIP_MEAN, CLIP_STD
from mova_jax.utils.text_files import parse_json
from mova_jax.weights import clip_names
from mova_jax.weights.files import WeightsError
from mova_jax.weights.layouts import OPENAI_CODE, TWO_TABLES
from mova_jax.weights.positions import UNSTRETCHED

TOWERS = ("text", "vision")
# Of transformers; it reads the first one where that has an `image_processor`.
PROCESSOR_CONFIGS = ("processor_config.json", "preprocessor_config.json")
_HEAD_WIDTH = 64  # of every published CLIP


class Pixels(NamedTuple):
    """The normalisation of frames: (RGB in 0..1 - mean) / std."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


class Settings(NamedTuple):
    """What shapes do not say of a tower or a mask network; None where it is not known."""

    activation: str | None = None
    heads: int | None = None
    pixels: Pixels | None = None  # of the vision tower


def config_settings(
    layout: str, path: str | os.PathLike, widths: Mapping[str, int]
) -> dict[str, Settings]:
    """Activation, heads and normalisation of pixels that weights were trained with.

    Args:
        layout: from `layouts.detect_layout`.
        path: of the weights; a configuration is looked for in this folder, or next to this file.
        widths: of the towers.

    Returns:
        Settings of `text` and `vision`. For exports of format 1 also the heads of `tmn` and `cmn`,
        which later ones share with the text tower.

    Raises:
        WeightsError: when a configuration is no JSON, or its mean and std of pixels are no numbers.
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    if layout in OPENAI_CODE:
        # This code has QuickGELU and heads of 64 dimensions, whatever the sizes.
        heads = {tower: None if width % 64 else width // 64 for tower, width in widths.items()}
        settings = {tower: Settings("quick_gelu", heads[tower]) for tower in TOWERS}
        return _with_pixels(settings, Pixels(CLIP_MEAN, CLIP_STD))
    if layout == "open_clip":
        config = read_json(folder / "open_clip_config.json")
        settings = _open_clip_settings(config.get("model_cfg"))
        return _with_pixels(settings, _pixels(config.get("preprocess_cfg"), "mean", "std", folder))
    config = read_json(folder / "config.json")
    if layout == "mova_torch" and config.get("format") == "mova_jax":
        return _mova_settings(config["model"])
    if layout == "huggingface" and config.get("model_type") == "clip":
        settings = _transformers_settings(config)
        return _with_pixels(
            settings, _pixels(_processor(folder), "image_mean", "image_std", folder)
        )
    return dict.fromkeys(TOWERS, Settings())


def _with_pixels(settings: dict[str, Settings], pixels: Pixels | None) -> dict[str, Settings]:
    return settings | {"vision": settings["vision"]._replace(pixels=pixels)}


def _processor(folder: Path) -> dict[str, Any]:
    """The configuration of transformers' image processor, in the order in which it looks for it."""
    nested, plain = (read_json(folder / name) for name in PROCESSOR_CONFIGS)
    found = nested.get("image_processor")
    return found if isinstance(found, dict) else plain


def _pixels(config: Any, mean: str, std: str, folder: Path) -> Pixels | None:
    """The normalisation in the configuration of a processor; None where it does not say it.

    Raises:
        WeightsError: mean and std are not three numbers each.
    """
    if not isinstance(config, dict) or not config:
        return None
    try:
        # Other factors on the bytes than 1 / 255 are moved into mean and std.
        factor = config.get("rescale_factor", 1 / 255) if config.get("do_rescale", True) else 1.0
        values = [config.get(name, old) for name, old in ((mean, CLIP_MEAN), (std, CLIP_STD))]
        if not config.get("do_normalize", True):
            values = [3 * [0.0], 3 * [1.0]]
        rgb = [tuple(float(x) / round(255 * factor, 9) for x in three) for three in values]
        if [len(three) for three in rgb] != [3, 3] or min(rgb[1]) <= 0:
            raise ValueError("not three numbers each, those of std above 0")
    except (TypeError, ValueError, ZeroDivisionError) as error:
        got = {name: config.get(name) for name in (mean, std, "rescale_factor") if name in config}
        raise WeightsError([f"{folder}: got {got} for its pictures ({error})"]) from None
    return Pixels(*rgb)


def _mova_settings(model: Mapping[str, Any]) -> dict[str, Settings]:
    settings = {tower: Settings(model["activation"], model[tower]["heads"]) for tower in TOWERS}
    vision = model["vision"]
    pixels = Pixels(tuple(vision.get("mean", CLIP_MEAN)), tuple(vision.get("std", CLIP_STD)))
    settings = _with_pixels(settings, pixels)
    for network, kind in (("tmn", "layout"), ("cmn", "kind")):
        if model[network][kind] != "none" and "heads" in model[network]:
            settings[network] = Settings(heads=model[network]["heads"])
    return settings


# A key that a configuration leaves out has the default of the library that wrote it.


def _open_clip_settings(config: Any) -> dict[str, Settings]:
    if not isinstance(config, dict):
        return dict.fromkeys(TOWERS, Settings())
    activation = "quick_gelu" if config.get("quick_gelu") else "gelu"
    text, vision = (config.get(f"{tower}_cfg", {}) for tower in TOWERS)
    heads = vision.get("width", 768) // vision.get("head_width", 64)
    return {
        "text": Settings(activation, text.get("heads", 8)),
        "vision": Settings(activation, heads),
    }


def _transformers_settings(config: dict[str, Any]) -> dict[str, Settings]:
    settings = {}
    for tower, heads in (("text", 8), ("vision", 12)):
        tower_config = tower_config_of(config, tower)
        activation = tower_config.get("hidden_act", "quick_gelu")
        activation = {"gelu_python": "gelu"}.get(activation, activation)  # the same function
        settings[tower] = Settings(activation, tower_config.get("num_attention_heads", heads))
    return settings


def tower_config_of(config: Mapping[str, Any], tower: str) -> Mapping[str, Any]:
    """The configuration of a tower of transformers' CLIP: folders before version 4.27 have two.

    Of two, transformers takes `text_config_dict`, with its own defaults for what that leaves out.
    """
    old = config.get(f"{tower}_config_dict")
    return (config.get(f"{tower}_config") if old is None else old) or {}


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file; empty when there is no file or no object in it."""
    if not file.is_file():
        return {}
    try:
        value = parse_json(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError([f"{file}: no JSON ({error})"]) from None
    return value if isinstance(value, dict) else {}


def model_sizes(
    tensors: Mapping[str, np.ndarray], layout: str, path: str | os.PathLike
) -> dict[str, Any]:
    """Keys of `config.model` for a model that CLIP's tensors fit into.

    Args:
        tensors: by the names of their file.
        layout: from `layouts.detect_layout`.
        path: of the weights, see `config_settings`. Heads that are not known are 64 wide; an
            activation that is not known is left out.

    Returns:
        `{"model.vision.width": 768, ...}`.

    Raises:
        WeightsError: when a tensor that the sizes are read from is missing.
    """
    table = clip_names.HUGGINGFACE if layout == "huggingface" else clip_names.openai_table(tensors)
    names = {entry.ours: entry.theirs for entry in table.tensors}
    kinds = {entry.ours: entry.kind for entry in table.tensors}
    stacks = dict(table.stacks)
    try:
        patches = tensors[names["vision/patch_embedding/kernel"]].shape  # [w 3 p p]
        positions = len(tensors[table.image_positions])
        vocabulary, text_width = tensors[names["text/token_embedding"]].shape
        projection = tensors[names["vision/projection/kernel"]].shape
    except KeyError as error:
        raise WeightsError(
            [f"missing {error.args[0]}, which tells the size of the model"]
        ) from None
    widths = {"text": text_width, "vision": patches[0]}
    settings = config_settings(layout, path, widths)
    heads = {t: settings[t].heads or max(1, widths[t] // _HEAD_WIDTH) for t in TOWERS}
    sizes = {
        "model.vision.width": patches[0],
        "model.vision.patch_size": patches[-1],
        "model.vision.image_size": math.isqrt(positions - 1) * patches[-1],
        "model.vision.layers": _depth(tensors, stacks["vision/blocks/blocks"]),
        "model.vision.heads": heads["vision"],
        "model.text.width": text_width,
        "model.text.vocab_size": vocabulary,
        "model.text.layers": _depth(tensors, stacks["text/blocks/blocks"]),
        "model.text.heads": heads["text"],
        "model.embed_dim": projection[kinds["vision/projection/kernel"] != "linear"],
    }
    if settings["text"].activation:
        sizes["model.activation"] = settings["text"].activation
    if pixels := settings["vision"].pixels:
        sizes |= {"model.vision.mean": pixels.mean, "model.vision.std": pixels.std}
    # How these weights were trained; SmartCLIP's mask network fits without a bias only.
    if layout in TWO_TABLES:
        sizes["model.text.frozen_positions"] = UNSTRETCHED
    if layout == "smartclip":
        sizes["model.masks.init_bias"] = 0.0
    return sizes


def _depth(tensors: Mapping[str, np.ndarray], stack: str) -> int:
    """Number of blocks under a name."""
    prefix = f"{stack}."
    return len({n.removeprefix(prefix).split(".")[0] for n in tensors if n.startswith(prefix)})
