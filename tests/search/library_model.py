"""A small untrained model, to embed made videos with."""

import functools

import jax

from mova_jax.data.tokenizer import train_tokenizer
from mova_jax.parallel.mesh import make_mesh
from mova_jax.search.library import VideoTextModel
from mova_jax.training.load_model import RUN, LoadedModel
from mova_jax.training.state import make_train_spec
from tests import tiny


def make_model(folder, objective="parts_ordered", seed=0) -> VideoTextModel:
    """A model of the tiny sizes, with a tokenizer of its own in `folder`."""
    train_tokenizer(["a red circle moves left", "then it stops"] * 4, 520, folder / "tokenizer")
    changes = {name.replace(".", "__"): value for name, value in tiny.RUN.items()}
    config = tiny.config(objective, **changes | {"model__text__vocab_size": 520, "seed": seed})
    mesh = make_mesh(data=1)
    spec = make_train_spec(config, mesh).model_spec
    params = tiny.jit(functools.partial(spec.init_params, seed))()
    path, tokenizer = folder / f"run-{seed}", folder / "tokenizer"
    loaded = LoadedModel(path, RUN, config, spec, jax.device_get(params), tokenizer, 0, 2.0)
    return VideoTextModel(loaded, mesh)
