"""The train step, the only one: variants are objectives, heads and layouts of the config."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import optax

from mova_jax.losses.objective import objective
from mova_jax.parallel import collectives, sharding
from mova_jax.training.optim import clamped_scales, mask_hardness, schedule, split_trained
from mova_jax.training.state import TrainSpec, TrainState
from mova_jax.typing import Batch
from mova_jax.utils.trees import merged


def make_train_step(spec: TrainSpec, mesh: jax.sharding.Mesh):
    """Makes the jitted step `(state, batch) -> (state, metrics)`, which donates the state.

    Gradients are taken of the trained parameters only: a frozen tower has no backward pass and
    stores no activations for one.

    Args:
        spec: model, optimizer and config.
        mesh: the batch and the state are sharded over it.

    Returns:
        The step. Its metrics are float32 scalars: `loss`, its terms, `grad_norm` (of the trained
        parameters), `learning_rate`, and `finite`: 1.0, or 0.0 when this step's loss or gradient
        was not finite. From then on steps leave parameters and optimizer as they are.
    """
    cfg = spec.config
    rate = schedule(cfg.optim, cfg.train.steps)
    group = collectives.replica_group(mesh)
    state_sharding = sharding.state_sharding(mesh, spec.shapes)
    batch_sharding = sharding.fields_sharding(mesh, cfg.train.microbatch)

    def loss_of(trained, frozen, batch, step):
        with sharding.activation_sharding(mesh):
            model = spec.model(merged(trained, frozen))
            return objective(model, batch, cfg.losses, group, mask_hardness(cfg, step))

    @partial(
        jax.jit,
        donate_argnums=0,
        in_shardings=(state_sharding, batch_sharding),
        out_shardings=(state_sharding, sharding.replicated(mesh)),
    )
    def train_step(state: TrainState, batch: Batch):
        trained, frozen = split_trained(spec.factors, state.params)
        grad_fn = jax.value_and_grad(loss_of, has_aux=True)
        (loss, terms), grads = grad_fn(trained, frozen, batch, state.step)
        norm = optax.tree.norm(grads)
        with jax.named_scope("optimizer"):
            new, opt_state = _updated(spec, state, trained, grads)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        ema = state.ema
        if ema is not None:
            ema = optax.incremental_update(new, ema, 1 - cfg.optim.ema)
        updated = TrainState(state.step + 1, merged(new, frozen), opt_state, finite, ema)
        all_finite = state.finite & finite
        stopped = dataclasses.replace(state, finite=all_finite)
        after = jax.tree.map(lambda a, b: jnp.where(all_finite, a, b), updated, stopped)
        metrics = terms | {
            "loss": loss,
            "grad_norm": norm,
            "learning_rate": rate(state.step),
            "finite": finite,
        }
        return after, {name: jnp.asarray(v, jnp.float32) for name, v in metrics.items()}

    return train_step


def _updated(spec: TrainSpec, state: TrainState, trained, grads):
    """The trained parameters and the optimizer's state after an update.

    The optimizer takes all parameters and masks the frozen ones itself, so that its state has the
    same structure whichever are frozen. The frozen ones get gradients of zero.
    """
    zeros = jax.tree.map(jnp.zeros_like, state.params)
    updates, opt_state = spec.optimizer.update(merged(zeros, grads), state.opt_state, state.params)
    updates, _ = split_trained(spec.factors, updates)
    return clamped_scales(optax.apply_updates(trained, updates)), opt_state
