"""Loads a model of any kind: the best one of a run, an export, or a plain CLIP.

    model = load_model("runs/base")           # or out/base/pytorch, or clip-vit-base-patch16
    model.model.encode_video(frames, frame_mask)

Code that uses models outside of training (evaluation, suites, export) starts here. The workdir of
an earlier version can be read as long as its parameters have the same names and shapes.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mova_jax import config as config_lib
from mova_jax.config import Config, Model
from mova_jax.config.presets import OBJECTIVES
from mova_jax.data.storage import is_url
from mova_jax.models.build import ModelSpec, make_model_spec
from mova_jax.models.mova import Mova
from mova_jax.parallel import mesh as mesh_lib
from mova_jax.parallel.sharding import state_sharding
from mova_jax.training.checkpoint import abstract_state, restore_model
from mova_jax.training.state import make_train_spec
from mova_jax.training.workdir import CONFIG, RunError, local_copy, tokenizer_folder
from mova_jax.utils.metric_log import METRICS_FILE, last_metrics
from mova_jax.utils.text_files import parse_json
from mova_jax.utils.trees import parameter_names, parameter_shapes, unflatten
from mova_jax.weights import clip_names
from mova_jax.weights.architecture import model_sizes
from mova_jax.weights.files import WeightsError, read_tensors
from mova_jax.weights.layouts import detect_layout
from mova_jax.weights.load import find_vocabulary, load_weights

RUN, EXPORT, CLIP = "run", "export", "clip"
# Versions of an export: of its config.json, and of the names in model.safetensors.
EXPORT_FORMATS = (1, 2, 3)


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A model with its parameters, its tokenizer and the settings that it is evaluated with."""

    path: Path
    kind: str  # RUN, EXPORT or CLIP
    # Of the run. For an export or a CLIP: the defaults, with what the export says of itself.
    config: Config
    spec: ModelSpec
    params: Any  # nested dict; the averaged ones of a run with `optim.ema`
    tokenizer: Path  # folder of the tokenizer that the model was trained with
    step: int  # finished steps of training; 0 for a CLIP
    blend_weight: float | None  # of the modular score, chosen on validation; None: never chosen
    url: str = ""  # of which `path` is a copy

    @property
    def origin(self) -> str:
        """Where it was loaded from: an absolute path, or a URL."""
        return self.url or str(self.path.resolve())

    def params_on(self, mesh: Mesh) -> Any:
        """The parameters on the devices of a mesh, which may be those of several processes."""
        # From the host then: arrays of one process's device cannot go to another's.
        params = jax.device_get(self.params) if jax.process_count() > 1 else self.params
        return jax.device_put(params, state_sharding(mesh, self.spec.abstract_params))

    @property
    def model(self) -> Mova:
        """The model with its trained parameters."""
        return self.spec.model(self.params)

    def metrics(self) -> dict[str, float]:
        """The last value of each metric of a run; empty without `metrics.jsonl`."""
        return last_metrics(self.path / METRICS_FILE)


def load_model(path: str | os.PathLike) -> LoadedModel:
    """Loads a model of any kind onto one device.

    Args:
        path: the workdir of a run, the folder of an export for PyTorch, or the folder (or the
            file) of a CLIP in any layout that `init=` reads, with its vocabulary; or a URL of one.

    Raises:
        RunError: there is no such path, or it is the workdir of a run that cannot be read.
        CheckpointError: a run without a checkpoint that can be read.
        WeightsError: weights that cannot be read, or that do not fit together.
    """
    if is_url(path):
        return dataclasses.replace(load_model(local_copy(path)), url=os.fspath(path))
    path = Path(path)
    if not path.exists():
        raise RunError(
            f"There is no {path}: expected the workdir of a run, a folder of "
            "python -m mova_jax.convert export, or the folder of a CLIP"
        )
    if (path / "checkpoints").is_dir():
        return load_run(path)
    config = _read_json(path / CONFIG) if path.is_dir() else {}
    if config.get("format") == "mova_jax":
        return load_export(path, config)
    return load_clip(path)


def load_run(workdir: str | os.PathLike) -> LoadedModel:
    """Loads the best model of a run; the last one when there was no validation.

    Raises:
        RunError: `workdir` is not the workdir of a run.
        CheckpointError: it has no checkpoint that can be read.
    """
    if is_url(workdir):
        return dataclasses.replace(load_run(local_copy(workdir)), url=os.fspath(workdir))
    workdir = Path(workdir)
    try:
        config = config_lib.from_json((workdir / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(
            f"{workdir} is not the workdir of a run: it has no {CONFIG}; give the --workdir that "
            "python -m mova_jax.main was started with"
        ) from error
    except ValueError as error:
        raise RunError(f"{workdir / CONFIG} cannot be read: {error}") from error
    config = _with_model(config, _anywhere(config.model))
    # Each of several processes reads the weights to a device of its own.
    mesh = mesh_lib.make_mesh(data=1, devices=mesh_lib.local_devices()[:1])
    spec = make_train_spec(config, mesh)
    saved = restore_model(workdir, abstract_state(spec, mesh))
    return LoadedModel(
        path=workdir,
        kind=RUN,
        config=config,
        spec=spec.model_spec,
        params=saved.params,
        tokenizer=tokenizer_folder(workdir),
        step=saved.step,
        blend_weight=float(saved.record.get("blend_weight", 1.0)),
    )


def load_export(path: str | os.PathLike, exported: dict[str, Any] | None = None) -> LoadedModel:
    """Loads an export for PyTorch back into this package.

    Args:
        path: its folder.
        exported: the content of its config.json, when it was read already.

    Raises:
        WeightsError: it is an export to ONNX, or its files do not fit together.
    """
    path = Path(path)
    exported = _read_json(path / CONFIG) if exported is None else exported
    if not (path / "model.safetensors").is_file():
        raise WeightsError(
            [f"{path} has no model.safetensors: expected an export with --to pytorch"]
        )
    if exported.get("format_version") not in EXPORT_FORMATS:
        raise WeightsError(
            [
                f"{path / CONFIG}: got format_version {exported.get('format_version')!r}, expected "
                f"one of {EXPORT_FORMATS}; another version of this package made it"
            ]
        )
    model = _anywhere(config_lib.section(Model, exported["model"]))
    training = exported.get("training", {})
    config = _with_model(_defaults(training.get("objective", "")), model)
    pool, parts = exported["score_pool"], exported.get("parts", 0)
    config = dataclasses.replace(
        config,
        seed=int(training.get("seed", config.seed)),
        losses=dataclasses.replace(config.losses, order=exported.get("score_order", 0.0)),
        data=dataclasses.replace(config.data, parts=parts),
        eval=dataclasses.replace(config.eval, pool=pool, frames=exported["eval_frames"]),
    )
    spec = make_model_spec(model)
    return LoadedModel(
        path=path,
        kind=EXPORT,
        config=config,
        spec=spec,
        params=_read_params(path, spec),
        tokenizer=find_vocabulary(path),
        step=int(training.get("steps", 0)),
        blend_weight=float(exported["blend_weight"]),
    )


def load_clip(path: str | os.PathLike) -> LoadedModel:
    """Loads a CLIP as it is, scored by parts without training for it, see `with_parts`.

    Its text positions are not stretched.

    Raises:
        WeightsError: all problems at once.
    """
    path = Path(path)
    tensors = read_tensors(path)
    layout = detect_layout(tensors)
    changed = config_lib.defaults()
    config_lib.apply(changed, OBJECTIVES, "global_only")
    sizes = model_sizes(tensors, layout, path)
    if layout == "huggingface":
        sizes.setdefault("model.activation", "quick_gelu")  # transformers' default
    if "model.activation" not in sizes:
        raise WeightsError(
            [
                f"nothing in {path} says with which activation it was trained: import it with "
                "python -m mova_jax.convert import, --set model.activation=quick_gelu or gelu, and "
                "give the folder that this makes"
            ]
        )
    changed.update_from_flattened_dict(sizes)
    table = clip_names.HUGGINGFACE if layout == "huggingface" else clip_names.openai_table(tensors)
    changed.model.text.context = len(tensors[table.text_positions])
    del tensors, table
    model = config_lib.section(Model, changed.model.to_dict())
    spec = make_model_spec(model)
    clip = LoadedModel(
        path=path,
        kind=CLIP,
        config=_with_model(_defaults("global_only"), model),
        spec=spec,
        params=_read_params(path, spec),
        tokenizer=find_vocabulary(path),
        step=0,
        blend_weight=None,
    )
    return with_parts(clip)


def with_parts(model: LoadedModel) -> LoadedModel:
    """The model, scored by the parts of captions where it was trained with the global score alone.

    Parts find their frames without masks and without training for it, by the pool and the order of
    the base recipe. The pool is as sharp as the scale of the global score, at which the model was
    trained to tell captions apart.
    """
    config = model.config
    if config.data.parts or config.model.has_masks:
        return model
    scale = float(np.exp(parameter_names(model.params)["logit_scale"]))
    changed = dataclasses.replace(config.model, modular_scale=scale, sharpness=scale)
    spec = make_model_spec(changed)
    drawn = parameter_names(jax.jit(lambda: spec.init_params(0))())
    params = unflatten(drawn | parameter_names(model.params), spec.abstract_params)
    base = Config()
    data = dataclasses.replace(config.data, parts=base.data.parts)
    pool = dataclasses.replace(config.eval, pool=base.eval.pool)
    config = dataclasses.replace(config, model=changed, losses=base.losses, data=data, eval=pool)
    return dataclasses.replace(model, config=config, spec=spec, params=params, blend_weight=None)


def _anywhere(model: Model) -> Model:
    """The model without a kernel that only the devices of its training may have."""
    return dataclasses.replace(model, attention="xla")


def _defaults(objective: str) -> Config:
    """The base recipe with an objective; without one when its name is not known."""
    made = config_lib.defaults()
    if objective in OBJECTIVES:
        config_lib.apply(made, OBJECTIVES, objective)
    return config_lib.from_config_dict(made)


def _with_model(config: Config, model: Model) -> Config:
    """A configuration for a model of other sizes, with the token buckets that fit its context."""
    buckets = tuple(n for n in config.data.token_buckets if n < model.text.context)
    data = dataclasses.replace(config.data, token_buckets=(*buckets, model.text.context))
    return dataclasses.replace(config, model=model, data=data)


def _read_params(path: Path, spec: ModelSpec) -> Any:
    """The parameters of weights, as a nested dict; random ones where a CLIP has none."""
    model, like = spec.config, parameter_shapes(spec.abstract_params)
    weights, report = load_weights(path, like, model)
    if report.initial:
        drawn = parameter_names(jax.jit(lambda: spec.init_params(0))())
        weights |= {name: np.asarray(drawn[name]) for name in report.initial}
    return jax.tree.map(jnp.asarray, unflatten(weights, spec.abstract_params))


def _read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file; empty when there is no file.

    Raises:
        WeightsError: it is no JSON.
    """
    if not file.is_file():
        return {}
    try:
        found = parse_json(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError([f"{file}: no JSON ({error})"]) from None
    return found if isinstance(found, dict) else {}
