"""Opens exported and published models in PyTorch, transformers and onnxruntime, for `parity.py`.

Each function takes a folder and returns a `Backend`; `backends.open_model` chooses among them.
"""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers.utils.logging import disable_progress_bar

from mova_jax.data.tokenizer import Tokenizer, is_tokenizer
from mova_jax.export import torch_model
from mova_jax.export.hub import load_hub_model
from mova_jax.export.onnx_export import OnnxEncoders
from mova_jax.export.parity import Backend, Inputs, Outputs, Sizes
from mova_jax.export.torch_model.scores import normalise as unit
from mova_jax.weights.architecture import PROCESSOR_CONFIGS
from mova_jax.weights.files import WeightsError

# Outputs by the parameters that they are made of.
_SCALES = {"logit_scale": "scale", "modular_logit_scale": "modular scale"}


def open_torch_model(path: Path) -> Backend:
    """An export for PyTorch, in this version of `torch_model`."""
    try:
        model = torch_model.Mova.from_pretrained(path)
    except (ValueError, RuntimeError, SafetensorError) as error:
        raise WeightsError([f"{path}: {error}"]) from error

    return Backend(
        f"{path} (PyTorch)",
        export_sizes(path, model.config),
        lambda inputs: _numpy(_outputs(model, _tensors(inputs))),
        complete=True,
    )


def open_hub(path: Path, trust_remote_code: bool = False) -> Backend:
    """An export for the Hub, in transformers by its own code, see `hub.load_hub_model`."""
    model = load_hub_model(path, trust_remote_code)

    def run(inputs: Inputs) -> Outputs:
        given = _tensors(inputs)
        texts = given[2:] if model.config.get("parts") else given[2:4]
        names = ("input_ids", "attention_mask", "part_input_ids", "part_attention_mask")
        named = dict(zip(names, texts, strict=False))
        with torch.no_grad():
            made = model(pixel_values=given[0].movedim(-1, 2), frame_mask=given[1], **named)
        record = "global" if made.modular_scores is None else "blend"
        by_call = {"zv": made.frame_embeds, "video": made.video_embeds, record: made.scores}
        by_call |= {"part zt": made.part_embeds, "modular": made.modular_scores}
        found = _outputs(model, given) | {k: v for k, v in by_call.items() if v is not None}
        return _numpy(found)

    sizes = export_sizes(path, read_config(path))
    return Backend(f"{path} (transformers)", sizes, run, complete=True)


def _tensors(inputs: Inputs) -> list[torch.Tensor]:
    """Tokens as i64."""
    tensors = (torch.from_numpy(x) for x in inputs)
    return [x.long() if x.dtype == torch.int32 else x for x in tensors]


def _numpy(outputs: dict[str, torch.Tensor]) -> Outputs:
    return {name: value.numpy() for name, value in outputs.items()}


@torch.no_grad()
def _outputs(model: torch_model.Mova, inputs: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """All outputs of a MoVA in PyTorch."""
    frames, frame_mask, *texts = inputs
    divided = bool(model.config.get("parts"))
    video = model.encode_video(frames, frame_mask)
    text = model.encode_text(*texts if divided else texts[:2])
    found = {"zv": video.frames, "video": video.pooled, "y": text.tokens, "zt": text.pooled}
    if divided:
        found["part zt"] = text.parts.pooled
    for name, output in _SCALES.items():
        if hasattr(model, name):
            found[output] = getattr(model, name).exp().clamp(max=100.0)
    if hasattr(model, "log_sharpness"):
        found["sharpness"] = model.sharpness
    found["logits"] = found["scale"] * unit(video.frames[:, 0]) @ unit(text.pooled).T
    found |= model.scores(video, text) | _masks(model, video, text)
    found["timeline"] = model.timeline(video, text)
    return found


def _masks(model: torch_model.Mova, video, text) -> dict[str, torch.Tensor]:
    if model.tmn is None and model.cmn is None:
        return {}
    cfg = model.config["model"]
    soft = copy.copy(model)
    soft.config = {"model": cfg | {"masks": cfg["masks"] | {"kind": "soft"}}}
    masks = soft.masks(video, text), model.masks(video, text)
    return named_masks(*masks, cfg["masks"]["kind"])


def named_masks(soft, hard, kind: str) -> dict[str, Any]:
    """Masks by the names of outputs; hard ones too, but for a model with `kind` "soft"."""
    found = {"soft text mask": soft.text, "soft video mask": soft.video}
    if kind != "soft":
        found |= {"text mask": hard.text, "video mask": hard.video}
    return found


def open_clip(path: Path) -> Backend:
    """A CLIPModel folder, in transformers."""
    from transformers import CLIPImageProcessorPil, CLIPModel

    disable_progress_bar()
    model = CLIPModel.from_pretrained(path, local_files_only=True, dtype=torch.float32).eval()
    text, vision = model.config.text_config, model.config.vision_config
    end = clip_end(text.to_dict(), text.vocab_size)
    sizes = Sizes(vision.image_size, text.max_position_embeddings, text.vocab_size, end)
    # The folder's own normalisation of pixels; transformers' default is CLIP's.
    named = any((path / name).is_file() for name in PROCESSOR_CONFIGS)
    processor = CLIPImageProcessorPil.from_pretrained(path) if named else CLIPImageProcessorPil()

    def run(inputs: Inputs) -> Outputs:
        frame_mask, tokens, token_mask = (torch.from_numpy(x) for x in inputs[1:4])
        pictures = [picture for video in inputs.frames for picture in video]
        sizes_kept = {"do_resize": False, "do_center_crop": False, "return_tensors": "pt"}
        pixels = processor(pictures, input_data_format="channels_last", **sizes_kept)
        with torch.no_grad():
            image = model.vision_model(**pixels).pooler_output
            caption = model.text_model(input_ids=tokens.long())
            zv = model.visual_projection(image).unflatten(0, frame_mask.shape)
            zt = model.text_projection(caption.pooler_output)
            logits = model.logit_scale.exp() * unit(zv[:, 0]) @ unit(zt).T
        zv = torch.where(frame_mask[..., None], zv, 0.0)
        y = torch.where(token_mask[..., None], caption.last_hidden_state, 0.0)
        return {"zv": zv.numpy(), "y": y.numpy(), "zt": zt.numpy(), "logits": logits.numpy()}

    return Backend(f"{path} (transformers)", sizes, run)


def open_text_encoder(path: Path) -> Backend:
    """A CLIPTextModel folder, in transformers."""
    from transformers import CLIPTextModel

    disable_progress_bar()
    model = CLIPTextModel.from_pretrained(path, local_files_only=True, dtype=torch.float32).eval()
    cfg = model.config
    end = clip_end(cfg.to_dict(), cfg.vocab_size)
    sizes = Sizes(0, cfg.max_position_embeddings, cfg.vocab_size, end)

    def run(inputs: Inputs) -> Outputs:
        with torch.no_grad():
            y = model(input_ids=torch.from_numpy(inputs.tokens).long()).last_hidden_state
        return {"y": np.where(inputs.token_mask[..., None], y.numpy(), 0.0)}

    return Backend(f"{path} (transformers)", sizes, run)


def open_onnx(path: Path) -> Backend:
    """An export to ONNX, in onnxruntime."""
    encoders = OnnxEncoders(path)

    def run(inputs: Inputs) -> Outputs:
        b, f = inputs.frame_mask.shape
        zv = encoders.encode_frames(inputs.frames.reshape(b * f, *inputs.frames.shape[2:]))
        zv = np.where(inputs.frame_mask[..., None], zv.reshape(b, f, -1), 0.0)
        return {"zv": zv, **encoders.encode_text(inputs.tokens, inputs.token_mask)}

    return Backend(f"{path} (onnxruntime)", export_sizes(path, read_config(path)), run)


def read_config(path: Path) -> dict[str, Any]:
    """The config.json of a folder."""
    return json.loads((path / "config.json").read_text(encoding="utf-8"))


def export_sizes(path: Path, config: dict[str, Any]) -> Sizes:
    """Sizes of the inputs of an export; without a tokenizer the last id ends a text, as in CLIP."""
    size, text = config["model"]["vision"]["image_size"], config["model"]["text"]
    end = Tokenizer(path).eot_id if is_tokenizer(path) else text["vocab_size"] - 1
    return Sizes(size, text["context"], text["vocab_size"], end)


def clip_end(text_config: dict[str, Any], vocab_size: int) -> int:
    """End-of-text; older configurations say 2, for which transformers takes the highest id."""
    end = text_config.get("eos_token_id", 49407)
    return vocab_size - 1 if end == 2 else end
