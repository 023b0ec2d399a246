"""The one train step. A variant is an objective, a head or a layout in the config, not a step."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import optax

from mova_jax.losses.objective import objective
from mova_jax.parallel import mesh as mesh_lib
from mova_jax.training.optim import schedule, split_trained
from mova_jax.training.state import TrainSpec, TrainState
from mova_jax.typing import Batch
from mova_jax.utils.trees import merged


def make_train_step(spec: TrainSpec, mesh: jax.sharding.Mesh):
    """The compiled step `(state, batch) -> (state, metrics)`; the state is donated.

    Gradients are of the trained parameters alone: nothing is kept or computed for the backward pass
    of a frozen tower.

    Args:
        recipe: model, optimizer and configuration.
        mesh: the batch and the state are split over it.

    Returns:
        A jitted function. Metrics are float32 scalars: `loss`, its terms, `grad_norm` (of what is
        trained), `learning_rate`, `finite` (1.0, or 0.0 when this step's loss or gradient was not).
    """
    cfg = spec.config
    rate = schedule(cfg.optim, cfg.train.steps)
    state_layout = mesh_lib.state_sharding(mesh, spec.shapes)
    group = mesh_lib.replica_group(mesh)
    whole, split = mesh_lib.replicated(mesh), mesh_lib.fields_sharding(mesh, cfg.train.microbatch)

    def loss_of(trained, frozen, batch):
        with mesh_lib.activation_sharding(mesh):
            model = spec.model(merged(trained, frozen))
            return objective(model, batch, cfg.losses, group)

    @partial(
        jax.jit,
        donate_argnums=0,
        in_shardings=(state_layout, split),
        out_shardings=(state_layout, whole),
    )
    def train_step(state: TrainState, batch: Batch):
        trained, frozen = split_trained(spec.factors, state.params)
        grad_fn = jax.value_and_grad(loss_of, has_aux=True)
        (loss, watched), grads = grad_fn(trained, frozen, batch)
        norm = optax.tree.norm(grads)
        with jax.named_scope("optimizer"):
            new, opt_state = _updated(spec, state, trained, grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        ema = state.ema
        if ema is not None:
            ema = optax.incremental_update(new, ema, 1 - cfg.optim.ema)
        updated = TrainState(state.step + 1, merged(new, frozen), opt_state, finite, ema)
        keep = state.finite & finite
        stopped = dataclasses.replace(state, finite=keep)
        after = jax.tree.map(lambda a, b: jnp.where(keep, a, b), updated, stopped)
        metrics = watched | {
            "loss": loss,
            "grad_norm": norm,
            "learning_rate": rate(state.step),
            "finite": finite,
        }
        return after, {name: jnp.asarray(v, jnp.float32) for name, v in metrics.items()}

    return train_step


def _updated(spec: TrainSpec, state: TrainState, trained, grads):
    """The trained parameters after an update, and the optimizer's state.

    The optimizer is one of all parameters, and leaves out the frozen ones itself: what it keeps is
    named alike whatever is frozen. Zeros stand for the gradients that there are none of.
    """
    zeros = jax.tree.map(jnp.zeros_like, state.params)
    updates, opt_state = spec.optimizer.update(merged(zeros, grads), state.opt_state, state.params)
    updates, _ = split_trained(spec.factors, updates)
    return optax.apply_updates(trained, updates), opt_state
