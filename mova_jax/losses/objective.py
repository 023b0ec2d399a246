"""The objective: the weighted sum of the terms in `TERMS`, of a model and a batch.

    L = contrast L_g + frame L_tv + sfdm L_sfdm + dfsm L_dfsm + sparsity L_s

A variant of the method is a set of weights and a layout in the config (`config/presets.py`), not
another objective. Terms of weight 0 are not computed (docs/method.md, 4).

Towers run on the whole batch, which the compiler may split over devices, or by microbatches.
Everything that forms pairs runs inside `group.shard_map` on each replica's rows (`ring.py`).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mova_jax.losses import contrast
from mova_jax.losses.batch_rows import RowKeys, row_keys
from mova_jax.losses.context import TermContext
from mova_jax.losses.microbatch import embeddings
from mova_jax.losses.replica_group import ReplicaGroup, SingleReplica
from mova_jax.losses.terms import TERMS, active_terms, mask_densities
from mova_jax.typing import Batch, Term, TextEmbedding, VideoEmbedding

_WATCHED = "watched"  # key of what is logged besides the terms


def objective(
    model,
    batch: Batch,
    cfg,
    group: ReplicaGroup | None = None,
    hardness: Float[Array, ""] | None = None,
):
    """The loss of a batch, and its metrics.

    Args:
        model: a `mova_jax.models.mova.Mova`.
        batch: videos and their captions, row by row; `HostFrames` go through the towers by
            microbatches (`losses/microbatch.py`).
        cfg: `config.losses`.
        group: the replicas that share the batch (`parallel.collectives.replica_group`); None: one.
        hardness: of `annealed` masks at a step of training; None: as in an evaluation.

    Returns:
        The loss (float32 scalar), and a dict of scalars: each term without its weight, the open
        shares of the masks, the scales, and the recall at 1 of the global score within the batch.
    """
    video, text = embeddings(model, batch)
    mask, keys = batch.example_mask, row_keys(batch)
    return loss_of_embeddings(model, video, text, mask, cfg, group, hardness, keys)


def loss_of_embeddings(
    model,
    video: VideoEmbedding,
    text: TextEmbedding,
    example_mask: Bool[Array, "b"],
    cfg,
    group: ReplicaGroup | None = None,
    hardness: Float[Array, ""] | None = None,
    keys: RowKeys | None = None,
):
    """`objective` of the towers' output; without `keys` all rows are negatives of each other."""
    weights = active_terms(cfg, model.cfg, text.parts is not None)
    scales = {"scale": model.scale}
    if model.cfg.modular_scale:
        scales["modular_scale"] = model.modular_scale
    if model.cfg.sharpness:
        scales["sharpness"] = model.sharpness
    group = group or SingleReplica()
    replicated, sharded = (model.mask_networks(hardness), scales), (video, text, example_mask, keys)
    sums = group.shard_map(partial(_sums, group, cfg, tuple(weights)), replicated, sharded)
    means = jax.tree.map(lambda term: term.mean, sums, is_leaf=lambda x: isinstance(x, Term))
    loss, metrics = jnp.zeros(()), means.pop(_WATCHED)
    for name, weight in weights.items():
        value = means[name]
        if isinstance(value, dict):
            metrics |= value
            value = sum(value.values())
        metrics[name] = value
        loss = loss + weight * value
    return loss, metrics | scales


def _sums(group, cfg, names: tuple[str, ...], replicated, sharded) -> dict[str, Any]:
    """The terms by name, and the watched ones, as `Term`s of the whole batch."""
    (networks, scales), (video, text, example_mask, keys) = replicated, sharded
    context = TermContext(group, cfg, networks, scales, video, text, example_mask, keys)
    sums = {}
    for name in names:
        spec = TERMS[name]
        part = "modular_losses" if spec.modular else "global_loss"
        with jax.named_scope(part), jax.named_scope(name):
            sums[name] = spec.fn(context)
    with jax.named_scope("global_loss"):
        recall = contrast.in_batch_recall_at_1(context.global_logits, example_mask)
    watched = {"in_batch_r1": recall}
    if networks.has_masks and any(TERMS[name].modular for name in names):
        watched |= mask_densities(context)
    return group.psum(sums | {_WATCHED: watched})
