"""Loads a trained run: its config, its model and its tokenizer.

    run = load_run("runs/base")
    run.model.encode_video(frames, frame_mask)

Code that uses the models of runs (export, parity checks) starts here. The workdir of an earlier
version can be read as long as its parameters have the same names and shapes.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

from mova_jax import config as config_lib
from mova_jax.config import Config
from mova_jax.models.build import ModelSpec
from mova_jax.models.mova import Mova
from mova_jax.parallel import mesh as mesh_lib
from mova_jax.training.checkpoint import abstract_state, restore_model
from mova_jax.training.state import make_train_spec
from mova_jax.training.workdir import CONFIG, RunError, tokenizer_folder
from mova_jax.utils.metric_log import METRICS_FILE, last_metrics


@dataclasses.dataclass(frozen=True)
class LoadedRun:
    """The best model of a run; the last one when there was no validation."""

    workdir: Path
    config: Config
    spec: ModelSpec
    params: Any  # nested dict; the averaged ones in a run with `optim.ema`
    step: int  # finished steps
    blend_weight: float  # of the modular score, chosen on validation

    @property
    def model(self) -> Mova:
        """The model with its trained parameters."""
        return self.spec.model(self.params)

    @property
    def tokenizer(self) -> Path:
        """Folder of the tokenizer that the model was trained with."""
        return tokenizer_folder(self.workdir)

    def metrics(self) -> dict[str, float]:
        """The last value of each metric of the run; empty without `metrics.jsonl`."""
        return last_metrics(self.workdir / METRICS_FILE)


def load_run(workdir: str | os.PathLike) -> LoadedRun:
    """Loads the model of a run onto one device.

    Args:
        workdir: with `config.json` and `checkpoints/`.

    Raises:
        RunError: `workdir` is not the workdir of a run.
        CheckpointError: it has no checkpoint that can be read.
    """
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
    mesh = mesh_lib.make_mesh(data=1)
    spec = make_train_spec(config, mesh)
    saved = restore_model(workdir, abstract_state(spec, mesh))
    weight = float(saved.record.get("blend_weight", 1.0))
    return LoadedRun(workdir, config, spec.model_spec, saved.params, saved.step, weight)
