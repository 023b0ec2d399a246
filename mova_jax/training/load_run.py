"""A run that was trained: its configuration, its model and where its vocabulary is.

    trained = load("runs/base")
    trained.model.encode_video(frames, frame_mask)

What reads runs to use their models (export, checks of parity) starts here; a workdir of an earlier
version is read as long as its parameters have the same names and shapes.
"""

import dataclasses
import os
from pathlib import Path
from typing import Any

from mova_jax import config as config_lib
from mova_jax.config import Config
from mova_jax.models.mova import Mova
from mova_jax.parallel import mesh as mesh_lib
from mova_jax.training.checkpoint import abstract_state, restore_model
from mova_jax.training.state import TrainSpec, make_train_spec
from mova_jax.training.workdir import CONFIG, RunError, tokenizer_folder
from mova_jax.utils.metric_log import METRICS_FILE, read_metrics


@dataclasses.dataclass(frozen=True)
class LoadedRun:
    """A run's best model (the last one where none was validated)."""

    workdir: Path
    config: Config
    spec: TrainSpec
    params: Any  # their average in a run with `optim.ema`
    step: int  # steps that the parameters were trained for
    blend_weight: float  # of the modular score, chosen on validation

    @property
    def model(self) -> Mova:
        """The model with its trained parameters."""
        return self.spec.model(self.params)

    @property
    def tokenizer(self) -> Path:
        """Folder of the vocabulary that the embeddings belong to."""
        return tokenizer_folder(self.workdir)

    def metrics(self) -> dict[str, float]:
        """The last value of everything that the run measured; empty without `metrics.jsonl`."""
        path, found = self.workdir / METRICS_FILE, {}
        for row in read_metrics(path) if path.exists() else []:
            found |= row
        return found


def load(workdir: str | os.PathLike) -> LoadedRun:
    """Reads a run's model; its parameters are whole on one device.

    Args:
        workdir: with `config.json` and `checkpoints/`.

    Raises:
        RunError: when it is not the workdir of a run.
        CheckpointError: when it holds no checkpoint that can be read.
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
    return LoadedRun(workdir, config, spec, saved.params, saved.step, weight)
