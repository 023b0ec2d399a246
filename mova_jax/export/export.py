"""Writes a model as folders that other programs load.

In: a `Bundle`, of a run or of imported CLIP weights. Out: one folder per format, with a model card
(`model_card.py`) as its README.md. A folder that cannot be finished is not there at all.

    pytorch       torch_model/, model.safetensors, config.json, tokenizer: all of MoVA
    hub           model.safetensors, config.json, modeling_mova.py, tokenizer, image processor: all
                  of MoVA for AutoModel of transformers
    huggingface   CLIPModel of the two towers, with processor and tokenizer
    text_encoder  CLIPTextModel, for pipelines of diffusers
    onnx          the two encoders for onnxruntime, config.json, tokenizer
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from mova_jax.data import sentences
from mova_jax.export import torch_model
from mova_jax.export.bundle import Bundle
from mova_jax.export.model_card import write_card
from mova_jax.utils.lock import living_folder
from mova_jax.weights import torch_names
from mova_jax.weights.files import WeightsError, write_safetensors


def export(bundle: Bundle, output: str | os.PathLike, formats: list[str]) -> list[Path]:
    """Writes a folder `output/FORMAT` for each format.

    Args:
        bundle: the model, and how it was trained.
        output: a folder, made when absent.
        formats: keys of `FORMATS`.

    Returns:
        The folders.

    Raises:
        WeightsError: a folder is not empty, or a format cannot be written. Folders of the formats
            before it stay.
    """
    folders = [Path(output) / name for name in formats]
    problems = [f"{f} is not empty; give another output" for f in folders if not _is_free(f)]
    if problems:
        raise WeightsError(problems)
    Path(output).mkdir(parents=True, exist_ok=True)
    with living_folder(output, ".partial-") as aside:  # deletes those of killed exports, too
        for name, folder in zip(formats, folders, strict=True):
            (made := aside / name).mkdir()
            FORMATS[name](bundle, made)
            write_card(made, name, bundle)
            if folder.is_dir():
                folder.rmdir()
            made.replace(folder)
    return folders


def _write_pytorch(bundle: Bundle, folder: Path) -> None:
    tensors = torch_names.to_torch(bundle.params)
    write_safetensors(tensors, folder / "model.safetensors", {"format": "pt"})
    _write_config(bundle, folder)
    _write_tokenizer(bundle, folder)
    source, copy = Path(torch_model.__file__).parent, folder / "torch_model"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(sentences.__file__, copy)


def _write_hub(bundle: Bundle, folder: Path) -> None:
    from mova_jax.export import hub

    hub.write_hub(folder, bundle)


def _write_huggingface(bundle: Bundle, folder: Path) -> None:
    from mova_jax.export import huggingface

    huggingface.write_clip(folder, bundle.params, bundle.config.model, bundle.tokenizer)


def _write_text_encoder(bundle: Bundle, folder: Path) -> None:
    from mova_jax.export import huggingface

    huggingface.write_text_encoder(folder, bundle.params, bundle.config.model, bundle.tokenizer)


def _write_onnx(bundle: Bundle, folder: Path) -> None:
    import torch

    from mova_jax.export import onnx_export

    model = torch_model.Mova(bundle.as_json())
    tensors = torch_names.to_torch(bundle.params)
    model.load_state_dict({name: torch.from_numpy(x) for name, x in tensors.items()})
    onnx_export.write_onnx(folder, model.eval())
    _write_config(bundle, folder)
    _write_tokenizer(bundle, folder)


FORMATS: dict[str, Callable[[Bundle, Path], None]] = {
    "pytorch": _write_pytorch,
    "hub": _write_hub,
    "huggingface": _write_huggingface,
    "text_encoder": _write_text_encoder,
    "onnx": _write_onnx,
}


def _write_config(bundle: Bundle, folder: Path) -> None:
    text = json.dumps(bundle.as_json(), indent=2) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")


def _write_tokenizer(bundle: Bundle, folder: Path) -> None:
    from mova_jax.export import huggingface

    huggingface.write_tokenizer(folder, bundle.tokenizer, bundle.config.model.text.context)


def _is_free(folder: Path) -> bool:
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
