"""The gradient that each term of the objective sends into each mask network.

The norm of the whole gradient does not say who moves the masks: a term can have a large weight and
reach a network hardly at all.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from mova_jax.losses.objective import objective
from mova_jax.losses.terms import TERMS, active_terms
from mova_jax.parallel import collectives, sharding
from mova_jax.training.optim import mask_hardness
from mova_jax.training.state import TrainSpec
from mova_jax.typing import Batch
from mova_jax.utils.trees import merged

NETWORKS = ("tmn", "cmn")

TermGradients = Callable[[Any, Batch, Any], dict[str, Float[Array, ""]]]


def make_term_gradients(spec: TrainSpec, mesh: jax.sharding.Mesh) -> TermGradients | None:
    """Makes the jitted function `(params, batch, step) -> metrics`; it changes none of them.

    The towers run forward once and have no backward pass; the losses have one for each term.

    Args:
        spec: model and config.
        mesh: the batch and the parameters are sharded over it, as for the train step.

    Returns:
        The function; None for models without masks. Its metrics are `gradient/<term>/<network>`,
        the L2 norm of the gradient of the weighted term with respect to the parameters of `tmn` or
        `cmn`, for each term that reads frames or masks.
    """
    config, abstract = spec.config, spec.shapes.params
    weights = active_terms(config.losses, config.model, config.data.parts > 0)
    weights = {name: weight for name, weight in weights.items() if TERMS[name].modular}
    names = [name for name in NETWORKS if name in abstract]
    if not (names and weights):
        return None
    group = collectives.replica_group(mesh)
    batch_sharding = sharding.fields_sharding(mesh, config.train.microbatch)

    def weighted_terms(networks, others, batch, step) -> Float[Array, "terms"]:
        with sharding.activation_sharding(mesh):
            model = spec.model(merged(others, networks))
            _, terms = objective(model, batch, config.losses, group, mask_hardness(config, step))
        return jnp.stack([weight * terms[name] for name, weight in weights.items()])

    @partial(
        jax.jit,
        in_shardings=(
            sharding.state_sharding(mesh, abstract),
            batch_sharding,
            sharding.replicated(mesh),
        ),
        out_shardings=sharding.replicated(mesh),
    )
    def term_gradients(params, batch: Batch, step) -> dict[str, Float[Array, ""]]:
        others = {name: leaf for name, leaf in params.items() if name not in names}
        networks = {name: params[name] for name in names}
        terms = partial(weighted_terms, others=others, batch=batch, step=step)
        _, pull_back = jax.vjp(terms, networks)

        def norms(term: Float[Array, "terms"]) -> list[Float[Array, ""]]:
            (gradients,) = pull_back(term)
            return [optax.tree.norm(gradients[name]) for name in names]

        # One term after the other: together they would need the memory of all.
        found = jax.lax.map(norms, jnp.eye(len(weights)))
        return {
            f"gradient/{term}/{name}": found[column][row]
            for row, term in enumerate(weights)
            for column, name in enumerate(names)
        }

    return term_gradients
