"""The optimizer: groups by name; schedule, decay and clipping against plain formulas."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mova_jax.training import optim
from tests import tiny

NAMES = ["blocks/norm/scale", "blocks/up/bias", "blocks/up/kernel", "logit_scale", "table"]


def params():
    """Parameters of two stacked layers, a table and a scalar; no entry is 0."""
    return {
        "blocks": {
            "norm": {"scale": jnp.full((2, 3), 2.0)},
            "up": {"kernel": jnp.full((2, 3, 4), 3.0), "bias": jnp.full((2, 4), 4.0)},
        },
        "table": jnp.full((5, 3), 5.0),
        "logit_scale": jnp.float32(6.0),
    }


def settings(**changes):
    """`config.optim` of a run of ten steps with a warm-up of two."""
    return dataclasses.replace(tiny.config().optim, **changes)


def update(cfg, grads, tree=None, steps=1):
    """The last of `steps` updates with the same gradient, and the optimizer's state."""
    tree = params() if tree is None else tree
    optimizer = optim.make_optimizer(cfg, 10, tree)
    state = optimizer.init(tree)
    for _ in range(steps):
        updates, state = optimizer.update(grads, state, tree)
    return optim.parameter_names(updates), state


def ones():
    return jax.tree.map(jnp.ones_like, params())


def test_schedule_by_hand():
    rate = optim.schedule(settings(learning_rate=0.4, warmup_steps=2, final_fraction=0.1), 10)
    # Up to 0.4 in 2 steps, then half a cosine over 8 steps down to 0.04.
    middle = 0.04 + (0.4 - 0.04) / 2
    expected = {0: 0.0, 1: 0.2, 2: 0.4, 6: middle, 10: 0.04, 99: 0.04}
    for step, value in expected.items():
        np.testing.assert_allclose(rate(step), value, rtol=1e-5, atol=1e-7, err_msg=str(step))


def test_the_first_regex_that_fits_the_whole_name_counts():
    groups = (("blocks/.*bias", 0.0), ("blocks/.*", 0.5), ("(scale|table)", 2.0), (".*", 1.0))
    factors = optim.group_factors(settings(groups=groups), params())
    assert [factors[name] for name in NAMES] == [0.5, 0.0, 0.5, 1.0, 2.0]


def test_parameters_named_frozen_stay_whatever_the_groups_say():
    tree = params() | {"text": {"positions_frozen": jnp.full((2, 3), 7.0)}}
    groups = (("text/positions_frozen", 3.0), ("text/.*|table", 2.0), (".*", 1.0))
    factors = optim.group_factors(settings(groups=groups), tree)
    assert factors["text/positions_frozen"] == 0.0 and factors["table"] == 2.0
    grads = jax.tree.map(jnp.ones_like, tree)
    updates, state = update(settings(groups=groups, weight_decay=0.5), grads, tree, steps=3)
    assert not updates["text/positions_frozen"].any() and updates["table"].any()
    assert sum(leaf.shape == (2, 3) for leaf in jax.tree.leaves(state)) == 2  # of the norm alone


def test_the_regex_of_the_paper_moves_towers_and_their_scale_only():
    groups = tiny.config("paper").optim.groups
    made = tiny.model("paper", model__global_head="seq_transformer")
    names = nnx.to_pure_dict(nnx.state(made))
    factors = optim.group_factors(settings(groups=groups), names)
    slow = {name for name, factor in factors.items() if factor == 1e-3}
    assert {name.split("/")[0] for name in slow} == {"vision", "text", "logit_scale"}
    assert {name.split("/")[0] for name in set(factors) - slow} == {
        "tmn",
        "cmn",
        "head",
        "modular_logit_scale",
    }


def test_factors_scale_the_update_and_nothing_else():
    groups = (("blocks/.*", 0.5), (".*", 1.0))
    plain, _ = update(settings(), ones(), steps=3)
    scaled, _ = update(settings(groups=groups), ones(), steps=3)
    for name in NAMES:
        factor = 0.5 if name.startswith("blocks") else 1.0
        assert np.abs(plain[name]).min() > 0
        np.testing.assert_allclose(scaled[name], factor * plain[name], rtol=1e-5)


def test_frozen_groups_get_no_update_and_have_no_moments():
    groups = (("blocks/.*", 0.0), (".*", 1.0))
    updates, state = update(settings(groups=groups), ones(), steps=3)
    assert not any(updates[name].any() for name in NAMES if name.startswith("blocks"))
    assert updates["table"].any()
    moments = [leaf.shape for leaf in jax.tree.leaves(state) if leaf.ndim]
    assert moments == [(5, 3), (5, 3)]  # of the table alone
    everything = jax.tree.leaves(update(settings(), ones())[1])
    assert sorted(leaf.shape for leaf in everything if leaf.ndim) == sorted(
        2 * [leaf.shape for leaf in jax.tree.leaves(params()) if leaf.ndim]
    )


def test_matrices_and_tables_decay_and_nothing_else():
    zeros = jax.tree.map(jnp.zeros_like, params())
    cfg = settings(learning_rate=0.1, weight_decay=0.5, warmup_steps=0)
    updates, _ = update(cfg, zeros)
    for name in NAMES:
        old = optim.parameter_names(params())[name]
        decays = name in ("blocks/up/kernel", "table")
        np.testing.assert_allclose(updates[name], -0.1 * 0.5 * old * decays, rtol=1e-6)


def test_updates_are_those_of_adam_by_hand():
    cfg = settings(learning_rate=0.1, weight_decay=0.0, clip_norm=0.0, warmup_steps=0)
    cfg = dataclasses.replace(cfg, final_fraction=1.0)
    tree = {"w": jnp.array([1.0, 2.0])}
    optimizer = optim.make_optimizer(cfg, 10, tree)
    state, mean, square = optimizer.init(tree), 0.0, 0.0
    for step, grad in enumerate([np.array([1.0, -3.0]), np.array([0.5, 1.0])], start=1):
        updates, state = optimizer.update({"w": jnp.asarray(grad, jnp.float32)}, state, tree)
        mean, square = 0.9 * mean + 0.1 * grad, 0.98 * square + 0.02 * grad**2
        unbiased = mean / (1 - 0.9**step), square / (1 - 0.98**step)
        expected = -0.1 * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-6)
        np.testing.assert_allclose(updates["w"], expected, rtol=1e-4)


def test_scales_stay_in_the_range_of_clip():
    tree = {"logit_scale": jnp.float32(7.0), "modular_logit_scale": jnp.float32(-0.1)}
    other = {"vision": {"logit_scale": jnp.float32(9.0)}, "log_sharpness": jnp.float32(5.0)}
    found = optim.clamped_scales(tree | other)
    assert found == other | {"logit_scale": np.float32(np.log(100)), "modular_logit_scale": 0.0}
    assert optim.clamped_scales(other) == other  # where the scales are frozen, or absent


def test_clipping_goes_by_the_norm_of_trained_parameters(monkeypatch):
    # Gradients far under eps make Adam's step proportional to them, so that a clip shows.
    monkeypatch.setattr(optim, "EPS", 1e6)
    groups = (("blocks/.*", 0.0), (".*", 1.0))
    cfg = settings(groups=groups, clip_norm=1.0, warmup_steps=0, weight_decay=0.0)
    grads = ones()
    norm = 4.0  # of 15 ones in the table and 1 in the scale
    clipped, _ = update(cfg, grads)
    free, _ = update(dataclasses.replace(cfg, clip_norm=0.0), grads)
    np.testing.assert_allclose(clipped["table"] * norm, free["table"], rtol=1e-4)
    huge = dict(grads, blocks=jax.tree.map(lambda x: 1e6 * x, grads["blocks"]))
    again, _ = update(cfg, huge)
    np.testing.assert_allclose(again["table"], clipped["table"], rtol=1e-6)
    small = jax.tree.map(lambda x: 0.1 * x, grads)  # a norm of 0.4 is left as it is
    below, _ = update(cfg, small)
    np.testing.assert_allclose(below["table"], 0.1 * free["table"], rtol=1e-4)
