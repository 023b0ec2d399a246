"""The table of terms: what is in it is in the loss, the metrics, the report and the FLOPs."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mova_jax.config.schema import KEYS, weights
from mova_jax.cost.flops import model_flops
from mova_jax.losses import terms
from mova_jax.losses.contrast import masked_term
from mova_jax.losses.objective import objective
from mova_jax.losses.terms import TERMS, TermSpec, active_terms, mask_densities
from mova_jax.parallel import collectives, sharding
from mova_jax.parallel import mesh as mesh_lib
from mova_jax.report.panels import loss_panels
from mova_jax.report.run_metrics import RunMetrics
from mova_jax.typing import ConceptMasks
from tests import tiny
from tests.tiny import B, D, F

FRAME_MASK = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]], dtype=bool)


def test_each_weight_in_the_schema_is_a_term_that_needs_the_same():
    assert [f"losses.{name}" for name in TERMS] == list(weights())
    assert {f"losses.{name}": spec.needs for name, spec in TERMS.items()} == {
        name: KEYS[name].needs for name in weights()
    }


@pytest.mark.parametrize("objective", ["full", "global_only", "frame_weighting", "cmn_only"])
def test_terms_that_a_model_lacks_are_left_out(monkeypatch, objective):
    cfg = tiny.config(objective)
    for name in ("masks", "masks_or_parts", "modular_scale"):
        monkeypatch.setitem(TERMS, f"by_{name}", TermSpec(None, "", needs=name, weight=1.0))
    masks, scale = {"by_masks", "by_masks_or_parts"}, {"by_modular_scale"}
    absent = {"global_only": masks | scale, "frame_weighting": masks}.get(objective, set())
    for divided, there in ((False, set()), (True, {"by_masks_or_parts"})):
        names = active_terms(cfg.losses, cfg.model, divided)
        added = {name for name in names if name.startswith("by_")}
        assert added == (masks | scale) - absent | there


# -- a term from outside, through the table alone


def part_lengths(context) -> dict[str, terms.Term]:
    """Squared lengths of the parts, and the mean of all pairs' logsumexp: reads shared results."""
    lengths = jnp.square(context.masks.part).mean(-1)
    logsumexp = context.pair_logits.over_captions
    return {
        "part_length": masked_term(lengths, context.frame_mask),
        "logsumexp": masked_term(logsumexp, context.example_mask),
    }


LENGTHS = TermSpec(
    part_lengths,
    "length of the parts",
    needs="masks",
    weight=0.5,
    scores_pairs=lambda cfg: True,
    products=lambda cfg, b, f, d, p: [(b, f, d)],
)


def loss_and_gradient(devices: int, **options):
    mesh, cfg = mesh_lib.make_mesh(data=devices), tiny.config(**options).losses
    group = collectives.replica_group(mesh)

    def loss_of(model, batch):
        return objective(model, batch, cfg, group)

    batch = sharding.put_batch(mesh, tiny.batch_arrays())
    model = jax.device_put(tiny.model(**options), sharding.replicated(mesh))
    return tiny.jit(jax.value_and_grad(loss_of, has_aux=True))(model, batch)


@pytest.mark.parametrize("devices", [1, 4])
def test_a_term_in_the_table_is_in_the_loss_its_gradient_and_the_metrics(monkeypatch, devices):
    (loss, metrics), gradient = loss_and_gradient(devices)
    monkeypatch.setitem(TERMS, "lengths", LENGTHS)
    (with_term, more), gradient_with_term = loss_and_gradient(devices)
    assert set(more) - set(metrics) == {"lengths", "part_length", "logsumexp"}
    assert more["lengths"] == more["part_length"] + more["logsumexp"] and more["part_length"] > 0
    np.testing.assert_allclose(with_term, loss + 0.5 * more["lengths"], rtol=1e-6)
    # The term alone: what it adds to the gradient is half of its own.
    alone = dict.fromkeys((f"losses__{name}" for name in TERMS if name != "lengths"), 0.0)
    (half, others), half_gradient = loss_and_gradient(devices, **alone)
    np.testing.assert_allclose(half, 0.5 * more["lengths"], rtol=1e-6)
    assert "contrast" not in others and "in_batch_r1" in others
    added = jax.tree.map(jnp.subtract, gradient_with_term, gradient)
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient_with_term))
    for got, expected in zip(*map(jax.tree.leaves, (added, half_gradient)), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * scale)
    assert np.abs(half_gradient.text.projection.kernel[...]).max() > 1e-3


def test_a_term_in_the_table_is_in_the_flops(monkeypatch):
    cfg = tiny.config("no_sfdm", losses__dfsm=0.0)
    before = model_flops(cfg, tiny.L)
    monkeypatch.setitem(TERMS, "lengths", LENGTHS)
    after = model_flops(cfg, tiny.L)
    assert after["modular_losses"].forward - before["modular_losses"].forward == 2 * B * F * D
    assert after["tmn"].forward > before["tmn"].forward  # it scores all pairs


def test_a_term_in_the_table_is_in_the_report(monkeypatch):
    metrics = RunMetrics({"train/lengths": {10: 0.7}, "train/part_length": {10: 0.3}})
    assert loss_panels(metrics) == []
    monkeypatch.setitem(TERMS, "lengths", LENGTHS)
    assert [panel.title for panel in loss_panels(metrics)] == ["length of the parts"]


# -- sparsity


def densities(masks):
    context = types.SimpleNamespace(masks=masks, frame_mask=jnp.asarray(FRAME_MASK))
    return tuple(mask_densities(context).values())


def test_sparsity_is_the_open_share_of_valid_frames():
    video = jnp.array([[[1.0, 0, 0, 1], [1, 1, 1, 1]], [[0, 0, 0, 1], [9, 9, 9, 9]]])
    text_mask_density = jnp.array([[0.1, 0.2], [0.3, 9]])
    frame_mask = jnp.array([[True, True], [True, False]])
    # Neither the text mask nor the part is read: `tokens` has a mask over tokens, not over d.
    masks = ConceptMasks(text=None, video=video, part=None, text_mask_density=text_mask_density)
    found = mask_densities(types.SimpleNamespace(masks=masks, frame_mask=frame_mask))
    text, video = found["text_mask_density"], found["video_mask_density"]
    np.testing.assert_allclose((*text, text.mean), (0.6, 3.0, 0.2), rtol=1e-6)
    np.testing.assert_allclose(tuple(video), (0.5 + 1 + 0.25, 3.0), rtol=1e-6)


def test_sparsity_passes_its_share_to_valid_frames_and_nothing_to_padding():
    rng = np.random.default_rng(0)
    video = rng.normal(size=(B, F, D)).astype(np.float32)
    video[1] = np.nan  # video 1 has no valid frame
    density = rng.normal(size=(B, F)).astype(np.float32)
    masks = ConceptMasks(text=None, video=video, part=None, text_mask_density=density)

    def total(masks):
        text, video = densities(masks)
        return text.sum + 2 * video.sum

    gradient = jax.grad(total)(jax.tree.map(jnp.asarray, masks))
    np.testing.assert_array_equal(gradient.text_mask_density, FRAME_MASK.astype(np.float32))
    share = np.broadcast_to(FRAME_MASK[..., None], (B, F, D)) * np.float32(2 / D)
    np.testing.assert_array_equal(gradient.video, share)
    text, _ = densities(jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), masks))
    assert text.sum.dtype == text.count.dtype == jnp.float32
