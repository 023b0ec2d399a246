"""Checks config files beside weights for what these towers do not compute.

    check_configs("huggingface", "clip-vit-base-patch16", report)

transformers and open_clip read more of a configuration than sizes: a key that changes the outputs
of the model is compared here with what this package computes. `architecture.py` reads the keys that
this package has too.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mova_jax.data.tokenizer import Tokenizer, is_tokenizer
from mova_jax.weights.architecture import TOWERS, read_json, tower_config_of
from mova_jax.weights.conversion import Report

_EPSILON = 1e-5  # of layer norms
# Keys of open_clip's towers that change their outputs and not their tensors, with the values that
# the towers here compute; a key that is left out has the first value.
_OPEN_CLIP: dict[str, dict[str, tuple[Any, ...]]] = {
    "text": {
        "pool_type": ("argmax", "eos"),
        "no_causal_mask": (False,),
        "embed_cls": (False,),
        "final_ln_after_pool": (False,),
        "act_kwargs": (None, {}),
        "norm_kwargs": (None, {}, {"eps": _EPSILON}),
        "scaled_cosine_attn": (False,),
        "hf_model_name": (None, ""),
        "tokenizer_kwargs": (None, {}, {"clean": "lower"}),
    },
    "vision": {
        "pool_type": ("tok",),
        "no_ln_pre": (False,),
        "final_ln_after_pool": (False,),
        "act_kwargs": (None, {}),
        "norm_kwargs": (None, {}, {"eps": _EPSILON}),
        "scaled_cosine_attn": (False,),
        "timm_model_name": (None, ""),
    },
}


def check_configs(layout: str, path: str | os.PathLike, report: Report) -> None:
    """Adds to the report what the configuration next to weights asks for and is not done here.

    Args:
        layout: from `layouts.detect_layout`.
        path: of the weights; a configuration is looked for in this folder, or next to this file.
        report: gets a problem for each key that changes the outputs, a change for the others.

    Raises:
        WeightsError: when a configuration is no JSON.
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    if layout == "open_clip":
        config = read_json(folder / "open_clip_config.json").get("model_cfg")
        if isinstance(config, dict):
            report.problems += _open_clip_problems(config)
    elif layout == "huggingface":
        config = read_json(folder / "config.json")
        if Path(path).is_dir():
            report.problems += _other_weights(config, folder)
        report.problems += _transformers_problems(config, folder)
        report.changes += [
            f"attention_dropout {rate} of the {tower} tower is not used in training"
            for tower in TOWERS
            if (rate := tower_config_of(config, tower).get("attention_dropout"))
        ]


def _open_clip_problems(config: Mapping[str, Any]) -> list[str]:
    problems = []
    for tower, known in _OPEN_CLIP.items():
        found = config.get(f"{tower}_cfg", {})
        problems += [
            f"open_clip_config.json: got {tower}_cfg.{key} {found[key]!r}, expected {values[0]!r}"
            for key, values in known.items()
            if key in found and found[key] not in values
        ]
    return problems


def _other_weights(config: Mapping[str, Any], folder: Path) -> list[str]:
    """Problems of a folder whose config files name other weights than those that were read."""
    problems, named = [], config.get("transformers_weights")
    if named not in (None, "model.safetensors"):
        problems.append(f"config.json: its weights are in {named}; give that file, not the folder")
    if (folder / "adapter_config.json").is_file():
        problems.append(
            "adapter_config.json: got weights with an adapter of PEFT beside them, which would be "
            "left out; expected merged ones: save model.merge_and_unload()"
        )
    return problems


def _transformers_problems(config: Mapping[str, Any], folder: Path) -> list[str]:
    problems, kind = [], config.get("model_type", "clip")
    if kind != "clip":
        problems.append(f"config.json: got model_type {kind!r}, expected 'clip'")
    if quantized := config.get("quantization_config"):
        method = quantized.get("quant_method") if isinstance(quantized, dict) else quantized
        problems.append(
            f"config.json: got weights quantized by {method}, expected plain ones: save "
            "model.dequantize() of transformers, or the weights that they were made of"
        )
    for tower in TOWERS:
        epsilon = tower_config_of(config, tower).get("layer_norm_eps", _EPSILON)
        if epsilon != _EPSILON:
            problems.append(
                f"config.json: got layer_norm_eps {epsilon} of the {tower} tower, expected "
                f"{_EPSILON}"
            )
    end, ours = tower_config_of(config, "text").get("eos_token_id", 2), _end_of_text(folder)
    # With 2, as old folders have it, transformers takes the highest id in place of it.
    if end != 2 and ours not in (None, end):
        problems.append(
            f"config.json: got eos_token_id {end} of the text tower, expected {ours}, which ends a "
            "text in the vocabulary beside it"
        )
    return problems


def _end_of_text(folder: Path) -> int | None:
    """Id of end-of-text in a folder's vocabulary; None where there is none of CLIP."""
    try:
        return Tokenizer(folder).eot_id if is_tokenizer(folder) else None
    except ValueError:  # its reader says it better
        return None
