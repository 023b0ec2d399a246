"""The objective: every preset, and whole batches against the dense form."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mova_jax.config.presets import OBJECTIVES
from mova_jax.losses.objective import objective
from mova_jax.typing import Batch
from tests import tiny
from tests.losses import dense
from tests.tiny import B

MASKED = {"text_mask_density", "video_mask_density"}
MODULAR = {"sfdm", "dfsm", "modular_scale"}
ALWAYS = {"contrast", "in_batch_r1", "scale"}
EVERYTHING = ALWAYS | MODULAR | MASKED | {"frame", "sparsity"}


@functools.partial(tiny.jit, static_argnums=2)
def value_of(model, batch, cfg):
    """The loss and the metrics."""
    return objective(model, batch, cfg)


@functools.partial(tiny.jit, static_argnums=2)
def gradient_of(model, batch, cfg):
    """The loss, the metrics, and the gradient of the loss."""
    return jax.value_and_grad(objective, has_aux=True)(model, batch, cfg)


# -- presets


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("full", EVERYTHING),
        ("global_only", ALWAYS),
        ("clip4clip", ALWAYS),
        ("frame_weighting", ALWAYS | MODULAR),
        ("cmn_only", EVERYTHING - {"frame"}),
        ("token_mask", EVERYTHING),
        ("no_dfsm", EVERYTHING - {"dfsm"}),
        ("no_sfdm", EVERYTHING - {"sfdm"}),
        ("no_tv", EVERYTHING - {"frame"}),
        ("soft_masks", EVERYTHING),
        ("paper", EVERYTHING),
    ],
)
def test_presets_are_the_weighted_sum_of_the_terms_they_name(name, expected):
    cfg = tiny.config(name)
    loss, metrics = value_of(tiny.model(name), tiny.batch(), cfg.losses)
    assert set(metrics) == expected
    assert all(np.isfinite(value) for value in metrics.values())
    weights = {t: getattr(cfg.losses, t) for t in ("contrast", "frame", "sfdm", "dfsm", "sparsity")}
    total = sum(weight * metrics[term] for term, weight in weights.items() if term in metrics)
    np.testing.assert_allclose(loss, total, rtol=1e-5)
    assert loss > 0 and {t for t, w in weights.items() if w} <= set(metrics)


def test_every_preset_is_tested():
    [mark] = test_presets_are_the_weighted_sum_of_the_terms_they_name.pytestmark
    divided = {name for name in OBJECTIVES if name.startswith("part")}  # test_part_scores.py
    assert {name for name, _ in mark.args[1]} == set(OBJECTIVES) - divided


# -- the formulas (docs/method.md, 3 and 4)


@functools.partial(tiny.jit, static_argnums=2)
def reference(model, batch, cfg, rows):
    """The loss, its terms and what is watched, from all pairs of the valid rows at once."""
    video = model.encode_video(batch.frames, batch.frame_mask)
    text = model.encode_text(batch.tokens, batch.token_mask)
    loss, found = dense.objective(model, video, text, cfg, rows)
    cosines = dense.cosine(video.pooled[rows][:, None], text.pooled[rows][None])
    found["in_batch_r1"] = (cosines.argmax(0) == jnp.arange(len(rows))).mean()
    return loss, found | {"scale": model.scale, "modular_scale": model.modular_scale}


@pytest.mark.parametrize(
    "options",
    [
        {"losses__pool": "softmax"},
        {"model__tmn__layout": "tokens", "losses__pool": "joint", "losses__dfsm_masks": "own"},
        {"model__tmn__layout": "cross", "losses__pool": "mean", "model__masks__kind": "soft"},
    ],
    ids=["select-softmax", "tokens-joint-own", "cross-mean-soft"],
)
def test_full_objective_equals_the_dense_form(options):
    model, cfg = tiny.model(**options), tiny.config(**options).losses
    assert cfg.frame_negatives == "same_index"
    arrays = tiny.batch_arrays()
    arrays["frame_mask"][2] = False  # one padded example
    batch = Batch(**{name: jnp.asarray(x) for name, x in arrays.items()})
    loss, metrics = value_of(model, batch, cfg)
    rows = np.flatnonzero(batch.example_mask)
    total, expected = reference(model, batch, cfg, rows)
    densities = [metrics.pop(name) for name in sorted(MASKED)]
    np.testing.assert_allclose(sum(densities), expected["sparsity"], rtol=1e-4)
    assert set(metrics) == set(expected) and len(rows) == B - 1
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(loss, total, rtol=1e-4)


# -- invariances


def padded(b, rows):
    """A batch of `b` rows, and the same batch followed by padded rows that hold garbage."""
    short = tiny.batch_arrays(b)
    long = tiny.batch_arrays(rows, seed=1)
    for name, array in short.items():
        long[name][:b] = array
    long["frame_mask"][b:] = False
    long["token_mask"][b:] = False
    long["video_id"][b:] = -1
    return [Batch(**{name: jnp.asarray(x) for name, x in a.items()}) for a in (short, long)]


def test_padded_examples_change_neither_loss_nor_gradient():
    cfg = tiny.config().losses
    short, long = (gradient_of(tiny.model(), batch, cfg) for batch in padded(3, 5))
    tiny.assert_near(long, short)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(long))


def test_padded_examples_are_no_hard_pairs():
    cfg = tiny.config(losses__hard_pairs=2, losses__dfsm_masks="own").losses
    short, long = (value_of(tiny.model(), batch, cfg) for batch in padded(3, 5))
    tiny.assert_near(long, short)


def test_hard_pairs_are_the_hardest_and_all_of_them_are_all():
    options = [{"losses__dfsm_masks": "own", "losses__hard_pairs": k} for k in (0, B - 1, 1)]
    whole, same, hardest = (
        value_of(tiny.model(), tiny.batch(), tiny.config(**o).losses) for o in options
    )
    tiny.assert_near(same, whole)
    assert hardest[1]["sfdm"] < whole[1]["sfdm"]  # fewer wrong captions to be confused with


# -- annealed masks


@functools.partial(tiny.jit, static_argnums=2)
def annealed_gradient(model, batch, cfg, hardness):
    """`gradient_of` at a step of training."""
    return jax.value_and_grad(objective, has_aux=True)(model, batch, cfg, None, hardness)


@pytest.mark.parametrize("name", ["full", "part_concepts", "part_masks"])
def test_annealed_masks_begin_as_soft_ones_and_end_as_hard_ones(name):
    changes = {"losses__frame": 0.5}
    changes |= (
        {"losses__hard_pairs": 2, "losses__dfsm_masks": "none"} if name == "part_masks" else {}
    )
    cfg, batch = tiny.config(name, **changes).losses, tiny.batch(parts=name != "full")
    kinds = ("soft", "hard", "annealed")
    soft, hard, annealed = (tiny.model(name, model__masks__kind=k, **changes) for k in kinds)
    found = [annealed_gradient(annealed, batch, cfg, a) for a in (0.0, 1.0, 0.5)]
    expected = [gradient_of(model, batch, cfg) for model in (soft, hard)]
    tiny.assert_near(found[:2], expected, 1e-6)
    losses = [float(loss) for (loss, _), _ in found]
    assert len(set(losses)) == 3
    # An evaluation, which does not know the step, has hard masks.
    np.testing.assert_array_equal(value_of(annealed, batch, cfg)[0], value_of(hard, batch, cfg)[0])
