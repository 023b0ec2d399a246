"""The formula of the method against the step's jaxpr, and both against XLA's own count."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, PartitionSpec

from mova_jax.cost import flops
from mova_jax.losses import hard_pairs
from mova_jax.planning import compile as compile_lib
from mova_jax.planning import jaxpr_flops
from tests import tiny


def both(cfg, devices=1):
    """FLOPs by the formula, and the count of the real step."""
    step = compile_lib.trace(cfg, jax.devices()[:devices], cfg.model.text.context)
    needed = flops.model_flops(cfg, cfg.model.text.context, step.frozen)
    return sum(cost.total for cost in needed.values()), jaxpr_flops.count(step.traced, step.trips)


@pytest.mark.parametrize(
    ("objective", "changes"),
    [
        ("full", {}),
        ("global_only", {}),
        ("frame_weighting", {}),
        ("cmn_only", {}),
        ("token_mask", {}),
        ("paper", {}),
        ("full", {"model__tmn__layout": "joint", "model__cmn__sees_frame": True}),
        ("full", {"model__tmn__detach_tokens": True}),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(map(str, value)),
)
def test_the_formula_of_the_method_is_what_the_step_computes(objective, changes):
    needed, counted = both(tiny.config(objective, **changes))
    assert counted.total == pytest.approx(needed, rel=1e-6)


def test_hard_pairs_are_those_that_are_scored_and_may_be_scored_again_backwards():
    cfg = tiny.config("paper", losses__hard_pairs=1)
    needed, counted = both(cfg)
    every = flops.model_flops(tiny.config("paper"), cfg.model.text.context)
    fewer = flops.model_flops(cfg, cfg.model.text.context)
    assert fewer["tmn"].forward < every["tmn"].forward
    assert needed <= counted.total <= needed + sum(cost.forward for cost in fewer.values())


@pytest.mark.parametrize("devices", [1, 8])
def test_a_loop_over_hard_pairs_counts_as_often_as_it_runs(monkeypatch, devices):
    """A visit brings fewer pairs than a chunk holds, or several chunks."""

    def again(k):
        """FLOPs of the masks of hard pairs that the backward pass computes a second time."""
        cfg = tiny.config("paper", train__batch_size=16, losses__hard_pairs=k)
        once = both(cfg)[1].flops["cmn"]
        with monkeypatch.context() as patch:
            patch.setattr(hard_pairs, "choose_chunk", lambda *_: 2)
            return both(cfg, devices)[1].flops["cmn"] - once

    assert again(5) == 3 * again(1) > 0


def test_remat_adds_to_the_program_and_not_to_the_method():
    plain, again = (both(tiny.config(model__remat=remat)) for remat in ("none", "full"))
    assert again[0] == plain[0]
    assert again[1].total > 1.05 * plain[1].total


def test_one_block_by_hand():
    l, w = 5, 8
    forward = 2 * l * w * 3 * w + 2 * (2 * l * l * w) + 2 * l * w * w + 2 * (2 * l * w * 4 * w)
    cost = flops.blocks(3, l, w)
    assert (cost.forward, cost.backward) == (3 * forward, 2 * 3 * forward)


def test_a_frozen_tower_has_no_backward_pass():
    cfg = tiny.config()
    whole, frozen = (flops.model_flops(cfg, 6, f) for f in ((), ("vision",)))
    assert whole["vision"].backward > 0 == frozen["vision"].backward
    assert frozen["text"] == whole["text"]


def test_the_program_is_what_xla_counts_where_there_is_no_loop():
    def function(x, w):
        return jnp.tanh(x @ w) @ w.T

    x, w = jnp.ones((64, 128)), jnp.ones((128, 256))
    counted = jaxpr_flops.count(jax.jit(function).trace(x, w))
    assert counted.total == 2 * 2 * 64 * 128 * 256
    xla = jax.jit(function).lower(x, w).compile().cost_analysis()["flops"]
    assert counted.total == pytest.approx(xla, rel=0.05)


def scanned(x, w):
    with jax.named_scope("text_tower"):
        return jax.lax.scan(jax.checkpoint(lambda c, w: (jnp.sin(c @ w), None)), x, w)[0].sum()


def test_scans_count_by_their_length_and_remat_counts_again():
    x, w = jnp.ones((4, 8)), jnp.ones((5, 8, 8))
    once = 5 * 2 * 4 * 8 * 8
    assert jaxpr_flops.count(jax.jit(scanned).trace(x, w)).flops == {"text": once}
    both_gradients = jax.jit(jax.grad(scanned, argnums=(0, 1)))
    assert jaxpr_flops.count(both_gradients.trace(x, w)).total == 4 * once


def test_what_nobody_reads_is_not_counted():
    def function(x):
        y, unread = x @ x, x @ x.T
        del unread
        return y

    assert jaxpr_flops.count(jax.jit(function).trace(jnp.ones((4, 4)))).total == 2 * 4**3


def test_a_shard_map_counts_on_every_device_and_high_precision_in_passes():
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    rows, whole = PartitionSpec("d"), PartitionSpec()

    def function(x, w):
        return jnp.dot(x, w, precision="highest")

    mapped = jax.shard_map(function, mesh=mesh, in_specs=(rows, whole), out_specs=rows)
    counted = jaxpr_flops.count(jax.jit(mapped).trace(jnp.ones((16, 4)), jnp.ones((4, 3))))
    assert counted.total == 2 * 16 * 4 * 3
    assert counted.passes == 6 * counted.total


def test_a_conditional_counts_its_larger_branch():
    def function(p, x):
        return jax.lax.cond(p, lambda: x @ x, lambda: x @ x @ x)

    counted = jaxpr_flops.count(jax.jit(function).trace(True, jnp.ones((4, 4))))
    assert counted.total == 2 * 2 * 4**3
