"""Opens models of every kind behind one interface, for `parity.py`: inputs in, named outputs out.

    open_model("runs/base").run(inputs)["zv"]

The content of the folder decides; a prefix `jax:` opens exported or published weights with this
package in place of the library that they are made for:

    workdir of a run         this package     all outputs
    an export for PyTorch    torch_model      all outputs
    an export for the Hub    transformers     all outputs
    a CLIPModel folder       transformers     zv, y, zt, logits
    a CLIPTextModel folder   transformers     y
    an export to ONNX        onnxruntime      zv, y, zt
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax

from mova_jax.config import Model
from mova_jax.data.tokenizer import Tokenizer
from mova_jax.export import external_backends as external
from mova_jax.export.parity import Backend, Inputs, Outputs, Sizes
from mova_jax.losses import scores
from mova_jax.losses.pools import PairScoring
from mova_jax.losses.pools import normalise as unit
from mova_jax.models.build import make_model_spec
from mova_jax.training.load_model import LoadedModel, load_clip, load_export, load_run
from mova_jax.weights.files import WeightsError


def open_model(spec: str, trust_remote_code: bool = False) -> Backend:
    """Opens a model by the content of its folder, see the module.

    Args:
        spec: a path, with or without `jax:` before it.
        trust_remote_code: run the code of a Hub folder also when this version writes another.

    Raises:
        WeightsError: when the folder has no model that can be opened.
    """
    with_jax = spec.startswith("jax:")
    path = Path(spec.removeprefix("jax:"))
    kind = _kind(path)
    open_hub = partial(external.open_hub, trust_remote_code=trust_remote_code)
    openers: dict[str, Any] = {
        "run": open_run,
        "mova": open_export_in_jax if with_jax else external.open_torch_model,
        "hub": open_export_in_jax if with_jax else open_hub,
        "onnx": external.open_onnx,
        "clip": open_clip_in_jax if with_jax else external.open_clip,
        "clip_text_model": external.open_text_encoder,
    }
    if with_jax and kind not in ("mova", "hub", "clip"):
        raise WeightsError(
            [f"{spec}: jax: opens exports for PyTorch or the Hub and CLIPModel folders only"]
        )
    return openers[kind](path)


def _kind(path: Path) -> str:
    """The kind of model in a folder."""
    if (path / "checkpoints").is_dir():
        return "run"
    try:
        config = external.read_config(path)
    except (OSError, ValueError) as error:
        raise WeightsError(
            [f"{path}: expected a run's workdir, an export, or a Hugging Face folder ({error})"]
        ) from error
    if config.get("format") == "mova_jax":
        if "auto_map" in config:
            return "hub"
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
    sizes = _sizes(run.config.model, Tokenizer(run.tokenizer).eot_id)
    return Backend(f"{path} (JAX)", sizes, _outputs_with_scores(run), complete=True)


def open_export_in_jax(path: Path) -> Backend:
    """An export for PyTorch or the Hub, read back into this package."""
    model, exported = load_export(path), external.read_config(path)
    sizes = external.export_sizes(path, exported)
    return Backend(f"{path} (JAX)", sizes, _outputs_with_scores(model), complete=True)


def open_clip_in_jax(path: Path) -> Backend:
    """A CLIPModel folder, imported into this package; its text positions are not stretched."""
    clip, config = load_clip(path), external.read_config(path)
    model = clip.config.model
    end = external.clip_end(config.get("text_config", {}), model.text.vocab_size)
    return Backend(f"{path} (JAX)", _sizes(model, end), _outputs(model, clip.params))


def _outputs_with_scores(model: LoadedModel) -> Callable[[Inputs], Outputs]:
    config = model.config
    scoring = scores.search_scoring(config.losses, config.eval)
    divided = bool(config.data.parts)
    return _outputs(config.model, model.params, scoring, model.blend_weight, divided)


def _sizes(model: Model, end: int) -> Sizes:
    return Sizes(model.vision.image_size, model.text.context, model.text.vocab_size, end)


def _outputs(
    cfg: Model,
    params,
    scoring: PairScoring | None = None,
    blend_weight: float = 0.0,
    divided: bool = False,
) -> Callable[[Inputs], Outputs]:
    """A model's outputs, computed in float32 as by the other libraries.

    Args:
        cfg: `config.model`.
        params: nested dict.
        scoring: of pairs; None gives the outputs of a CLIP alone.
        blend_weight: of the modular score.
        divided: whether captions are scored by their parts.
    """
    cfg = dataclasses.replace(cfg, dtype="float32")
    soft_cfg = dataclasses.replace(cfg, masks=dataclasses.replace(cfg.masks, kind="soft"))
    spec, soft_spec = make_model_spec(cfg), make_model_spec(soft_cfg)

    @jax.jit
    def outputs(params, inputs: Inputs):
        model = spec.model(params)
        video = model.encode_video(inputs.frames, inputs.frame_mask)
        text = model.encode_text(*inputs[2:] if divided else inputs[2:4])
        found = {"zv": video.frames, "video": video.pooled, "y": text.tokens, "zt": text.pooled}
        found["scale"] = model.scale
        found["logits"] = model.scale * unit(video.frames[:, 0]) @ unit(text.pooled).T
        found["global"] = scores.global_scores(video, text)
        if scoring is None:
            return found
        if divided:
            found["part zt"] = text.parts.pooled
        if cfg.sharpness:
            found["sharpness"] = model.sharpness
        captions = model.prepare(text)
        if cfg.modular_scale:
            found["modular scale"] = model.modular_scale
            found["modular"] = scores.pair_scores(model, video, captions, **scoring._asdict())
            found["blend"] = found["global"] + blend_weight * found["modular"]
        masks = model.own_masks(video, captions)
        frames = video.frames[:, None] if divided else video.frames
        found["timeline"] = scores.pair_sums(frames, masks).cosine
        if not model.has_masks:
            return found
        soft = soft_spec.model(params)
        soft_masks = soft.own_masks(video, soft.prepare(text))
        return found | external.named_masks(soft_masks, masks, cfg.masks.kind)

    return lambda inputs: jax.device_get(outputs(params, inputs))
