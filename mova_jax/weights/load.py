"""Loads weights of any layout for a model, and finds the vocabulary that belongs to them.

In: a path, shapes of our parameters. Out: arrays by our names, for the parameters that the weights
have, and a report.

    ours, report = load_weights("clip-vit-base-patch16", like, config.model)
"""

import os
import pathlib
import re
from collections.abc import Mapping

import numpy as np

from mova_jax.config import Model
from mova_jax.data.tokenizer import is_tokenizer
from mova_jax.weights.architecture import TOWERS, Pixels, Settings, config_settings
from mova_jax.weights.clip_names import Shape
from mova_jax.weights.config_checks import check_configs
from mova_jax.weights.conversion import Report
from mova_jax.weights.files import WeightsError, read_tensors
from mova_jax.weights.layouts import detect_layout, to_flax
from mova_jax.weights.torch_names import from_torch


def load_weights(
    path: str | os.PathLike,
    like: Mapping[str, Shape],
    model: Model,
    *,
    strict: bool = True,
    allow_torchscript: bool = False,
) -> tuple[dict[str, np.ndarray], Report]:
    """Reads weights of any layout for a model.

    Activation, number of heads and normalisation of pixels, which shapes do not say, are compared
    with the model where the layout or a configuration next to the weights tells them.

    Args:
        path: a file or a folder, as `files.read_tensors` takes it.
        like: shapes of all of our parameters, by our names.
        model: `config.model`.
        strict: refuse weights that do not fit. Otherwise the report lists the problems, and the
            result lacks parameters without a fitting tensor.
        allow_torchscript: read TorchScript archives, which may run code: only those that you trust.

    Returns:
        float32 arrays by our names, and the report.

    Raises:
        WeightsError: all problems at once.
    """
    tensors = read_tensors(path, allow_torchscript=allow_torchscript)
    layout = detect_layout(tensors)
    if layout == "mova_torch":
        ours, report = _from_export(tensors, like)
    else:
        bias = model.masks.init_bias  # 0 for SmartCLIP's mask network
        ours, report = to_flax(tensors, layout, like, strict=False, init_bias=bias)
    widths = {tower: like[f"{tower}/positions"][1] for tower in TOWERS}
    settings = config_settings(layout, path, widths)
    for part, trained in settings.items():
        report.problems += _differences(part, trained, like, model)
    check_configs(layout, path, report)
    if settings["text"].activation is None:
        report.changes.append(
            f"nothing says with which activation they were trained: taken as {model.activation}, "
            "as the model has it (OpenAI's weights and models called -quickgelu have quick_gelu, "
            "most others gelu)"
        )
    if strict and report.problems:
        raise WeightsError(report.problems)
    return ours, report


def find_vocabulary(path: str | os.PathLike) -> pathlib.Path:
    """The folder of the vocabulary of weights: the folder itself, or the folder of their file.

    Raises:
        WeightsError: when it has none; token embeddings mean nothing under another vocabulary.
    """
    path = pathlib.Path(path)
    folder = path if path.is_dir() else path.parent
    if is_tokenizer(folder):
        return folder
    raise WeightsError(
        [
            f"{folder}: expected the vocabulary of these weights in it (tokenizer.json, or "
            "vocab.json and merges.txt of CLIP); put the files there, or name their folder by "
            "--tokenizer where a command has it"
        ]
    )


def _from_export(
    tensors: Mapping[str, np.ndarray], like: Mapping[str, Shape]
) -> tuple[dict[str, np.ndarray], Report]:
    """Weights of an export for PyTorch; modules that it lacks keep their initial values."""
    modules = {name.split(".")[0] for name in tensors} | {*TOWERS, "logit_scale"}
    wanted = {name: shape for name, shape in like.items() if name.split("/")[0] in modules}
    ours, problems = from_torch(tensors, wanted)
    initial = sorted(set(like) - set(ours))
    return ours, Report("mova_torch", initial=initial, problems=problems)


def _heads(like: Mapping[str, Shape], part: str) -> int | None:
    """Attention heads of a tower or a mask network; None where the model has no such part."""
    maps = re.compile(rf"{part}/.*(qkv|key_value)/kernel")
    return next((shape[-2] for name, shape in like.items() if maps.fullmatch(name)), None)


def _differences(
    part: str, trained: Settings, like: Mapping[str, Shape], model: Model
) -> list[str]:
    """Lines on how a part was trained, where the model computes it otherwise."""
    heads = _heads(like, part)
    if heads is None:
        return []
    tower = part in TOWERS
    name, key = (f"{part} tower", part) if tower else (part, "text")
    problems = []
    if trained.activation not in (None, model.activation):
        problems.append(
            f"the {name} was trained with {trained.activation}: got model.activation "
            f"{model.activation}"
        )
    if trained.heads not in (None, heads):
        problems.append(f"the {name} has {trained.heads} heads: got model.{key}.heads {heads}")
    pixels = Pixels(model.vision.mean, model.vision.std)
    for key, theirs, mine in zip(Pixels._fields, trained.pixels or pixels, pixels, strict=True):
        if np.any(np.float32(theirs) != np.float32(mine)):
            problems.append(
                f"the {name} was trained on pixels of {key} {list(theirs)}: got "
                f"model.vision.{key} {list(mine)}"
            )
    return problems
