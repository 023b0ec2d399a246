"""The objective: every preset, against the method's formulas written as loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mova_jax.config.presets import OBJECTIVES
from mova_jax.losses.objective import objective
from mova_jax.typing import Batch
from tests import tiny
from tests.tiny import B, F

MASKED = {"text_mask_density", "video_mask_density"}
MODULAR = {"sfdm", "dfsm", "modular_scale"}
ALWAYS = {"contrast", "in_batch_r1", "scale"}
SOFTMAX_SCALE = 10.0
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
    assert {name for name, _ in mark.args[1]} == set(OBJECTIVES)


# -- the formulas (docs/method.md, 3 and 4), pair by pair


def cosine(v, s):
    """Cosine of two vectors; 0 if one of them is 0."""
    lengths = np.linalg.norm(v) * np.linalg.norm(s)
    return float(v @ s) / lengths if lengths else 0.0


def pooled(pairs, cfg):
    """The score of masked frames and their parts `(v, s)`, by the pool of the configuration."""
    if cfg.pool == "joint":
        return cosine(*(np.concatenate(side) for side in zip(*pairs, strict=True)))
    cosines = np.array([cosine(v, s) for v, s in pairs])
    weights = np.exp(SOFTMAX_SCALE * cosines) if cfg.pool == "softmax" else np.ones(len(pairs))
    return (weights * cosines).sum() / weights.sum()


def entropy(row, own, scale):
    """Cross-entropy of a row of scores whose right answer is `own`."""
    return np.log(np.exp(scale * np.array(row)).sum()) - scale * row[own]


def embedded(model, batch):
    """Embeddings of a batch and the masks `[f d]` of each pair, in float64."""

    @tiny.jit
    def run(model, batch):
        video = model.encode_video(batch.frames, batch.frame_mask)
        text = model.encode_text(batch.tokens, batch.token_mask)
        captions = model.prepare(text)
        over_captions = jax.vmap(model.masks, in_axes=(None, None, 0))
        over_videos = jax.vmap(over_captions, in_axes=(0, 0, None))
        pairs = over_videos(video.frames, video.frame_mask, captions)
        return video, text, pairs

    to64 = functools.partial(np.asarray, dtype=np.float64)
    video, text, masks = jax.tree.map(to64, run(model, batch))
    pairs = [[jax.tree.map(lambda x, b=b, c=c: x[b, c], masks) for c in range(B)] for b in range(B)]
    return video, text, pairs


def reference(model, batch, cfg):
    """Every term by loops over valid videos, captions and frames."""
    video, text, pairs = embedded(model, batch)
    rows = [b for b in range(B) if batch.example_mask[b]]
    valid = {b: [f for f in range(F) if batch.frame_mask[b, f]] for b in rows}
    scale, modular_scale = float(model.scale), float(model.modular_scale)
    # L_g
    cosines = [[cosine(video.pooled[b], text.pooled[c]) for c in rows] for b in rows]
    columns = np.array(cosines).T.tolist()
    contrast = [
        entropy(cosines[i], i, scale) + entropy(columns[i], i, scale) for i in range(len(rows))
    ]
    # L_tv
    frame = []
    for b in rows:
        for f in valid[b]:
            zv = video.frames[b, f]
            others = [pairs[b][b].part[g] for g in valid[b] if g != f]
            others += [pairs[c][c].part[f] for c in rows if c != b and f in valid[c]]
            over = [max(0.0, cosine(zv, s) - cfg.margin) for s in others]
            cost = 1 - cosine(zv, pairs[b][b].part[f])
            frame.append(cost + (np.mean(over) if over else 0.0))
    # Modular scores: under masks of each pair, and under a caption's own masks.
    pair, own = np.zeros((2, len(rows), len(rows)))
    for i, b in enumerate(rows):
        for j, c in enumerate(rows):
            both = [f for f in valid[b] if f in valid[c]]
            for scores, m, used in ((pair, pairs[b][c], valid[b]), (own, pairs[c][c], both)):
                masked = [(video.frames[b, f] * m.video[f], m.part[f]) for f in used]
                scores[i, j] = pooled(masked, cfg)
    by_video = pair if cfg.dfsm_masks == "pair" else own
    sfdm = [entropy(pair[i], i, modular_scale) for i in range(len(rows))]
    dfsm = [entropy(by_video[:, i], i, modular_scale) for i in range(len(rows))]
    text_open = [pairs[b][b].text_mask_density[f] for b in rows for f in valid[b]]
    video_open = [pairs[b][b].video[f].mean() for b in rows for f in valid[b]]
    return {
        "contrast": np.mean(contrast) / 2,
        "frame": np.mean(frame),
        "sfdm": np.mean(sfdm),
        "dfsm": np.mean(dfsm),
        "sparsity": np.mean(text_open) + np.mean(video_open),
        "text_mask_density": np.mean(text_open),
        "video_mask_density": np.mean(video_open),
        "in_batch_r1": np.mean(np.argmax(cosines, axis=0) == np.arange(len(rows))),
        "scale": scale,
        "modular_scale": modular_scale,
    }


@pytest.mark.parametrize(
    "options",
    [
        {"losses__pool": "softmax"},
        {"model__tmn__layout": "tokens", "losses__pool": "joint", "losses__dfsm_masks": "own"},
        {"model__tmn__layout": "cross", "losses__pool": "mean", "model__masks__kind": "soft"},
    ],
    ids=["select-softmax", "tokens-joint-own", "cross-mean-soft"],
)
def test_full_objective_equals_the_loops(options):
    model, cfg = tiny.model(**options), tiny.config(**options).losses
    assert (cfg.frame_form, cfg.frame_negatives) == ("hinge", "same_index")
    arrays = tiny.batch_arrays()
    arrays["frame_mask"][2] = False  # one padded example
    batch = Batch(**{name: jnp.asarray(x) for name, x in arrays.items()})
    loss, metrics = value_of(model, batch, cfg)
    expected = reference(model, batch, cfg)
    assert set(metrics) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    weights = {t: getattr(cfg, t) for t in ("contrast", "frame", "sfdm", "dfsm", "sparsity")}
    total = sum(weight * expected[term] for term, weight in weights.items())
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
