"""CLIP weights as a model of ours that is not trained yet: what `convert import` makes.

    bundle, report = import_clip("clip-vit-base-patch16", config)

The towers are the source's, at the source's sizes; mask networks are drawn from `config.seed`
unless the source has some.
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
from mova_jax.utils.trees import parameter_names
from mova_jax.weights.architecture import model_sizes
from mova_jax.weights.conversion import Report
from mova_jax.weights.files import WeightsError, read_tensors
from mova_jax.weights.layouts import detect_layout
from mova_jax.weights.load import find_vocabulary, load_weights


def import_clip(
    source: str | os.PathLike,
    config: ConfigDict,
    *,
    changes: Mapping[str, Any] | None = None,
    tokenizer: str | os.PathLike = "",
    strict: bool = True,
    allow_torchscript: bool = False,
    licence: str = "",
) -> tuple[Bundle, Report]:
    """Makes a model of the source's sizes that starts from its weights.

    Args:
        source: a file or a folder of CLIP, open_clip, Long-CLIP or SmartCLIP.
        config: a whole configuration; its sizes are replaced by the source's, all else is kept.
        changes: keys of the configuration to set after that.
        tokenizer: folder of CLIP's vocabulary; '' takes that beside the source.
        strict: refuse tensors that are missing, unexpected or ill-shaped.
        allow_torchscript: read TorchScript archives, which may run code.
        licence: of the weights.

    Raises:
        WeightsError: all problems at once.
        ConfigError: the sizes do not make a sound configuration.
    """
    path = Path(source)
    words = find_vocabulary(tokenizer or path)
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
    checked = from_config_dict(config)
    model = checked.model
    spec = make_model_spec(model)
    abstract = spec.abstract_params
    ours, report = load_weights(
        path,
        {name: leaf.shape for name, leaf in parameter_names(abstract).items()},
        model.activation,
        strict=strict,
        allow_torchscript=allow_torchscript,
        init_bias=model.masks.init_bias,
    )
    _check_vocabulary(words, model.text.context, model.text.vocab_size)
    missing = [name for name in parameter_names(abstract) if name not in ours]
    drawn = {}
    if missing:
        drawn = parameter_names(jax.jit(lambda: spec.init_params(checked.seed))())
    params = ours | {name: np.asarray(drawn[name]) for name in missing}
    origin = {"steps": 0, "started_from": path.name, "seed": checked.seed}
    checked = dataclasses.replace(checked, init_from="")
    return Bundle(params, checked, words, 1.0, origin, {}, licence), report


def _check_vocabulary(folder: Path, context: int, rows: int) -> None:
    try:
        found = Tokenizer(folder, context).vocab_size
    except ValueError as error:
        raise WeightsError([str(error)]) from error
    if found > rows:
        raise WeightsError(
            [f"{folder} has {found} tokens, but the text encoder knows {rows}: they do not belong"]
        )
