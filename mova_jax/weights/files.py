"""Reads files of weights into NumPy, and writes safetensors.

In: a file or a folder of Hugging Face, OpenAI or open_clip. Out: `{name: array}` by the names in
the file. No code in a file is run: pickles are read with `weights_only`, TorchScript only on
request.

    tensors = read_tensors("clip-vit-base-patch16")      # a folder, or one file of it
    write_safetensors(tensors, "out/model.safetensors", {"format": "pt"})
"""

import os
import pathlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from mova_jax.utils.atomic import replacing
from mova_jax.utils.text_files import LFS_POINTER, is_lfs_pointer, parse_json

# Files that a folder of weights may have; the first that exists counts.
IN_A_FOLDER = (
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)
TORCH_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
WRAPPERS = ("state_dict", "model")  # keys under which training scripts keep the weights
PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel, of torch.compile


# Types in a safetensors file.
_FLOAT8 = {
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E4M3FNUZ": ml_dtypes.float8_e4m3fnuz,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E5M2FNUZ": ml_dtypes.float8_e5m2fnuz,
}
_PLAIN = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
_PLAIN |= {
    f"{sign}{bits}": np.dtype(f"{sign.lower()}{bits // 8}")
    for sign in "IU"
    for bits in (8, 16, 32, 64)
}
_PLAIN["BOOL"] = np.bool_


class WeightsError(ValueError):
    """Everything that is wrong with some weights, one line each."""

    def __init__(self, problems: list[str]):
        """Makes one error of all problems."""
        self.problems = problems
        lines = "\n".join(f"  - {problem}" for problem in problems)
        super().__init__(f"the weights have {len(problems)} problem(s):\n{lines}")


def read_tensors(
    path: str | os.PathLike, *, allow_torchscript: bool = False
) -> dict[str, np.ndarray]:
    """All tensors of a file or a folder.

    Args:
        path: a `.safetensors` file, a PyTorch file (a state dict, alone or under `state_dict` or
            `model`), or a folder with one of `IN_A_FOLDER`.
        allow_torchscript: read TorchScript archives too, such as OpenAI's own files. PyTorch runs
            code of an archive when it loads one, so only for files that you trust.

    Returns:
        Arrays by the names in the file, without a prefix that wrappers add to all of them. Floats
        of 8 and 16 bits become float32, other types stay.

    Raises:
        WeightsError: the file does not exist, has no tensors, or has other objects too.
    """
    file = pathlib.Path(path)
    if file.is_dir():
        file = _in_folder(file)
    if not file.is_file():
        raise WeightsError([f"{file}: there is no such file or folder"])
    if is_lfs_pointer(file):
        raise WeightsError([f"{file}: {LFS_POINTER}"])
    if file.name.endswith(".index.json"):
        tensors = _read_shards(file)
    elif file.suffix == ".safetensors":
        tensors = _read_safetensors(file)
    elif file.suffix in TORCH_SUFFIXES:
        tensors = _read_torch(file, allow_torchscript)
    else:
        raise WeightsError(
            [f"{file}: expected a folder, .safetensors or one of {', '.join(TORCH_SUFFIXES)}"]
        )
    if not tensors:
        raise WeightsError([f"{file}: it holds no tensors"])
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return {name: _full_precision(value) for name, value in tensors.items()}


def write_safetensors(
    tensors: Mapping[str, np.ndarray], path: str | os.PathLike, metadata: Mapping[str, str]
) -> None:
    """Writes arrays to a `.safetensors` file, whole or not at all.

    Args:
        tensors: arrays by name.
        path: of the file.
        metadata: texts for the file's header.

    Raises:
        OSError: it cannot be written.
    """
    # The library writes the memory of an array as it is: a transposed view would come out wrong.
    contiguous = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    with replacing(path) as aside:
        try:
            safetensors.numpy.save_file(contiguous, aside, metadata=dict(metadata))
        except safetensors.SafetensorError as error:  # what its Rust makes of errors of the disk
            raise OSError(f"{path} cannot be written: {error}") from error


def _full_precision(value: np.ndarray) -> np.ndarray:
    """Floats of 8 and 16 bits as float32."""
    short = (np.float16, ml_dtypes.bfloat16, *_FLOAT8.values())
    return value.astype(np.float32) if value.dtype in short else value


def _in_folder(folder: pathlib.Path) -> pathlib.Path:
    """The file of weights in a folder."""
    for name in IN_A_FOLDER:
        if (folder / name).is_file():
            return folder / name
    raise WeightsError([f"{folder}: expected one of {', '.join(IN_A_FOLDER)} in it"])


def _read_safetensors(file: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load_file(file)
    except AttributeError:  # it looks for NumPy's float8, which there is not
        return _read_float8(file)
    except (safetensors.SafetensorError, TypeError) as error:
        raise WeightsError([f"{file}: no whole safetensors file ({error})"]) from None


def _read_float8(file: pathlib.Path) -> dict[str, np.ndarray]:
    """Tensors of a file that has some of 8 bits."""
    types, tensors, others = _FLOAT8 | _PLAIN, {}, []
    for name, value in safetensors.deserialize(file.read_bytes()):
        if (kind := value["dtype"]) in types:
            tensors[name] = np.frombuffer(value["data"], types[kind]).reshape(value["shape"])
        else:
            others.append(f"{file}: {name} is of {kind}, expected one of {', '.join(types)}")
    if others:
        raise WeightsError(others)
    return tensors


def _read_shards(index: pathlib.Path) -> dict[str, np.ndarray]:
    """Tensors of all files that an index names; they must be in its folder."""
    try:
        places = parse_json(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(places.values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise WeightsError([f"{index}: expected JSON with file names under weight_map"]) from None
    # Checks the text alone, for Hugging Face's cache has symbolic links to files elsewhere.
    outside = [name for name in names if not _is_inside(name)]
    if outside:
        expected = f"{index}: expected a .safetensors file in the same folder, got"
        raise WeightsError([f"{expected} {name!r}" for name in outside])
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        raise WeightsError(
            [f"{index.parent / name}: missing, the index names it" for name in missing]
        )
    tensors: dict[str, np.ndarray] = {}
    for name in names:
        tensors |= _read_safetensors(index.parent / name)
    lost = sorted(set(places) - set(tensors))
    if lost:
        raise WeightsError([f"{index}: {name} is in none of its files" for name in lost])
    return tensors


def _is_inside(name) -> bool:
    """Whether a relative file name stays in its folder, on any system."""
    if not isinstance(name, str) or "\\" in name:
        return False
    path = pathlib.PurePosixPath(name)
    return path.suffix == ".safetensors" and not path.is_absolute() and ".." not in path.parts


def _read_torch(file: pathlib.Path, allow_torchscript: bool) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError:
        raise WeightsError([f"{file}: reading it needs PyTorch: pip install torch"]) from None
    if _is_torchscript(file):
        if not allow_torchscript:
            raise WeightsError(
                [
                    f"{file}: got a TorchScript archive (OpenAI's own files are such), which may "
                    "run code when it is loaded. If you trust it: python -m mova_jax.convert "
                    "import --allow_torchscript (from code: allow_torchscript=True); or give the "
                    "same weights as safetensors"
                ]
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            loaded = torch.jit.load(file, map_location="cpu").state_dict()
    else:
        loaded = _unpickled(file, torch)
    tensors = _state_dict(loaded, file, torch)
    arrays, others = {}, []
    for name, value in tensors.items():
        # NumPy itself has neither bfloat16 nor float8.
        short = value.is_floating_point() and value.element_size() < 4
        try:
            arrays[name] = (value.float() if short else value).detach().numpy()
        except (RuntimeError, TypeError) as error:  # of 4 bits, quantized, sparse, without values
            others.append(f"{file}: {name} of {value.dtype} cannot be read ({error})")
    if others:
        raise WeightsError(others)
    return arrays


def _is_torchscript(file: pathlib.Path) -> bool:
    """Whether the file is a zip archive with compiled code in it."""
    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _unpickled(file: pathlib.Path, torch):
    """The content of a pickle that has tensors and plain containers only."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(file, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f"it holds {named.group(1)}" if named else "it is none, or it holds other objects"
        raise WeightsError(
            [
                f"{file}: expected a PyTorch file with a state dict of tensors, but {what}; "
                "nothing was loaded, for that can run code. Save model.state_dict(), or safetensors"
            ]
        ) from None
    # On a file that is no pickle at all PyTorch raises many kinds of errors.
    except Exception as error:
        name = type(error).__name__
        raise WeightsError([f"{file}: no whole PyTorch file ({name}: {error})"]) from None


def _state_dict(loaded, file: pathlib.Path, torch) -> dict:
    """The tensors by name, without the dicts that training scripts wrap around them."""
    for key in WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping):
        raise WeightsError([f"{file}: got a {type(loaded).__name__}, expected tensors by name"])
    others = [str(k) for k, v in loaded.items() if not (isinstance(k, str) and torch.is_tensor(v))]
    if others:
        raise WeightsError(
            [
                f"{file}: expected tensors by name, alone or under {' or '.join(WRAPPERS)}; these "
                f"are none: {', '.join(others[:8])}{', ...' if len(others) > 8 else ''}"
            ]
        )
    return dict(loaded)
