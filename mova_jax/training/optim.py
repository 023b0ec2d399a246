"""The optimizer: AdamW, learning rates by parameter name, and what changes with the step."""

import math
import re

import jax.numpy as jnp
import optax
from flax import traverse_util
from jaxtyping import Array, Float, Int

from mova_jax.config import Config, Optim
from mova_jax.utils.trees import parameter_names, unflatten

B1, B2, EPS = 0.9, 0.98, 1e-6  # of Adam, as in CLIP4Clip

# Parameters that are the logarithm of a scale, and their largest value: CLIP's scale ends at 100.
LOGIT_SCALES, MAX_LOGIT_SCALE = ("logit_scale", "modular_logit_scale"), math.log(100.0)

# Share of the steps after which annealed masks are hard: the last ones train what is evaluated.
HARDENING = 0.8


def schedule(cfg: Optim, steps: int) -> optax.Schedule:
    """Learning rate by step: linear from 0 to the peak, then a cosine to `final_fraction` of it."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=cfg.learning_rate,
        warmup_steps=cfg.warmup_steps,
        decay_steps=steps,
        end_value=cfg.learning_rate * cfg.final_fraction,
    )


def mask_hardness(config: Config, step: Int[Array, ""] | int) -> Float[Array, ""] | None:
    """Hardness of annealed masks at a step: linear from 0 to 1. None for masks of other kinds."""
    if config.model.masks.kind != "annealed":
        return None
    return jnp.minimum(jnp.asarray(step / (HARDENING * config.train.steps), jnp.float32), 1.0)


def group_factors(cfg: Optim, params) -> dict[str, float]:
    """The factor on the learning rate of each parameter, from the first regex that fits its name.

    Parameters whose name ends in `_frozen` have factor 0 whatever the groups say: with a gradient
    of 0 alone, weight decay would still change them.

    Raises:
        ValueError: a regex fits no parameter and is probably misspelt.
    """
    names = parameter_names(params)
    factors, used = {}, set()
    for name in names:
        for pattern, factor in cfg.groups:
            if re.fullmatch(pattern, name):
                factors[name] = 0.0 if name.endswith("_frozen") else float(factor)
                used.add(pattern)
                break
    idle = [pattern for pattern, _ in cfg.groups[:-1] if pattern not in used]
    if idle:
        raise ValueError(
            f"optim.groups: {idle} fit no parameter name (the whole name has to match); there are, "
            f"for example: {', '.join(list(names)[:: max(1, len(names) // 8)])}"
        )
    return factors


def split_trained(factors: dict[str, float], params) -> tuple[dict, dict]:
    """Splits parameters into two nested dicts: those that are trained, and those of factor 0."""
    flat = traverse_util.flatten_dict(params)
    parts = {}, {}
    for path, leaf in flat.items():
        parts[factors["/".join(map(str, path))] == 0][path] = leaf
    return tuple(traverse_util.unflatten_dict(part) for part in parts)


def make_optimizer(cfg: Optim, steps: int, params) -> optax.GradientTransformation:
    """Clipping over the whole gradient, then AdamW for each learning-rate group.

    Args:
        cfg: `config.optim`.
        steps: length of the run, for the cosine.
        params: nested dict of arrays or shapes; the regexes of the groups match its names.

    Returns:
        A transformation; parameters of factor 0 get no update and have no moments.
    """
    factors = group_factors(cfg, params)
    rate = schedule(cfg, steps)
    transforms = {}
    for factor in sorted(set(factors.values())):
        transforms[f"x{factor}"] = (
            _adamw(cfg, lambda step, factor=factor: factor * rate(step))
            if factor
            else optax.set_to_zero()
        )
    labels = unflatten({name: f"x{factor}" for name, factor in factors.items()}, params)
    grouped = optax.multi_transform(transforms, labels)
    if not cfg.clip_norm:
        return grouped
    return optax.chain(_clip_trained(cfg.clip_norm, factors, params), grouped)


def _adamw(cfg: Optim, rate) -> optax.GradientTransformation:
    """AdamW without decay of vectors and scalars (norms, biases, scales)."""

    def matrices(params):
        return unflatten(
            {name: _is_matrix(name, leaf) for name, leaf in parameter_names(params).items()}, params
        )

    return optax.adamw(
        rate,
        b1=B1,
        b2=B2,
        eps=EPS,
        mu_dtype=jnp.dtype(cfg.moment_dtype),
        weight_decay=cfg.weight_decay,
        mask=matrices,
    )


def clamped_scales(params: dict) -> dict:
    """Parameters after an update, the logit scales moved back to CLIP's range: scales of 1 to 100.

    A scale that went on growing above the cap of the model (`models.mova`) would have to come all
    the way back before it could fall.

    Args:
        params: nested dict; the scales are at its top level, where it has them.
    """
    scales = {name: params[name] for name in LOGIT_SCALES if name in params}
    return params | {name: jnp.clip(x, 0.0, MAX_LOGIT_SCALE) for name, x in scales.items()}


def _is_matrix(name: str, leaf) -> bool:
    """Whether weight decay applies; by name, since stacked layers make biases and norms 2-D too."""
    return leaf.ndim >= 2 and not name.endswith(("bias", "scale"))


def _clip_trained(norm: float, factors: dict[str, float], params):
    """Clips by the global norm of the trained parameters' gradients."""
    trained = unflatten({name: factor > 0 for name, factor in factors.items()}, params)
    return optax.masked(optax.clip_by_global_norm(norm), trained)
