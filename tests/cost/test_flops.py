"""The formula of the method, by hand and against the FLOPs in the step's jaxpr."""

import jax
import pytest

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


@pytest.mark.parametrize("objective", ["parts", "part_masks"])
def test_the_frame_contrast_of_divided_captions_is_what_the_step_computes(objective):
    changes = {"losses__hard_pairs": 2} if objective == "part_masks" else {}
    parts, needed, counted = (tiny.P, tiny.T), [], []
    for weight in (0.0, 0.5):
        cfg = tiny.config(objective, losses__frame=weight, data__parts=tiny.P, **changes)
        flops_of = flops.model_flops(cfg, cfg.model.text.context, parts=parts)
        needed.append(flops_of["modular_losses"].total)
        counted.append(both(cfg)[1].flops["modular_losses"])
    assert counted[1] - counted[0] == pytest.approx(needed[1] - needed[0], rel=1e-6) and needed[1]
