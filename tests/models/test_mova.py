"""The whole model: masks pair by pair, dtypes, remat, and no influence of padding."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mova_jax.models import layers
from mova_jax.models.masks import straight_through
from mova_jax.models.mova import count_parameters
from tests import tiny
from tests.tiny import B, D, F, L, W

LAYOUTS = ["select", "cross", "joint", "tokens", "none"]


@tiny.jit
def embed(model, batch):
    """Video and text embeddings, prepared captions, masks of matching pairs."""
    video = model.encode_video(batch.frames, batch.frame_mask)
    text = model.encode_text(batch.tokens, batch.token_mask)
    captions = model.prepare(text)
    return video, text, captions, model.own_masks(video, captions)


@tiny.jit
def one_pair(model, video, captions, b, c):
    caption = jax.tree.map(lambda leaf: leaf[c], captions)
    return model.masks(video.frames[b], video.frame_mask[b], caption)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_own_masks_are_the_masks_of_each_pair(layout):
    model = tiny.model(model__tmn__layout=layout)
    batch = tiny.batch()
    video, text, captions, own = embed(model, batch)
    assert video.frames.shape == (B, F, D) and text.tokens.shape == (B, L, W)
    assert own.part.shape == own.video.shape == (B, F, D) and own.text_mask_density.shape == (B, F)
    for b in range(B):
        masks = one_pair(model, video, captions, b, b)
        jax.tree.map(
            lambda one, all_of_them, b=b: np.testing.assert_allclose(
                one, all_of_them[b], rtol=1e-4, atol=1e-5
            ),
            masks,
            own,
        )
    assert set(np.unique(own.video)) <= {0.0, 1.0}
    if layout == "tokens":
        return
    np.testing.assert_allclose(own.part, text.pooled[:, None] * own.text, rtol=1e-6)
    np.testing.assert_allclose(own.text_mask_density, np.mean(own.text, axis=-1), rtol=1e-6)
    assert (np.unique(own.text).tolist() == [1.0]) == (layout == "none")


def test_in_the_tokens_layout_a_part_is_the_mean_of_the_selected_tokens():
    model = tiny.model(model__tmn__layout="tokens")
    batch = tiny.batch()
    video, text, captions, own = embed(model, batch)
    projection = np.asarray(model.text.projection.kernel[...])
    for b in range(B):
        logits = model.tmn(
            video.frames[b], video.frame_mask[b], captions.temporal[b], batch.token_mask[b]
        )
        selected = np.asarray(straight_through(logits, 1.0)) * np.asarray(batch.token_mask[b])
        projected = np.asarray(text.tokens[b]) @ projection
        for f in range(F):
            mean = projected[selected[f] == 1].mean(0) if selected[f].any() else np.zeros(D)
            np.testing.assert_allclose(own.part[b, f], mean, rtol=1e-4, atol=1e-5)
            share = selected[f].sum() / int(batch.token_mask[b].sum())
            np.testing.assert_allclose(own.text_mask_density[b, f], share, rtol=1e-6)
    assert 0 < np.mean(own.text_mask_density) < 1  # some tokens are selected, not all


def test_in_the_tokens_layout_soft_masks_weigh_the_mean_however_small_they_are():
    closed = {"model__masks__kind": "soft", "model__masks__init_bias": -8.0}
    model = tiny.model(model__tmn__layout="tokens", **closed)
    batch = tiny.batch()
    video, text, captions, own = embed(model, batch)
    small = []
    for b in range(B):
        logits = model.tmn(
            video.frames[b], video.frame_mask[b], captions.temporal[b], batch.token_mask[b]
        )
        weights = np.where(batch.token_mask[b], 1 / (1 + np.exp(-np.asarray(logits, "f8"))), 0)
        small.append(weights.sum(-1).min())
        projected = np.asarray(text.tokens[b]) @ np.asarray(model.text.projection.kernel[...])
        mean = weights @ projected / weights.sum(-1, keepdims=True)
        np.testing.assert_allclose(own.part[b], mean, rtol=1e-3, atol=1e-4)
    assert 1e-4 < min(small) < 0.5  # the masks of all tokens together are below 1


def test_networks_that_the_config_leaves_out_have_no_parameters():
    full, weighting = tiny.model(), tiny.model("frame_weighting")
    assert full.has_masks and not weighting.has_masks
    assert tiny.model("cmn_only").has_masks
    bare = tiny.model("global_only")
    assert count_parameters(weighting) == count_parameters(bare) + 1  # the modular scale
    assert not hasattr(bare, "modular_logit_scale")


@pytest.mark.parametrize("start", [14.3, 100.0, 250.0])
def test_scales_are_capped_and_keep_their_gradient(start):
    model = tiny.model()
    for name in ("logit_scale", "modular_logit_scale"):
        getattr(model, name)[...] = jnp.log(jnp.float32(start))

    def scales(model):
        return jnp.stack([model.scale, model.modular_scale])

    np.testing.assert_allclose(scales(model), min(start, 100.0), rtol=1e-5)
    assert (scales(model) <= 100.0).all()
    gradient = nnx.grad(lambda model: scales(model).sum())(model)
    np.testing.assert_allclose(gradient.logit_scale[...], start, rtol=1e-5)
    np.testing.assert_allclose(gradient.modular_logit_scale[...], start, rtol=1e-5)


def everything(model, batch):
    """A scalar that depends on all valid outputs."""
    video = model.encode_video(batch.frames, batch.frame_mask)
    text = model.encode_text(batch.tokens, batch.token_mask)
    masks = model.own_masks(video, model.prepare(text))
    valid = batch.frame_mask[..., None]
    parts = jnp.where(valid, masks.part * masks.video + video.frames, 0.0)
    return jnp.square(parts).sum() + jnp.square(video.pooled - layers.normalise(text.pooled)).sum()


loss_and_gradient = tiny.jit(jax.value_and_grad(everything))


def test_remat_changes_nothing():
    kinds = ("none", "dots", "full")
    results = [loss_and_gradient(tiny.model(model__remat=kind), tiny.batch()) for kind in kinds]
    value, gradient = results[0]
    for again, other in results[1:]:
        np.testing.assert_allclose(again, value, rtol=1e-6)
        for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("head", ["mean", "seq_transformer"])
def test_bfloat16_is_near_float32_and_only_token_states_stay_bfloat16(head):
    options = {"model__global_head": head, "model__masks__kind": "soft"}
    exact = embed(tiny.model(**options), tiny.batch())
    half = embed(tiny.model(model__dtype="bfloat16", **options), tiny.batch())
    # Only mask networks, which are bfloat16 too, read the token states, the largest output.
    assert half[1].tokens.dtype == jnp.bfloat16
    half = *half[:1], dataclasses.replace(half[1], tokens=half[1].tokens.astype("f4")), *half[2:]
    for ours, theirs in ((exact[0], half[0]), (exact[1], half[1]), (exact[3], half[3])):
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            assert b.dtype == a.dtype
            error = np.abs(np.asarray(b, np.float32) - np.asarray(a, np.float32))
            assert error.mean() <= 0.02 * np.abs(a).max()


@pytest.mark.parametrize("layout", ["select", "joint"])
def test_padded_rows_frames_and_tokens_have_no_influence(layout):
    model = tiny.model(model__tmn__layout=layout, model__global_head="seq_transformer")
    arrays = tiny.batch_arrays()
    arrays["frame_mask"][-1] = False
    arrays["token_mask"][-1] = False
    other = {name: array.copy() for name, array in arrays.items()}
    other["frames"][~arrays["frame_mask"]] = 255
    other["tokens"][~arrays["token_mask"]] = 3
    batches = [tiny.Batch(**x) for x in (arrays, other)]
    (value, gradient), (same, again) = (loss_and_gradient(model, batch) for batch in batches)
    np.testing.assert_allclose(same, value, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)
        assert np.isfinite(b).all()
    video, text, _, masks = embed(model, batches[1])
    assert not video.frames[~arrays["frame_mask"]].any()
    assert not text.tokens[~arrays["token_mask"]].any()
    assert not video.pooled[-1].any() and np.isfinite(masks.part).all()
    # The other rows equal those of a batch without the padded row.
    short, *_ = embed(model, tiny.Batch(**{name: x[:-1] for name, x in arrays.items()}))
    np.testing.assert_allclose(short.pooled, video.pooled[:-1], rtol=1e-5, atol=1e-6)
