"""The weights that a run starts from: a file or folder, checked against the model.

In: a path, shapes of our parameters. Out: arrays by our names, for those parameters that the
weights have something for, and a report. Used at the start of a run (`config.init_from`).

    ours, report = load_initial("clip-vit-base-patch16", like, config.model.activation)
"""

import os
import pathlib
import re
from collections.abc import Mapping

import numpy as np

from mova_jax.data.tokenizer import is_tokenizer
from mova_jax.weights.clip_names import Shape
from mova_jax.weights.conversion import Report
from mova_jax.weights.files import WeightsError, read_tensors
from mova_jax.weights.layouts import detect_layout, to_flax
from mova_jax.weights.settings import TOWERS, Settings, settings_of


def load_initial(
    path: str | os.PathLike,
    like: Mapping[str, Shape],
    activation: str,
    *,
    strict: bool = True,
    allow_torchscript: bool = False,
    init_bias: float = 0.0,
) -> tuple[dict[str, np.ndarray], Report]:
    """Reads weights of any layout for a model.

    Shapes do not say which activation weights were trained with, nor how many heads they have;
    where the layout or a config.json beside the weights says it, it is compared with the model.

    Args:
        path: a file or a folder, as `files.read_tensors` takes it.
        like: shapes of all of our parameters, by our names.
        activation: `config.model.activation`.
        strict: refuse whatever does not fit. Otherwise it is in the report, and parameters without
            a fitting tensor are missing in the result.
        allow_torchscript: read TorchScript archives, which may run code; only from those you trust.
        init_bias: `config.model.masks.init_bias`; SmartCLIP's mask network needs it to be 0.

    Returns:
        float32 arrays by our names, and the report.

    Raises:
        WeightsError: all problems at once.
    """
    tensors = read_tensors(path, allow_torchscript=allow_torchscript)
    layout = detect_layout(tensors)
    if layout == "mova_torch":
        ours, report = _from_twin(tensors, like)
    else:
        ours, report = to_flax(tensors, layout, like, strict=False, init_bias=init_bias)
    widths = {tower: like[f"{tower}/positions"][1] for tower in TOWERS}
    trained = settings_of(layout, path, widths)
    for part, settings in trained.items():
        report.problems += _differences(part, settings, like, activation)
    if trained["text"].activation is None:
        report.changed.append(
            f"nothing says with which activation they were trained: taken as {activation}, as the "
            "model has it (OpenAI's weights and models called -quickgelu have quick_gelu, most "
            "others gelu)"
        )
    if strict and report.problems:
        raise WeightsError(report.problems)
    return ours, report


def vocabulary_beside(path: str | os.PathLike) -> pathlib.Path:
    """The folder of the vocabulary that weights belong to: theirs, or the one their file lies in.

    Raises:
        WeightsError: when there is none. Their embeddings mean nothing under another one.
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


def _from_twin(
    tensors: Mapping[str, np.ndarray], like: Mapping[str, Shape]
) -> tuple[dict[str, np.ndarray], Report]:
    """Weights of our PyTorch twin; modules that it has not keep their initial values."""
    from mova_jax.weights.torch_names import from_torch, to_torch

    report, left = Report("mova_torch"), dict(tensors)
    there = {name.split(".")[0] for name in tensors} | {*TOWERS, "logit_scale"}
    ours: dict[str, np.ndarray] = {}
    # One by one, so that without `strict` all the others can be taken.
    for name, shape in like.items():
        if name.split("/")[0] not in there:
            continue
        names = to_torch({name: np.broadcast_to(np.float32(0), shape)})
        own = {theirs: left.pop(theirs) for theirs in names if theirs in left}
        try:
            ours |= from_torch(own, {name: shape})
        except WeightsError as error:
            report.problems += error.problems
    report.problems += [f"{name}: not expected" for name in sorted(left)]
    report.kept = sorted(set(like) - set(ours))
    return ours, report


def _heads(like: Mapping[str, Shape], part: str) -> int | None:
    """Heads of attention of a tower or a mask network; None where it has no such attention."""
    maps = re.compile(rf"{part}/.*(qkv|key_value)/kernel")
    return next((shape[-2] for name, shape in like.items() if maps.fullmatch(name)), None)


def _differences(
    part: str, trained: Settings, like: Mapping[str, Shape], activation: str
) -> list[str]:
    """Where a part was trained otherwise than the model computes."""
    heads = _heads(like, part)
    if heads is None:  # the model has no such part
        return []
    name = f"{part} tower" if part in TOWERS else part
    problems = []
    if trained.activation not in (None, activation):
        problems.append(
            f"the {name} was trained with {trained.activation}: got model.activation {activation}"
        )
    if trained.heads not in (None, heads):
        problems.append(f"the {name} has {trained.heads} heads: got model.{part}.heads {heads}")
    return problems
