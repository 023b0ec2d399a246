"""A dense reference of the objective: all pairs at once, by the formulas of docs/method.md.

It is differentiable, so that gradients can be compared, and uses the model but no code of
`mova_jax/losses`. The caller says which rows are valid; the others are never read.
"""

import jax
import jax.numpy as jnp
import numpy as np

SOFTMAX_SCALE = 10.0


def cosine(v, s):
    """Over the last axis; 0 where one of the vectors is 0."""
    empty = (jnp.abs(v).max(-1) < 1e-6) | (jnp.abs(s).max(-1) < 1e-6)
    v, s = (jnp.where(empty[..., None], 1.0, x) for x in (v, s))
    lengths = jnp.linalg.norm(v, axis=-1) * jnp.linalg.norm(s, axis=-1)
    return jnp.where(empty, 0.0, (v * s).sum(-1) / lengths)


def pooled(v, s, zv, valid, cfg):
    """Scores `[b c]` of masked frames and parts `[b c f d]` over the frames `valid[b c f]`."""
    keep = valid[..., None]
    v, s = jnp.where(keep, v, 0.0), jnp.where(keep, s, 0.0)
    if cfg.pool == "joint":
        return cosine(*(x.reshape(*x.shape[:2], -1) for x in (v, s)))
    number = jnp.maximum(valid.sum(-1), 1)
    if cfg.pool == "aligned":
        lengths = jnp.linalg.norm(jnp.where(keep, zv[:, None], 1.0), axis=-1, keepdims=True)
        unit = jnp.where(keep, zv[:, None] / lengths, 0.0)
        dots = (v / lengths * s).sum((-1, -2))
        total, power = jnp.square(unit.sum(-2)).sum(-1), jnp.square(s).sum((-1, -2)) / number
        there = (total > 1e-9) & (power > 1e-9)
        return jnp.where(there, dots / jnp.sqrt(jnp.where(there, total * power, 1.0)), 0.0)
    cosines = cosine(v, s)
    if cfg.pool == "mean":
        return cosines.sum(-1) / number
    weights = jnp.where(valid, jnp.exp(SOFTMAX_SCALE * cosines), 0.0)
    return (weights * cosines).sum(-1) / jnp.maximum(weights.sum(-1), 1e-30)


def entropy(logits, axis, wrong):
    """Mean cross-entropy over the rows (axis 1) or columns (axis 0) of a square of logits."""
    counted = wrong | np.eye(len(logits), dtype=bool)
    return -jnp.diagonal(jax.nn.log_softmax(jnp.where(counted, logits, -1e9), axis)).mean()


def frame_loss(zv, part, valid, cfg, wrong):
    """L_tv from all cosines `[b f c g]`."""
    b, f = valid.shape
    c = cosine(zv[:, :, None, None], part[None, None])
    same_video = np.eye(b, dtype=bool)[:, None, :, None]
    same_index = np.eye(f, dtype=bool)[None, :, None, :]
    other_row = wrong[:, None, :, None]
    negative = (other_row | same_video & ~same_index) & valid[None, None]
    if cfg.frame_negatives == "same_index":
        negative = negative & (same_video | same_index)
    positive = cosine(zv, part)
    over = jnp.where(negative, jnp.maximum(c - cfg.margin, 0.0), 0.0).sum((2, 3))
    cost = 1 - positive + over / jnp.maximum(negative.sum((2, 3)), 1)
    return jnp.where(valid, cost, 0.0).sum() / valid.sum()


def objective(model, video, text, cfg, rows, alike=()):
    """The loss and its terms by name.

    Args:
        model: a Mova; its mask networks and its scales are used.
        video: embeddings of the videos.
        text: embeddings of the captions.
        cfg: `config.losses`.
        rows: indices of the valid examples, the only ones that are read.
        alike: pairs of rows that are no negatives of each other.
    """
    wrong = ~np.eye(len(video.frames), dtype=bool)
    for a, b in alike:
        wrong[a, b] = wrong[b, a] = False
    wrong = jnp.asarray(wrong)[rows][:, rows]
    video, text = jax.tree.map(lambda x: x[rows], (video, text))
    valid = video.frame_mask
    unit = text.pooled / jnp.linalg.norm(text.pooled, axis=-1, keepdims=True)
    scores = video.pooled @ unit.T
    logits = model.scale * scores
    found = {"contrast": (entropy(logits, 0, wrong) + entropy(logits, 1, wrong)) / 2}
    zv = video.frames
    if model.has_masks:
        captions = model.prepare(text)
        all_captions = jax.vmap(model.masks, in_axes=(None, None, 0))
        masks = jax.vmap(all_captions, in_axes=(0, 0, None))(zv, valid, captions)
        part, of_video = masks.part, masks.video
        own = jnp.arange(len(rows))
        found["frame"] = frame_loss(zv, part[own, own], valid, cfg, wrong)
        densities = masks.text_mask_density[own, own], of_video[own, own].mean(-1)
        found["sparsity"] = sum(jnp.where(valid, x, 0.0).sum() for x in densities) / valid.sum()
    else:
        shape = len(rows), *zv.shape
        part = jnp.broadcast_to(text.pooled[None, :, None], shape)
        of_video = jnp.ones(shape)
    if cfg.sfdm or cfg.dfsm:
        # Where frames of the video are padded, so are those of all its pairs.
        pairs = pooled(zv[:, None] * of_video, part, zv, _pairs(valid), cfg)
        found["sfdm"] = _sfdm(model.modular_scale * pairs, scores, cfg, wrong)
        if cfg.dfsm_masks == "own":
            own_part, own_video = part[own, own][None], of_video[own, own][None]
            shape = len(rows), *zv.shape
            v, s = zv[:, None] * own_video, jnp.broadcast_to(own_part, shape)
            pairs = pooled(v, s, zv, valid[:, None] & valid[None], cfg)
        found["dfsm"] = entropy(model.modular_scale * pairs, 0, wrong)
    return sum(getattr(cfg, name) * term for name, term in found.items()), found


def _pairs(valid):
    return jnp.broadcast_to(valid[:, None], (len(valid), *valid.shape))


def _sfdm(logits, scores, cfg, wrong):
    """Over all captions, or over the own one and the k others of the highest global score."""
    if not cfg.hard_pairs:
        return entropy(logits, 1, wrong)
    others = jnp.where(wrong, scores, -jnp.inf)
    least = jnp.sort(others, axis=1)[:, -cfg.hard_pairs][:, None]
    return entropy(logits, 1, wrong & (others >= least))
