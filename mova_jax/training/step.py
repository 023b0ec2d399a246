"""The one train step. A variant is an objective, a head or a layout in the config, not a step."""

from functools import partial

import jax
import jax.numpy as jnp
import optax

from mova_jax import mesh as mesh_lib
from mova_jax.losses.objective import objective
from mova_jax.training.optim import schedule
from mova_jax.training.state import Recipe, TrainState
from mova_jax.typing import Batch


def make_train_step(recipe: Recipe, mesh: jax.sharding.Mesh):
    """The compiled step `(state, batch) -> (state, metrics)`; the state is donated.

    Args:
        recipe: model, optimizer and configuration.
        mesh: the batch is split over it, the state is whole on every device.

    Returns:
        A jitted function. Metrics are float32 scalars: `loss`, its terms, `grad_norm`,
        `learning_rate`, `finite` (1.0, or 0.0 when this step's loss or gradient was not).
    """
    cfg = recipe.config
    rate = schedule(cfg.optim, cfg.train.steps)
    parties = mesh_lib.parties(mesh)
    whole, split = mesh_lib.replicated(mesh), mesh_lib.batch_sharding(mesh)

    def loss_of(params, batch, step):
        model = recipe.model(params)
        return objective(model, batch, cfg.losses, step, parties, cfg.train.microbatch)

    @partial(jax.jit, donate_argnums=0, in_shardings=(whole, split), out_shardings=(whole, whole))
    def train_step(state: TrainState, batch: Batch):
        grad_fn = jax.value_and_grad(loss_of, has_aux=True)
        (loss, watched), grads = grad_fn(state.params, batch, state.step)
        norm = optax.tree.norm(grads)
        with jax.named_scope("optimizer"):
            updates, opt_state = recipe.optimizer.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
        finite = jnp.isfinite(loss) & jnp.isfinite(norm)
        updated = TrainState(state.step + 1, params, opt_state, finite)
        keep = state.finite & finite
        frozen = TrainState(state.step, state.params, state.opt_state, keep)
        new = jax.tree.map(lambda a, b: jnp.where(keep, a, b), updated, frozen)
        metrics = watched | {
            "loss": loss,
            "grad_norm": norm,
            "learning_rate": rate(state.step),
            "finite": finite,
        }
        return new, {name: jnp.asarray(v, jnp.float32) for name, v in metrics.items()}

    return train_step
