"""Models of every kind behind one interface, for `verify.py`: inputs in, named outputs out.

    open_model("runs/base").run(inputs)["zv"]

What can be opened, by what the folder holds; a prefix `jax:` opens exported or published weights
with this package in place of the library that they are made for:

    a run's workdir          this package     all outputs
    an export for PyTorch    torch_model.py   all outputs
    a CLIPModel folder       transformers     zv, y, zt, logits
    a CLIPTextModel folder   transformers     y
    an export to ONNX        onnxruntime      zv, y, zt
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from safetensors import SafetensorError
from transformers.utils.logging import disable_progress_bar

from mova_jax import config as config_lib
from mova_jax.config import Model
from mova_jax.data.tokenizer import Tokenizer, is_tokenizer
from mova_jax.export import torch_model
from mova_jax.export.onnx_export import OnnxEncoders
from mova_jax.export.parity import Backend, Inputs, Outputs, Sizes
from mova_jax.losses import objective
from mova_jax.models.mova import Mova
from mova_jax.models.vision import PIXEL_MEAN, PIXEL_STD
from mova_jax.training.load_run import load_run
from mova_jax.utils.trees import parameter_names, unflatten
from mova_jax.weights import clip_names
from mova_jax.weights.architecture import model_sizes
from mova_jax.weights.files import WeightsError, read_tensors
from mova_jax.weights.layouts import detect_layout
from mova_jax.weights.load import load_weights


def open_model(spec: str) -> Backend:
    """Opens a model by what its folder holds, see the module.

    Raises:
        WeightsError: when nothing that can be opened is there.
    """
    with_jax = spec.startswith("jax:")
    path = Path(spec.removeprefix("jax:"))
    kind = _kind(path)
    openers: dict[str, Any] = {
        "run": open_run,
        "mova": open_export_in_jax if with_jax else open_torch_model,
        "onnx": open_onnx,
        "clip": open_clip_in_jax if with_jax else open_clip,
        "clip_text_model": open_text_encoder,
    }
    if with_jax and kind not in ("mova", "clip"):
        raise WeightsError([f"{spec}: jax: opens exports for PyTorch and CLIPModel folders only"])
    return openers[kind](path)


def _kind(path: Path) -> str:
    """What a folder holds."""
    if (path / "checkpoints").is_dir():
        return "run"
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(
            [f"{path}: expected a run's workdir, an export, or a Hugging Face folder ({error})"]
        ) from error
    if config.get("format") == "mova_jax":
        return "mova" if (path / "model.safetensors").is_file() else "onnx"
    if config.get("model_type") in ("clip", "clip_text_model"):
        return config["model_type"]
    raise WeightsError(
        [
            f"{path}/config.json: got model_type {config.get('model_type')!r}, expected"
            " clip or clip_text_model, or a config.json of an export"
        ]
    )


def open_run(path: Path) -> Backend:
    """A run's best model, in this package."""
    run = load_run(path)
    end = Tokenizer(run.tokenizer).eot_id
    sizes = _sizes(dataclasses.asdict(run.config.model), end)
    model, pool = _in_float32(run.config.model), run.config.eval.pool
    scoring = objective.pair_scoring(run.config.losses, pool)
    outputs = _JaxOutputs(model, scoring, run.params, run.blend_weight)
    return Backend(f"{path} (JAX)", sizes, outputs, complete=True)


def open_export_in_jax(path: Path) -> Backend:
    """An export for PyTorch, read back into this package."""
    config = _read_config(path)
    model = _in_float32(config_lib.section(Model, config["model"]))
    sizes = _sizes(config["model"], _end(path, config["model"]["text"]["vocab_size"]))
    scoring = objective.PairScoring(config["score_pool"])
    outputs = _JaxOutputs(model, scoring, _params(path, model), config["blend_weight"])
    return Backend(f"{path} (JAX)", sizes, outputs, complete=True)


def _in_float32(model: Model) -> Model:
    """The model that computes in float32, as the other libraries do; its weights are float32."""
    return dataclasses.replace(model, dtype="float32")


def open_clip_in_jax(path: Path) -> Backend:
    """A CLIPModel folder, imported into this package; its text positions are not stretched."""
    tensors = read_tensors(path)
    sizes = model_sizes(tensors, detect_layout(tensors), path)
    model = _towers(sizes, len(tensors[clip_names.HUGGINGFACE.text_positions]))
    outputs = _JaxOutputs(model, None, _params(path, model))
    end = _clip_end(_read_config(path).get("text_config", {}), model.text.vocab_size)
    return Backend(f"{path} (JAX)", _sizes(dataclasses.asdict(model), end), outputs)


def _towers(sizes: Mapping[str, Any], context: int) -> Model:
    """`config.model` of CLIP's towers alone."""
    fields: dict[str, Any] = {
        "vision": {},
        "text": {"context": context},
        "dtype": "float32",
        "remat": "none",
        "global_head": "mean",
        "head_layers": 1,
        "frame_positions": 1,
        "scale": 100.0,
        "modular_scale": 0.0,
        "tmn": {"layout": "none", "layers": 1, "token_layers": 0, "detach_tokens": False},
        "cmn": {"kind": "none", "sees_frame": False, "detach_tokens": True},
        "masks": {"kind": "hard", "temperature": 1.0, "init_bias": 0.0},
        "activation": "quick_gelu",  # transformers' own, where nothing says it
    }
    for name, value in sizes.items():
        *section, key = name.removeprefix("model.").split(".")
        (fields[section[0]] if section else fields)[key] = value
    return config_lib.section(Model, fields)


def open_torch_model(path: Path) -> Backend:
    """An export for PyTorch."""
    try:
        model = torch_model.Mova.from_pretrained(path)
    except (ValueError, RuntimeError, SafetensorError) as error:
        raise WeightsError([f"{path}: {error}"]) from error
    cfg = model.config["model"]
    sizes = _sizes(cfg, _end(path, cfg["text"]["vocab_size"]))

    def run(inputs: Inputs) -> Outputs:
        frames, frame_mask, tokens, token_mask = (torch.from_numpy(x) for x in inputs)
        tokens = tokens.long()
        with torch.no_grad():
            video = model.encode_video(frames, frame_mask)
            text = model.encode_text(tokens, token_mask)
            scores = model.scores(video, text)
            scales = {"scale": model.logit_scale.exp().clamp(max=100.0)}
            if hasattr(model, "modular_logit_scale"):
                scales["modular scale"] = model.modular_logit_scale.exp().clamp(max=100.0)
            first = torch_model.normalise(video.frames[:, 0])
            found = {
                "zv": video.frames,
                "video": video.pooled,
                "y": text.tokens,
                "zt": text.pooled,
                "logits": scales["scale"] * first @ torch_model.normalise(text.pooled).T,
                **scales,
                **scores,
                "timeline": model.timeline(video, text),
            }
            if model.tmn is not None or model.cmn is not None:
                found |= _torch_masks(model, video, text)
        return {name: value.numpy() for name, value in found.items()}

    return Backend(f"{path} (PyTorch)", sizes, run, complete=True)


def _torch_masks(model, video, text) -> dict[str, torch.Tensor]:
    hard = model.masks(video, text)
    kept = model.config["model"]["masks"]
    model.config["model"]["masks"] = kept | {"kind": "soft"}
    try:
        soft = model.masks(video, text)
    finally:
        model.config["model"]["masks"] = kept
    return _named_masks(soft, hard, kept["kind"])


def _named_masks(soft, hard, kind: str) -> dict[str, Any]:
    found = {"soft text mask": soft.text, "soft video mask": soft.video}
    if kind == "hard":
        found |= {"text mask": hard.text, "video mask": hard.video}
    return found


class _JaxOutputs:
    """Inputs to outputs by this package."""

    def __init__(
        self,
        model: Model,
        scoring: objective.PairScoring | None,
        params,
        blend_weight: float = 0.0,
    ):
        self._model, self._scoring, self._params = model, scoring, params
        self._blend_weight = blend_weight
        self._run = jax.jit(self._outputs)

    def __call__(self, inputs: Inputs) -> Outputs:
        return jax.device_get(self._run(self._params, *inputs))

    def _outputs(self, params, frames, frame_mask, tokens, token_mask):
        model = _merge(self._model, params)
        video = model.encode_video(frames, frame_mask)
        text = model.encode_text(tokens, token_mask)
        unit = objective.scores_lib.normalise
        first = unit(video.frames[:, 0])
        found = {
            "zv": video.frames,
            "video": video.pooled,
            "y": text.tokens,
            "zt": text.pooled,
            "logits": model.scale * first @ unit(text.pooled).T,
            "global": objective.global_scores(video, text),
        }
        if self._scoring is None:
            return found
        found["scale"] = model.scale
        captions = model.prepare(text)
        if self._model.modular_scale:
            found["modular scale"] = model.modular_scale
            scores = objective.pair_scores(model, video, captions, self._scoring)
            found["modular"] = scores.score
            found["blend"] = found["global"] + self._blend_weight * found["modular"]
        found["timeline"] = _timeline(model, video, text, captions)
        if model.has_masks:
            masks = dataclasses.replace(self._model.masks, kind="soft")
            soft = _merge(dataclasses.replace(self._model, masks=masks), params)
            found |= _named_masks(
                soft.own_masks(video, captions),
                model.own_masks(video, captions),
                self._model.masks.kind,
            )
        return found


def _timeline(model: Mova, video, text, captions) -> jax.Array:
    """Cosines `[b f]` of each video's frames with its caption, under the masks if there are."""
    if model.has_masks:
        masks = model.own_masks(video, captions)
        return objective.scores_lib.pair_parts(video.frames, masks).cosine
    unit = objective.scores_lib.normalise
    return (unit(video.frames) * unit(text.pooled)[:, None]).sum(-1)


def _merge(cfg: Model, params) -> Mova:
    graphdef, _ = nnx.split(nnx.eval_shape(lambda: Mova(cfg, rngs=nnx.Rngs(0))))
    return nnx.merge(graphdef, params)


def _params(path: Path, model: Model):
    """All parameters of a model from a file, as the nested dict that the model takes."""
    abstract = nnx.to_pure_dict(nnx.split(nnx.eval_shape(lambda: Mova(model, rngs=nnx.Rngs(0))))[1])
    like = {name: leaf.shape for name, leaf in parameter_names(abstract).items()}
    ours, _ = load_weights(path, like, model.activation)
    return jax.tree.map(jnp.asarray, unflatten(ours, abstract))


def open_clip(path: Path) -> Backend:
    """A CLIPModel folder, in transformers."""
    from transformers import CLIPModel

    disable_progress_bar()
    model = CLIPModel.from_pretrained(path, local_files_only=True, dtype=torch.float32).eval()
    text, vision = model.config.text_config, model.config.vision_config
    end = _clip_end(text.to_dict(), text.vocab_size)
    sizes = Sizes(vision.image_size, text.max_position_embeddings, text.vocab_size, end)

    def run(inputs: Inputs) -> Outputs:
        frames, frame_mask, tokens, token_mask = (torch.from_numpy(x) for x in inputs)
        pixels = (frames.flatten(0, 1) / 255.0 - _row_of(PIXEL_MEAN)) / _row_of(PIXEL_STD)
        with torch.no_grad():
            seen = model.vision_model(pixel_values=pixels.permute(0, 3, 1, 2)).pooler_output
            read = model.text_model(input_ids=tokens.long())
            zv = model.visual_projection(seen).unflatten(0, frame_mask.shape)
            zt = model.text_projection(read.pooler_output)
            unit = torch.nn.functional.normalize
            logits = model.logit_scale.exp() * unit(zv[:, 0], dim=-1) @ unit(zt, dim=-1).T
        zv = torch.where(frame_mask[..., None], zv, 0.0)
        y = torch.where(token_mask[..., None], read.last_hidden_state, 0.0)
        return {"zv": zv.numpy(), "y": y.numpy(), "zt": zt.numpy(), "logits": logits.numpy()}

    return Backend(f"{path} (transformers)", sizes, run)


def open_text_encoder(path: Path) -> Backend:
    """A CLIPTextModel folder, in transformers."""
    from transformers import CLIPTextModel

    disable_progress_bar()
    model = CLIPTextModel.from_pretrained(path, local_files_only=True, dtype=torch.float32).eval()
    cfg = model.config
    end = _clip_end(cfg.to_dict(), cfg.vocab_size)
    sizes = Sizes(0, cfg.max_position_embeddings, cfg.vocab_size, end)

    def run(inputs: Inputs) -> Outputs:
        with torch.no_grad():
            y = model(input_ids=torch.from_numpy(inputs.tokens).long()).last_hidden_state
        return {"y": np.where(inputs.token_mask[..., None], y.numpy(), 0.0)}

    return Backend(f"{path} (transformers)", sizes, run)


def open_onnx(path: Path) -> Backend:
    """An export to ONNX, in onnxruntime."""
    encoders, cfg = OnnxEncoders(path), _read_config(path)["model"]

    def run(inputs: Inputs) -> Outputs:
        b, f = inputs.frame_mask.shape
        zv = encoders.encode_frames(inputs.frames.reshape(b * f, *inputs.frames.shape[2:]))
        zv = np.where(inputs.frame_mask[..., None], zv.reshape(b, f, -1), 0.0)
        return {"zv": zv, **encoders.encode_text(inputs.tokens, inputs.token_mask)}

    sizes = _sizes(cfg, _end(path, cfg["text"]["vocab_size"]))
    return Backend(f"{path} (onnxruntime)", sizes, run)


def _row_of(values: np.ndarray) -> torch.Tensor:
    return torch.tensor(values.tolist())


def _sizes(model: dict[str, Any], end: int) -> Sizes:
    text = model["text"]
    return Sizes(model["vision"]["image_size"], text["context"], text["vocab_size"], end)


def _end(path: Path, vocab_size: int) -> int:
    """End-of-text of the folder's tokenizer; without one the last id, where CLIP has it."""
    return Tokenizer(path).eot_id if is_tokenizer(path) else vocab_size - 1


def _clip_end(text_config: dict[str, Any], vocab_size: int) -> int:
    """End-of-text; older configurations say 2, for which transformers takes the highest id."""
    end = text_config.get("eos_token_id", 49407)
    return vocab_size - 1 if end == 2 else end


def _read_config(path: Path) -> dict[str, Any]:
    return json.loads((path / "config.json").read_text(encoding="utf-8"))
