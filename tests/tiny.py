"""A model and batches of the smallest sizes at which every axis has another length."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from configs.base import get_config
from mova_jax.config import Config, from_config_dict
from mova_jax.models.mova import Mova
from mova_jax.typing import Batch
from mova_jax.utils.metric_log import METRICS_FILE, read_metrics

B, F, L, D, W = 4, 3, 6, 8, 16  # videos, frames, tokens, joint width, text tower's width
P, T = 2, 5  # parts of a caption, tokens of a part
SIZE, VOCAB = 8, 11  # pixels, tokens

SIZES = {
    "model.vision.image_size": SIZE,
    "model.vision.patch_size": 4,
    "model.vision.width": 12,
    "model.vision.layers": 1,
    "model.vision.heads": 2,
    "model.text.width": W,
    "model.text.layers": 1,
    "model.text.heads": 2,
    "model.text.context": L,
    "model.text.vocab_size": VOCAB,
    "model.embed_dim": D,
    "model.frame_positions": 5,
    "model.tmn.layers": 2,
    # Logits at the start are near the bias: at 0 some masks are open and some are closed.
    "model.masks.init_bias": 0.0,
    "data.frames": F,
    "data.token_buckets": (L,),
    "eval.frames": F,
    "train.batch_size": B,
    "optim.warmup_steps": 2,
    "train.steps": 10,
    "train.image_share": 0.0,
}

# A whole run of that model on the embedded data, whose captions need more tokens.
RUN = SIZES | {
    "model.vision.image_size": 16,
    "model.text.context": 160,
    "model.text.vocab_size": 0,
    "model.frame_positions": 8,
    "data.token_buckets": (160,),
    "data.train_videos": 32,
    "data.eval_videos": 8,
    "train.batch_size": 8,
    "train.log_every": 1,
    "train.checkpoint_every": 2,
    "eval.batch_size": 8,
    "eval.splits": ("test",),
}


# Programs of tiny shapes run once: nearly all of their time is compiling, now a fifth of it.
QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}
jit = functools.partial(jax.jit, compiler_options=QUICK)


def config(objective: str = "full", **changes) -> Config:
    """A checked configuration; `model__tmn__layout="cross"` changes `model.tmn.layout`."""
    made = get_config(f"objective={objective}")
    changes = {name.replace("__", "."): value for name, value in changes.items()}
    made.update_from_flattened_dict(SIZES | changes)
    return from_config_dict(made)


def model(objective: str = "full", **changes) -> Mova:
    """The model of `config`, with the same weights whenever it is made."""
    cfg = config(objective, **changes).model
    made = drawn(lambda: Mova(cfg, rngs=nnx.Rngs(0)))
    made.logit_scale[...] = jnp.log(cfg.scale)
    if cfg.modular_scale:
        made.modular_logit_scale[...] = jnp.log(cfg.modular_scale)
    if cfg.sharpness:
        made.log_sharpness[...] = jnp.log(cfg.sharpness)
    return made


def drawn(make) -> nnx.Module:
    """What `make` makes, with weights from NumPy: nothing is compiled, and no bias is 0."""
    graphdef, state = nnx.split(nnx.eval_shape(make))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        weights = rng.normal(size=leaf.shape).astype(np.float32)
        name = str(path[-1].key)
        if name == "scale":  # of a layer norm
            return jnp.asarray(1 + 0.1 * weights)
        return jnp.asarray((0.1 if name == "bias" else 0.35) * weights)

    params = jax.tree_util.tree_map_with_path(draw, nnx.to_pure_dict(state))
    return nnx.merge(graphdef, params)


def initial(spec):
    """`recipe.initial()`, compiled quickly."""
    return spec.initial.lower().compile(QUICK)()


def assert_near(got, expected, relative: float = 1e-4) -> None:
    """Leaves of two trees are equal, but for so much of the largest value of a leaf."""
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        a, b = (np.asarray(x, np.float64) for x in (a, b))
        np.testing.assert_allclose(a, b, rtol=0, atol=relative * np.abs(b).max() + 1e-6)


def masks_of_lengths(lengths, size: int) -> np.ndarray:
    """`[b size]`: True for the first places of each row."""
    return np.arange(size) < np.asarray(lengths)[:, None]


def part_arrays(b: int = B, seed: int = 0) -> dict[str, np.ndarray]:
    """Fields of the parts of captions; every second caption has only one."""
    rng = np.random.default_rng(seed)
    mask = masks_of_lengths([T - i % 3 for i in range(b * P)], T).reshape(b, P, T)
    mask[1::2, 1] = False
    return {
        "part_tokens": rng.integers(0, VOCAB, (b, P, T), dtype=np.int32),
        "part_token_mask": mask,
    }


def batch_arrays(b: int = B, seed: int = 0) -> dict[str, np.ndarray]:
    """Fields of a `Batch` whose rows have several lengths, the first one full."""
    rng = np.random.default_rng(seed)
    return {
        "frames": rng.integers(0, 256, (b, F, SIZE, SIZE, 3), dtype=np.uint8),
        "frame_mask": masks_of_lengths([F - i % 3 for i in range(b)], F),
        "timestamps": np.tile(np.arange(F, dtype=np.float32), (b, 1)),
        "tokens": rng.integers(0, VOCAB, (b, L), dtype=np.int32),
        "token_mask": masks_of_lengths([L - i % 4 for i in range(b)], L),
        "video_id": np.arange(b, dtype=np.int32),
    }


def batch(b: int = B, seed: int = 0, parts: bool = False) -> Batch:
    """`batch_arrays` on the device; with `part_arrays`, if wanted."""
    arrays = batch_arrays(b, seed) | (part_arrays(b, seed) if parts else {})
    return Batch(**{name: jnp.asarray(x) for name, x in arrays.items()})


def logged_metrics(workdir: Path) -> list[dict[str, float]]:
    """The metric log of a run without the rates, which depend on the clock."""
    return [
        {name: value for name, value in row.items() if not name.startswith("time/")}
        for row in read_metrics(workdir / METRICS_FILE)
    ]
