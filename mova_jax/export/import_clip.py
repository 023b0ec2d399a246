"""Makes an untrained MoVA of CLIP weights, for `convert import`.

    bundle, report = import_clip("clip-vit-base-patch16", config)

The towers have the weights and the sizes of the CLIP; parameters that it lacks, such as those of
mask networks, are random (`config.seed`).
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mova_jax.config import from_config_dict
from mova_jax.data.tokenizer import Tokenizer
from mova_jax.export.bundle import Bundle
from mova_jax.models.build import make_model_spec
from mova_jax.utils.trees import parameter_names, parameter_shapes
from mova_jax.weights.architecture import model_sizes
from mova_jax.weights.conversion import Report
from mova_jax.weights.files import WeightsError, read_tensors
from mova_jax.weights.layouts import detect_layout
from mova_jax.weights.load import find_vocabulary, load_weights


def import_clip(
    path: str | os.PathLike,
    config: ConfigDict,
    *,
    changes: Mapping[str, Any] | None = None,
    tokenizer: str | os.PathLike = "",
    strict: bool = True,
    allow_torchscript: bool = False,
    licence: str = "",
) -> tuple[Bundle, Report]:
    """Makes a model with the sizes and the weights of a CLIP.

    Args:
        path: a file or a folder of CLIP, open_clip, Long-CLIP or SmartCLIP.
        config: a whole configuration, whose sizes are replaced by those of the weights.
        changes: keys of the configuration to set after that.
        tokenizer: folder of CLIP's vocabulary; '': the folder of the weights.
        strict: refuse tensors that are missing, unexpected or ill-shaped.
        allow_torchscript: read TorchScript archives, which may run code.
        licence: of the weights.

    Raises:
        WeightsError: all problems at once.
        ConfigError: the sizes do not make a legal configuration.
    """
    path = Path(path)
    vocabulary = find_vocabulary(tokenizer or path)
    tensors = read_tensors(path, allow_torchscript=allow_torchscript)
    layout = detect_layout(tensors)
    if layout == "mova_torch":
        raise WeightsError([f"{path} is an export of ours already: give it to init= as it is"])
    sizes = model_sizes(tensors, layout, path)
    if "model.activation" not in sizes | dict(changes or {}):
        raise WeightsError(
            [
                f"nothing in {path} says with which activation it was trained: --set "
                "model.activation=quick_gelu (OpenAI's weights, models called -quickgelu) or "
                "--set model.activation=gelu (most others)"
            ]
        )
    del tensors  # read again below: only one copy at a time
    config.update_from_flattened_dict(sizes | dict(changes or {}))
    checked = dataclasses.replace(from_config_dict(config), init_from="")
    model = checked.model
    spec = make_model_spec(model)
    params, report = load_weights(
        path,
        parameter_shapes(spec.abstract_params),
        model,
        strict=strict,
        allow_torchscript=allow_torchscript,
    )
    _check_vocabulary(vocabulary, model.text.context, model.text.vocab_size)
    if report.initial:
        drawn = parameter_names(jax.jit(lambda: spec.init_params(checked.seed))())
        params |= {name: np.asarray(drawn[name]) for name in report.initial}
    origin = {"steps": 0, "started_from": path.name, "seed": checked.seed}
    return Bundle(params, checked, vocabulary, 1.0, origin, {}, licence), report


def _check_vocabulary(folder: Path, context: int, rows: int) -> None:
    try:
        found = Tokenizer(folder, context).vocab_size
    except ValueError as error:
        raise WeightsError([str(error)]) from error
    if found > rows:
        raise WeightsError(
            [f"{folder} has {found} tokens, but the text encoder knows {rows}: they do not belong"]
        )
