"""A `Bundle`: weights to export, with their configuration, vocabulary and training.

bundle = bundle_from_run(load_run("runs/base"), licence="cc-by-4.0")
export(bundle, "out", ["pytorch", "huggingface"])             # export/export.py
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mova_jax.config import Config
from mova_jax.losses.scores import search_scoring
from mova_jax.training.load_model import EXPORT_FORMATS, LoadedModel
from mova_jax.utils.trees import parameter_names


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A model to export.

    Attributes:
        params: all parameters by our names, float32.
        config: of the run, with `model.text.vocab_size` set.
        tokenizer: folder of the vocabulary.
        blend_weight: of the modular score.
        training: facts for config.json and the card, such as `steps`, `data`, `seed`.
        metrics: the run's metrics by flat names; may be empty.
        licence: of the weights, an identifier or ''.
    """

    params: Mapping[str, np.ndarray]
    config: Config
    tokenizer: Path
    blend_weight: float
    training: Mapping[str, Any]
    metrics: Mapping[str, float]
    licence: str = ""

    def as_json(self) -> dict[str, Any]:
        """The config.json of an export for PyTorch or ONNX."""
        scoring = search_scoring(self.config.losses, self.config.eval)
        return {
            "format": "mova_jax",
            "format_version": EXPORT_FORMATS[-1],
            "model": dataclasses.asdict(self.config.model),
            "blend_weight": self.blend_weight,
            "score_pool": scoring.pool,
            "score_order": scoring.order,
            "parts": self.config.data.parts,
            "eval_frames": self.config.eval.frames,
            "training": dict(self.training),
        }


def bundle_from_run(run: LoadedModel, licence: str = "") -> Bundle:
    """The best model of a run, as a bundle."""
    config = run.config
    return Bundle(
        params={name: np.asarray(x) for name, x in parameter_names(run.params).items()},
        config=config,
        tokenizer=run.tokenizer,
        blend_weight=run.blend_weight,
        training={
            "steps": run.step,
            "batch_size": config.train.batch_size,
            "objective": config.objective,
            "seed": config.seed,
            # The name alone: an export does not publish paths of somebody's machine.
            "data": Path(config.data.source).name,
            "started_from": Path(config.init_from).name or "random weights",
        },
        metrics=run.metrics(),
        licence=licence,
    )
