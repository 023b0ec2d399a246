"""What shapes do not say of weights: activation and heads, by their layout or a file beside them.

settings_of("huggingface", "clip-vit-base-patch16", {"text": 512, "vision": 768})["text"].heads
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mova_jax.weights.files import WeightsError
from mova_jax.weights.layouts import OPENAI_MADE

TOWERS = ("text", "vision")


class Settings(NamedTuple):
    """How a tower or a mask network was trained; None where nothing says so."""

    activation: str | None = None
    heads: int | None = None


def settings_of(
    layout: str, path: str | os.PathLike, widths: Mapping[str, int]
) -> dict[str, Settings]:
    """How each part was trained.

    Args:
        layout: from `layouts.detect_layout`.
        path: of the weights; a configuration is looked for in this folder, or beside this file.
        widths: of the towers.

    Returns:
        Settings of `text` and `vision`, and of an export of ours those of its mask networks.

    Raises:
        WeightsError: when a configuration is no JSON.
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    if layout in OPENAI_MADE:
        # Its code has QuickGELU, and takes heads of 64 dimensions.
        return {
            tower: Settings("quick_gelu", None if widths[tower] % 64 else widths[tower] // 64)
            for tower in TOWERS
        }
    if layout == "open_clip":
        return _of_open_clip(_json(folder / "open_clip_config.json").get("model_cfg"))
    config = _json(folder / "config.json")
    if layout == "mova_torch" and config.get("format") == "mova_jax":
        model = config["model"]
        with_masks = {"tmn": model["tmn"]["layout"], "cmn": model["cmn"]["kind"]}
        masks = [part for part, kind in with_masks.items() if kind != "none"]
        return {p: Settings(model["activation"], model[p]["heads"]) for p in (*TOWERS, *masks)}
    if layout == "huggingface" and config.get("model_type") == "clip":
        return _of_transformers(config)
    return dict.fromkeys(TOWERS, Settings())


# What is left out of a configuration has the default of the library that wrote it.


def _of_open_clip(config: Any) -> dict[str, Settings]:
    if not isinstance(config, dict):
        return dict.fromkeys(TOWERS, Settings())
    activation = "quick_gelu" if config.get("quick_gelu") else "gelu"
    text, vision = (config.get(f"{tower}_cfg", {}) for tower in TOWERS)
    heads = vision.get("width", 768) // vision.get("head_width", 64)
    return {
        "text": Settings(activation, text.get("heads", 8)),
        "vision": Settings(activation, heads),
    }


def _of_transformers(config: dict[str, Any]) -> dict[str, Settings]:
    heads = {"text": 8, "vision": 12}
    found = {}
    for tower in TOWERS:
        said = config.get(f"{tower}_config") or {}
        activation = said.get("hidden_act", "quick_gelu")
        found[tower] = Settings(activation, said.get("num_attention_heads", heads[tower]))
    return found


def _json(file: Path) -> dict[str, Any]:
    """A JSON object in a file; empty without one."""
    if not file.is_file():
        return {}
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError([f"{file}: no JSON ({error})"]) from None
    return value if isinstance(value, dict) else {}
