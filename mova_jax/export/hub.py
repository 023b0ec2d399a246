"""Writes and opens a folder for the Hugging Face Hub, with the model's code in one file.

    AutoModel.from_pretrained(folder, trust_remote_code=True)   # needs torch and transformers only

config.json is that of an export for PyTorch, and says in `auto_map` that modeling_mova.py has the
classes. That file is `hub_model.py` with the files that it imports from this package: transformers
copies files that import each other relatively, but people read one file before they trust it.
"""

import ast
import json
from pathlib import Path

import torch

from mova_jax.data import sentences
from mova_jax.export import hub_model
from mova_jax.export.bundle import Bundle
from mova_jax.export.huggingface import write_json, write_processor
from mova_jax.export.torch_model import masks, mova, scores, towers
from mova_jax.weights import torch_names
from mova_jax.weights.files import WeightsError, write_safetensors

MODELING = "modeling_mova.py"
_MODULES = (towers, scores, masks, mova, sentences, hub_model)  # in the order of their imports
_AUTO_MAP = {"AutoConfig": "modeling_mova.MovaConfig", "AutoModel": "modeling_mova.MovaModel"}


def write_hub(folder: Path, bundle: Bundle) -> None:
    """Writes the model, its code, its tokenizer and its image processor.

    Args:
        folder: an empty one.
        bundle: the exported model.
    """
    tensors = torch_names.to_torch(bundle.params)
    write_safetensors(tensors, folder / "model.safetensors", {"format": "pt"})
    auto = {"model_type": "mova", "architectures": ["MovaModel"], "auto_map": _AUTO_MAP}
    write_json(folder / "config.json", bundle.as_json() | auto | {"dtype": "float32"})
    (folder / MODELING).write_text(modeling_file(), encoding="utf-8")
    write_processor(folder, bundle.config.model, bundle.tokenizer)


def modeling_file() -> str:
    """The source of modeling_mova.py: all imports first, then each file without its docstring."""
    modules: set[str] = set()
    names: dict[str, set[str]] = {}
    bodies = []
    for module in _MODULES:
        source = Path(module.__file__).read_text(encoding="utf-8")
        lines = source.splitlines()
        docstring, *nodes = ast.parse(source).body
        imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
        for node in imports:
            if isinstance(node, ast.Import):
                modules.add(ast.unparse(node))
            elif not node.level and node.module.split(".")[0] != "mova_jax":
                names.setdefault(node.module, set()).update(map(ast.unparse, node.names))
        removed = {
            n for node in [docstring, *imports] for n in range(node.lineno, node.end_lineno + 1)
        }
        kept = (line for n, line in enumerate(lines, 1) if n not in removed)
        bodies.append("\n".join(kept).strip("\n"))
    froms = [f"from {name} import {', '.join(sorted(names[name]))}" for name in sorted(names)]
    head = "\n".join([*sorted(modules), *froms])
    return "\n\n\n".join([f'"""{hub_model.__doc__}"""\n\n{head}', *bodies]) + "\n"


def load_hub_model(path: Path, trust_remote_code: bool = False) -> torch.nn.Module:
    """The model of a folder, by its own code; without trust by the same code of this package.

    Args:
        path: the folder.
        trust_remote_code: run its code also when it is not what this version writes.

    Raises:
        WeightsError: its code is another one and not trusted, or its weights do not fit it.
    """
    from transformers import AutoModel
    from transformers.utils.logging import disable_progress_bar

    code = path / MODELING
    if not code.is_file():
        raise WeightsError([f"{path} has no {MODELING}: expected an export with --to hub"])
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    ours = code.read_text(encoding="utf-8") == modeling_file()
    # transformers runs the files that auto_map names, whatever else is in the folder.
    if not trust_remote_code and not (ours and config.get("auto_map") == _AUTO_MAP):
        raise WeightsError(
            [
                f"{code}, or auto_map in the config.json beside it, is not what this version "
                "writes, and opening the folder runs its code: read it, then give "
                "--trust_remote_code; or export again"
            ]
        )
    disable_progress_bar()
    options = {"output_loading_info": True, "local_files_only": True, "dtype": torch.float32}
    try:
        if trust_remote_code:
            model, found = AutoModel.from_pretrained(path, trust_remote_code=True, **options)
        else:
            model, found = hub_model.MovaModel.from_pretrained(path, **options)
    except RuntimeError as error:
        raise WeightsError([f"{path}: {error}"]) from error
    wrong = [f"{path}: {key.replace('_', ' ')} {sorted(v)}" for key, v in found.items() if v]
    if wrong:
        raise WeightsError(wrong)
    return model.eval()
