"""Writes and runs the two encoders as ONNX files, for runtimes without JAX and PyTorch.

In: the PyTorch model. Out: in a folder

    frame_encoder.onnx   frames u8[n H W 3] -> zv f32[n d]
    text_encoder.onnx    tokens i64[c l], token_mask bool[c l] -> y f32[c l w], zt f32[c d]

n, c and l may change from call to call; l is at most `model.text.context`. Writing needs the
packages onnx and onnxscript, running onnxruntime.
"""

import logging
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mova_jax.export.torch_model import Mova
from mova_jax.weights.files import WeightsError

FRAME_ENCODER, TEXT_ENCODER = "frame_encoder.onnx", "text_encoder.onnx"


class _TextEncoder(nn.Module):
    def __init__(self, model: Mova):
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, token_mask: Tensor) -> tuple[Tensor, Tensor]:
        text = self.model.encode_text(tokens, token_mask)
        return text.tokens, text.pooled


def write_onnx(folder: Path, model: Mova) -> None:
    """Writes both encoders.

    Args:
        folder: an empty one.
        model: with its weights.

    Raises:
        WeightsError: when the packages that write ONNX are not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise WeightsError(
            [f"writing ONNX needs the packages onnx and onnxscript: pip install {error.name}"]
        ) from error
    cfg = model.config["model"]
    size, context = cfg["vision"]["image_size"], cfg["text"]["context"]
    frames = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    tokens = torch.zeros(2, 8, dtype=torch.int64)
    captions = {0: "captions", 1: torch.export.Dim("tokens", max=context)}
    _write(model.vision, (frames,), folder / FRAME_ENCODER, ["frames"], ["zv"], [{0: "n"}])
    _write(
        _TextEncoder(model),
        (tokens, torch.ones_like(tokens, dtype=torch.bool)),
        folder / TEXT_ENCODER,
        ["tokens", "token_mask"],
        ["y", "zt"],
        [captions, captions],
    )


def _write(module, inputs, path: Path, names, outputs, dynamic) -> None:
    # It warns of missing operators of torchvision, which none of these models has.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            inputs,
            path,
            input_names=names,
            output_names=outputs,
            dynamic_shapes=tuple(dynamic),
            dynamo=True,
            external_data=False,
            verbose=False,
        )


class OnnxEncoders:
    """The two files, run by onnxruntime on the CPU."""

    def __init__(self, folder: Path):
        """Opens the files of `write_onnx`.

        Raises:
            WeightsError: when onnxruntime is not installed.
        """
        try:
            import onnxruntime
        except ImportError as error:
            raise WeightsError(
                ["running ONNX needs onnxruntime: pip install onnxruntime"]
            ) from error
        self._frames, self._text = (
            onnxruntime.InferenceSession(folder / name, providers=["CPUExecutionProvider"])
            for name in (FRAME_ENCODER, TEXT_ENCODER)
        )

    def encode_frames(self, frames: np.ndarray) -> np.ndarray:
        """u8[n H W 3] -> zv f32[n d]."""
        return self._frames.run(None, {"frames": frames})[0]

    def encode_text(self, tokens: np.ndarray, token_mask: np.ndarray) -> Mapping[str, np.ndarray]:
        """i64[c l], bool[c l] -> `{"y": f32[c l w], "zt": f32[c d]}`."""
        inputs = {"tokens": tokens.astype(np.int64), "token_mask": token_mask}
        return dict(zip(("y", "zt"), self._text.run(None, inputs), strict=True))
