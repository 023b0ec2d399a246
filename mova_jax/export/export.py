"""A trained model as folders that other programs load.

In: a `Bundle`, of a run or of imported CLIP weights. Out: one folder a format, each whole
or not there at all, with a model card (`card.py`) as its README.md:

    pytorch       torch_model.py, model.safetensors, config.json, tokenizer: all of MoVA
    huggingface   CLIPModel of the two towers, with processor and tokenizer
    text_encoder  CLIPTextModel, for pipelines of diffusers
    onnx          the two encoders for onnxruntime, config.json, tokenizer
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from mova_jax.export import torch_model
from mova_jax.export.bundle import Bundle
from mova_jax.export.model_card import write_card
from mova_jax.weights import torch_names
from mova_jax.weights.files import WeightsError, write_safetensors


def export(bundle: Bundle, output: str | os.PathLike, formats: list[str]) -> list[Path]:
    """Writes a folder `output/FORMAT` for each format.

    Args:
        bundle: what is exported.
        output: made when absent.
        formats: keys of `FORMATS`.

    Returns:
        The folders.

    Raises:
        WeightsError: a folder holds something already, or a format cannot be made; the folders
            that were written before it are whole.
    """
    folders = [Path(output) / name for name in formats]
    taken = [f"{f} is not empty; give another output" for f in folders if _holds_anything(f)]
    if taken:
        raise WeightsError(taken)
    for name, folder in zip(formats, folders, strict=True):
        with whole_or_nothing(folder) as partial:
            FORMATS[name](bundle, partial)
            write_card(partial, name, bundle)
    return folders


def write_twin(bundle: Bundle, folder: Path) -> None:
    """All of MoVA for PyTorch: weights, configuration, vocabulary and the model's code."""
    tensors = torch_names.to_torch(bundle.params)
    write_safetensors(tensors, folder / "model.safetensors", {"format": "pt"})
    _write_config(bundle, folder)
    _write_tokenizer(bundle, folder)
    shutil.copy(torch_model.__file__, folder / "torch_model.py")


def load_twin(bundle: Bundle) -> torch_model.Mova:
    """The twin in memory."""
    import torch

    model = torch_model.Mova(bundle.as_json())
    tensors = torch_names.to_torch(bundle.params)
    model.load_state_dict({name: torch.from_numpy(x.copy()) for name, x in tensors.items()})
    return model.eval()


def _write_huggingface(bundle: Bundle, folder: Path) -> None:
    from mova_jax.export import huggingface

    huggingface.write_clip(folder, bundle.params, bundle.config.model, bundle.tokenizer)


def _write_text_encoder(bundle: Bundle, folder: Path) -> None:
    from mova_jax.export import huggingface

    huggingface.write_text_encoder(folder, bundle.params, bundle.config.model, bundle.tokenizer)


def _write_onnx(bundle: Bundle, folder: Path) -> None:
    from mova_jax.export import onnx_export

    onnx_export.write_onnx(folder, load_twin(bundle))
    _write_config(bundle, folder)
    _write_tokenizer(bundle, folder)


FORMATS: dict[str, Callable[[Bundle, Path], None]] = {
    "pytorch": write_twin,
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


def _holds_anything(folder: Path) -> bool:
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


@contextlib.contextmanager
def whole_or_nothing(folder: Path) -> Iterator[Path]:
    """A folder to write to, which becomes `folder` when the block ends without error."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        yield partial
        if folder.exists():
            folder.rmdir()  # an empty one
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
