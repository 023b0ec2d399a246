"""Scores of divided captions, against plain loops over videos, captions, parts and frames."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mova_jax.config.presets import OBJECTIVES
from mova_jax.losses import ring
from mova_jax.losses.objective import objective
from mova_jax.losses.scores import matched_scores, pair_scores, search_scoring
from mova_jax.parallel import collectives, sharding
from mova_jax.parallel import mesh as mesh_lib
from tests import tiny

FORMS = [name for name in OBJECTIVES if name.startswith("part") and "ordered" not in name]
POOL = "logmeanexp"
HARD = {"losses__hard_pairs": 3}  # fewer than a tiny batch has captions; of `part_masks`


def embedded(form):
    model = tiny.model(form, **(HARD if form == "part_masks" else {}))
    batch = tiny.batch(parts=True)
    texts = batch.tokens, batch.token_mask, batch.part_tokens, batch.part_token_mask
    return model, model.encode_video(batch.frames, batch.frame_mask), model.encode_text(*texts)


def loop(model, video, text):
    """`[b c]`, one cosine at a time in NumPy; the masks come from the model."""
    captions = model.prepare(text)
    scores = np.zeros((len(video.frames), len(text.pooled)))
    for b, c in np.ndindex(scores.shape):
        caption = jax.tree.map(lambda leaf, c=c: leaf[c], captions)
        found = []
        for p in np.flatnonzero(np.asarray(text.parts.token_mask[c].any(-1))):
            part = jax.tree.map(lambda leaf, p=p: leaf[p], caption)
            masks = model.masks(video.frames[b], video.frame_mask[b], part)
            cosines = []
            for f in np.flatnonzero(np.asarray(video.frame_mask[b])):
                v = np.asarray(video.frames[b, f] * masks.video[f], np.float64)
                t = np.asarray(masks.part[f], np.float64)
                lengths = np.linalg.norm(v) * np.linalg.norm(t)
                cosines.append(v @ t / lengths if lengths else 0.0)
            s = float(model.sharpness) * np.log1p(len(cosines)) / np.log(33)
            found.append(np.log(np.mean(np.exp(s * np.array(cosines)))) / s)
        scores[b, c] = np.mean(found)
    return scores


@pytest.mark.parametrize("form", FORMS)
def test_pair_scores_equal_a_plain_loop(form):
    model, video, text = embedded(form)
    expected = loop(model, video, text)
    captions = model.prepare(text)
    got = pair_scores(model, video, captions, pool=POOL)
    np.testing.assert_allclose(got, expected, atol=2e-5)
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(
        matched_scores(model, video, captions, pool=POOL), np.diagonal(expected), atol=2e-5
    )


def test_the_order_goes_with_its_pool_alone():
    for pool, order in (("training", 0.5), ("logmeanexp", 0.5), ("max", 0.0)):
        cfg = tiny.config("parts_ordered", eval__pool=pool)
        assert search_scoring(cfg.losses, cfg.eval).order == order


def test_one_part_is_a_caption():
    model, video, text = embedded("parts")
    one = dataclasses.replace(
        text, parts=jax.tree.map(lambda leaf: leaf[:, None], dataclasses.replace(text, parts=None))
    )
    whole = dataclasses.replace(text, parts=None)
    for pool in ("aligned", "softmax", "logmeanexp", "max", "mean", "joint"):
        divided, undivided = (
            pair_scores(model, video, model.prepare(t), pool=pool) for t in (one, whole)
        )
        np.testing.assert_allclose(divided, undivided, rtol=1e-5, atol=1e-6)


def test_parts_are_texts_of_their_own():
    model, _, text = embedded("parts")
    batch = tiny.batch(parts=True)
    alone = model.encode_text(batch.part_tokens[:, 0], batch.part_token_mask[:, 0])
    np.testing.assert_allclose(text.parts.pooled[:, 0], alone.pooled, atol=1e-5)


@pytest.mark.parametrize("form", [*FORMS, "parts_ordered"])
def test_padded_parts_change_no_value_and_no_gradient(form):
    model, video, text = embedded(form)
    order = 0.5 * ("ordered" in form)
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(tiny.B, tiny.B)))

    def total(pooled, tokens):
        parts = dataclasses.replace(text.parts, pooled=pooled, tokens=tokens)
        captions = model.prepare(dataclasses.replace(text, parts=parts))
        return (weights * pair_scores(model, video, captions, pool=POOL, order=order)).sum()

    padded = ~text.parts.token_mask.any(-1)[..., None]
    clean = text.parts.pooled, text.parts.tokens
    dirty = jnp.where(padded, 7.0, clean[0]), jnp.where(padded[..., None], 7.0, clean[1])
    values, gradients = zip(
        *(jax.value_and_grad(total, (0, 1))(*arrays) for arrays in (clean, dirty)), strict=True
    )
    np.testing.assert_allclose(*values, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *gradients)
    assert not np.where(padded, gradients[1][0], 0).any()


def loss_and_gradient(form, devices, **changes):
    cfg = tiny.config(form, **changes).losses
    mesh = mesh_lib.make_mesh(data=devices)
    group = collectives.replica_group(mesh)
    arrays = tiny.batch_arrays(8) | tiny.part_arrays(8)
    arrays["frame_mask"][5] = arrays["token_mask"][5] = arrays["part_token_mask"][5] = False

    def loss(model, batch):
        return objective(model, batch, cfg, group)

    model = jax.device_put(tiny.model(form, **changes), sharding.replicated(mesh))
    program = tiny.jit(jax.value_and_grad(loss, has_aux=True))
    return program(model, sharding.put_batch(mesh, arrays))


@pytest.mark.parametrize(
    ("form", "devices"), [("parts_ordered", 8), ("part_concepts", 2), ("part_masks", 8)]
)
def test_sharded_is_unsharded(form, devices, monkeypatch):
    # Soft masks, for a rounding error can flip a hard one.
    changes = {"model__masks__kind": "soft"}
    changes |= HARD if form == "part_masks" else {}
    expected = loss_and_gradient(form, 1, **changes)
    monkeypatch.setattr(ring, "TILE_FLOATS", 3 * 8 * tiny.F * tiny.P)  # of three pairs
    tiny.assert_near(loss_and_gradient(form, devices, **changes), expected, 3e-5)


def test_dfsm_without_masks_is_that_of_open_masks():
    changes = {"losses__hard_pairs": 0, "losses__sfdm": 0.0, "model__masks__init_bias": 50.0}
    terms = [
        objective(
            tiny.model("part_masks", **changes),
            tiny.batch(parts=True),
            tiny.config("part_masks", losses__dfsm_masks=masks, **changes).losses,
        )[1]["dfsm"]
        for masks in ("none", "pair")
    ]
    np.testing.assert_allclose(*terms, rtol=1e-5)
