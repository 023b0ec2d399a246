"""Scores against plain references that form every pair, in values and gradients."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mova_jax.losses import pools
from mova_jax.losses import scores as scores_lib
from mova_jax.losses.pools import CosineSums
from mova_jax.typing import ConceptMasks, TextEmbedding, VideoEmbedding

POOLS = ["aligned", "softmax", "logmeanexp", "max", "mean", "joint"]
SHARPNESS = 10.0
B, C, F, D, L, W = 5, 3, 4, 6, 7, 8  # all different: no axis can pass for another

# Valid frames of a video: some, with a hole, one, none, all.
FRAME_MASK = np.array(
    [[1, 1, 1, 0], [1, 0, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]], dtype=bool
)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def hard_masks(seed, *shape):
    """Zeros and ones, with the whole mask of frame 1 empty."""
    keep = jax.random.bernoulli(jax.random.key(seed), 0.6, shape)
    return keep.at[..., 1, :].set(False).astype(jnp.float32)


def weigh(x):
    """A scalar in which every entry has a weight of its own, so gradients cannot mix them up."""
    return jnp.sum(x * normal(99, *x.shape))


def assert_same(got, expected, rtol=1e-4, atol=1e-5):
    compare = functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol)
    jax.tree.map(compare, got, expected)


def cosine_reference(v, s):
    """Textbook cosine over the last axis; 0 if either vector is zero."""
    empty = (v == 0).all(-1, keepdims=True) | (s == 0).all(-1, keepdims=True)
    v, s = jnp.where(empty, 1.0, v), jnp.where(empty, 1.0, s)
    lengths = jnp.sqrt(jnp.sum(v * v, -1)) * jnp.sqrt(jnp.sum(s * s, -1))
    return jnp.where(empty[..., 0], 0.0, jnp.sum(v * s, -1) / lengths)


def pool_reference(v, s, valid, pool, frames):
    """Score of one pair from its masked vectors `[f d]`, a concrete frame mask, and zv `[f d]`."""
    if not valid.any():
        return jnp.zeros(())
    v, s, frames = v[valid], s[valid], frames[valid]
    if pool == "aligned":
        lengths = jnp.linalg.norm(frames, axis=-1, keepdims=True)
        mean_sq = (s * s).sum(-1).mean()
        part_length = jnp.sqrt(jnp.where(mean_sq == 0, 1.0, mean_sq))
        mean_length = jnp.linalg.norm((frames / lengths).mean(0))
        return (v / lengths * s).sum(-1).mean() / mean_length / part_length
    if pool == "joint":
        return cosine_reference(v.reshape(-1), s.reshape(-1))
    cosines = cosine_reference(v, s)
    if pool == "mean":
        return sum(cosines) / len(cosines)
    if pool == "max":
        return jnp.max(cosines)
    if pool == "logmeanexp":
        sharpness = SHARPNESS * np.log(1 + len(cosines)) / np.log(33)
        return jnp.log(sum(jnp.exp(sharpness * cosines)) / len(cosines)) / sharpness
    weights = jnp.exp(SHARPNESS * cosines)
    return sum(weights * cosines) / sum(weights)


def scores_reference(v, s, valid, pool, frames):
    """Scores `[b c]` of masked vectors `[b c f d]` and zv `[b f d]`, pair by pair."""
    pairs = [
        [pool_reference(v[b, c], s[b, c], valid[b, c], pool, frames[b]) for c in range(v.shape[1])]
        for b in range(v.shape[0])
    ]
    return jnp.stack([jnp.stack(row) for row in pairs])


# -- a caption's own masks on every video


def concept_masks(text, video, pooled):
    """Masks and the part of the caption that the text masks leave."""
    return ConceptMasks(text, video, part=pooled * text, text_mask_density=text.mean(-1))


def own_inputs():
    """frames, text masks, video masks (partly soft), pooled captions."""
    video = hard_masks(2, C, F, D) * jax.nn.sigmoid(normal(3, C, F, D))
    return normal(0, B, F, D), hard_masks(1, C, F, D), video, normal(4, C, D)


def own_sums(frames, text, video, pooled):
    return scores_lib.own_mask_sums(frames, concept_masks(text, video, pooled[:, None]))


def own_vectors(frames, text, video, pooled):
    v = frames[:, None] * video[None]
    return v, jnp.broadcast_to((pooled[:, None] * text)[None], v.shape)


@pytest.mark.parametrize("pool", POOLS)
def test_own_mask_scores_equal_the_dense_form_in_values_and_gradients(pool):
    valid = FRAME_MASK[:, None] & FRAME_MASK[:C]

    def dense(args):
        return scores_reference(*own_vectors(*args), valid, pool, args[0])

    def cheap(args):
        frames, text, video, pooled = args
        masks = concept_masks(text, video, pooled[:, None])
        videos = VideoEmbedding(frames, jnp.asarray(FRAME_MASK), normal(5, B, D))
        return scores_lib.own_mask_scores(
            videos, masks, videos.frame_mask[:C], pool=pool, sharpness=SHARPNESS
        )

    inputs = own_inputs()
    assert_same(cheap(inputs), dense(inputs))
    gradients = [jax.grad(lambda x, form=form: weigh(form(x)))(inputs) for form in (cheap, dense)]
    assert_same(*gradients)
    assert np.abs(gradients[0][1]).max() > 1e-3  # the text masks do get a gradient


# -- cosine


@pytest.mark.parametrize("empty", ["frames", "pooled", "text", "video"])
@pytest.mark.parametrize("pool", POOLS)
def test_empty_vectors_score_zero_with_zero_gradient(empty, pool):
    args = {
        "frames": normal(0, F, D),
        "text": jnp.ones((F, D)),
        "video": jnp.ones((F, D)),
        "pooled": normal(1, D),
    }
    args[empty] = jnp.zeros_like(args[empty])

    def score(args):
        masks = concept_masks(args["text"], args["video"], args["pooled"])
        valid = jnp.ones(F, bool)
        sums = scores_lib.pair_sums(args["frames"], masks)
        lengths = pools.frame_lengths(args["frames"], valid)
        return pools.pool_frames(sums, valid, pool, SHARPNESS, lengths)

    value, gradient = jax.value_and_grad(score)(args)
    assert value == 0
    if (pool, empty) == ("aligned", "video"):
        # Nothing is divided by the masked frame: the score is linear in its mask, which may open.
        assert np.abs(gradient.pop("video")).max() > 1e-3 and args.pop("video") is not None
    assert_same(gradient, jax.tree.map(jnp.zeros_like, args), atol=0)


@pytest.mark.parametrize("size", [1e-5, 1e-3, 1e8])
def test_cosine_does_not_depend_on_length(size):
    v, s = normal(0, 9, D), normal(1, 9, D)
    ones = jnp.ones((9, D))

    def cosine(v):
        return scores_lib.pair_sums(v, concept_masks(ones, ones, s * size)).cosine

    assert_same(cosine(v * size), cosine_reference(v, s))
    assert np.isfinite(jax.grad(lambda v: cosine(v).sum())(v * size)).all()


def test_normalise():
    assert_same(pools.normalise(jnp.array([3.0, 4.0])), jnp.array([0.6, 0.8]))
    assert pools.normalise(jnp.ones(D, jnp.bfloat16)).dtype == jnp.float32
    zero = jnp.zeros((2, D))
    assert_same(jax.grad(lambda x: weigh(pools.normalise(x)))(zero), zero, atol=0)


# -- pooling


def test_pools_worked_by_hand():
    # Cosines 1, 0.9 and (padded) 0.9; lengths 1 and 1, then 2 and 1.
    sums = CosineSums(jnp.array([1.0, 1.8, 9]), jnp.array([1.0, 4, 10]), jnp.array([1.0, 1, 10]))
    mask = jnp.array([True, True, False])
    # 10 times a difference of 0.1: the better frame weighs e times as much. In logmeanexp 10 is the
    # sharpness for 32 frames.
    two = 10 * np.log(3) / np.log(33)
    expected = {
        "mean": 0.95,
        "max": 1.0,
        "softmax": (np.e + 0.9) / (np.e + 1),
        "logmeanexp": 0.9 + np.log((np.exp(two / 10) + 1) / 2) / two,
        "joint": 2.8 / np.sqrt(5 * 2),
    }
    for pool, value in expected.items():
        assert_same(pools.pool_frames(sums, mask, pool, SHARPNESS), value)


@pytest.mark.parametrize("frames", [8, 80, 800])
def test_a_single_frame_counts_nearly_the_same_in_a_longer_video(frames):
    cosine = jnp.zeros(frames).at[3].set(1.0)
    ones = jnp.ones(frames)
    found = pools.pool_frames(CosineSums(cosine, ones, ones), ones > 0, "logmeanexp", 20.0)
    fixed = np.log((np.exp(20.0) + frames - 1) / frames) / 20
    lost = np.log(frames) / (20 * np.log(1 + frames) / np.log(33))
    assert_same(found, 1 - lost)
    assert 0.82 < float(found) < 0.84 and (frames < 32) == (float(found) < fixed)


def test_aligned_worked_by_hand():
    # Frames (3, 0) and (0, 5), at length 1 their sum is sqrt(2) long; a third one is padded. The
    # first keeps dimension 0 of the caption (4, 6), the second all of it.
    frames, mask = jnp.array([[3.0, 0], [0, 5], [7, 7]]), jnp.array([True, True, False])
    text = jnp.array([[1.0, 0], [1, 1], [1, 1]])
    sums = scores_lib.pair_sums(frames, concept_masks(text, jnp.ones((3, 2)), jnp.array([4.0, 6])))
    lengths = pools.frame_lengths(frames, mask)
    assert_same(lengths, pools.FrameLengths(jnp.array([3.0, 5, 0]), np.sqrt(2)))
    expected = (4 + 6) / np.sqrt(2) / np.sqrt((16 + 52) / 2)
    assert_same(pools.pool_frames(sums, mask, "aligned", lengths=lengths), expected)


def test_aligned_with_open_masks_is_the_global_score_of_mean_frames():
    _, video, captions = pair_inputs()
    unit = video.frames / jnp.linalg.norm(video.frames, axis=-1, keepdims=True)
    total = jnp.where(video.frame_mask[..., None], unit, 0.0).sum(1)
    expected = cosine_reference(total[:, None], captions.pooled[None])
    assert_same(pair_scores(None, video, captions, pool="aligned"), expected)


def test_unknown_pool_names_the_choices():
    sums = CosineSums(jnp.ones(2), jnp.ones(2), jnp.ones(2))
    with pytest.raises(ValueError, match=r"'best'.*'aligned', 'softmax', .*, 'mean', 'joint'"):
        pools.pool_frames(sums, jnp.ones(2, bool), "best")


# -- masks of every pair


def pair_inputs():
    """A small mask network, videos, and captions (leaves of several kinds)."""
    network = {"query": normal(0, D, W), "text": normal(1, W, D), "video": normal(2, W, D)}
    frame_mask = jnp.asarray(FRAME_MASK)
    video = VideoEmbedding(normal(3, B, F, D), frame_mask, normal(4, B, D))
    token_mask = jnp.arange(L) < jnp.array([L, 2, 4])[:, None]
    return network, video, TextEmbedding(normal(5, C, L, W), token_mask, normal(6, C, D))


def attend_masks(network, frames, frame_mask, caption):
    """Frames attend to tokens; text masks hard and straight-through, video masks soft."""
    assert frames.shape == (F, D) and frame_mask.shape == (F,)
    assert caption.tokens.shape == (L, W) and caption.token_mask.shape == (L,)
    logits = jnp.where(caption.token_mask, frames @ network["query"] @ caption.tokens.T, -1e9)
    mixed = jax.nn.softmax(logits, -1) @ caption.tokens
    soft = jax.nn.sigmoid(mixed @ network["text"])
    hard = (soft >= 0.5) - jax.lax.stop_gradient(soft) + soft
    video = jax.nn.sigmoid(mixed @ network["video"])
    return concept_masks(hard.at[1].set(0.0), video, caption.pooled)


def networks_of(network, masks=attend_masks):
    """Stand-in for mask networks; it has no masks when there are no parameters."""
    return types.SimpleNamespace(
        masks_see_frames=network is not None,
        caption_masks=functools.partial(masks, network),
        sharpness=SHARPNESS,
    )


def pair_scores(network, video, captions, pool):
    return scores_lib.pair_scores(networks_of(network), video, captions, pool=pool)


def pair_vectors(network, video, captions):
    """Masked vectors of every pair, one after the other: `[b c f d]` each."""
    v, s = [], []
    for b in range(B):
        for c in range(C):
            caption = jax.tree.map(lambda leaf, c=c: leaf[c], captions)
            masks = attend_masks(network, video.frames[b], video.frame_mask[b], caption)
            v.append(video.frames[b] * masks.video)
            s.append(masks.part)
    return [jnp.stack(x).reshape(B, C, F, D) for x in (v, s)]


def gradient(score_fn):
    """Gradient of a weighted sum of the scores, by network, frames, tokens and pooled captions."""
    network, video, captions = pair_inputs()

    def total(network, frames, tokens, pooled):
        moved = VideoEmbedding(frames, video.frame_mask, video.pooled)
        return weigh(score_fn(network, moved, TextEmbedding(tokens, captions.token_mask, pooled)))

    leaves = network, video.frames, captions.tokens, captions.pooled
    return jax.jit(jax.grad(total, argnums=(0, 1, 2, 3)))(*leaves)


@pytest.mark.parametrize("pool", POOLS)
def test_pair_scores_equal_the_dense_form_in_values_and_gradients(pool):
    valid = np.broadcast_to(FRAME_MASK[:, None], (B, C, F))

    def dense(*args):
        return scores_reference(*pair_vectors(*args), valid, pool, args[1].frames)

    got = pair_scores(*pair_inputs(), pool=pool)
    assert_same(got, dense(*pair_inputs()))
    cheap = gradient(lambda *args: pair_scores(*args, pool=pool))
    assert_same(cheap, gradient(dense), rtol=1e-3)
    assert all(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(cheap))


@pytest.mark.parametrize("masked", [True, False])
def test_matched_scores_are_the_diagonal(masked):
    network, video, captions = pair_inputs()
    video = jax.tree.map(lambda leaf: leaf[:C], video)
    network = network if masked else None
    got = scores_lib.matched_scores(networks_of(network), video, captions, pool="softmax")
    assert_same(got, jnp.diagonal(pair_scores(network, video, captions, pool="softmax")))


@pytest.mark.parametrize("pool", POOLS)
def test_without_masks_is_the_score_under_open_masks(pool):
    def ones(_, frames, frame_mask, caption):
        return concept_masks(jnp.ones_like(frames), jnp.ones_like(frames), caption.pooled)

    _, video, captions = pair_inputs()
    plain = pair_scores(None, video, captions, pool=pool)
    masked = scores_lib.pair_scores(networks_of((), ones), video, captions, pool=pool)
    assert_same(plain, masked)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("garbage", [1e30, jnp.inf, jnp.nan])
def test_padded_frames_are_never_read(pool, garbage):
    network, video, captions = pair_inputs()
    dirty = jnp.where(video.frame_mask[..., None], video.frames, garbage)

    def total(network, frames, pooled):
        moved = VideoEmbedding(frames, video.frame_mask, video.pooled)
        text = TextEmbedding(captions.tokens, captions.token_mask, pooled)
        scores = pair_scores(network, moved, text, pool=pool)
        return weigh(scores), scores

    results = [
        jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)(network, x, captions.pooled)
        for x in (dirty, video.frames)
    ]
    assert_same(*results, atol=0)
    assert not results[0][0][1][3].any()  # a video without a valid frame


def test_bfloat16_inputs_give_float32_scores():
    def cast(tree, dtype):
        floats = jnp.floating
        return jax.tree.map(
            lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, floats) else x, tree
        )

    small = cast(pair_inputs(), jnp.bfloat16)
    same = cast(small, jnp.float32)
    got = pair_scores(None, *small[1:], pool="softmax")
    assert got.dtype == jnp.float32
    assert_same(got, pair_scores(None, *same[1:], pool="softmax"), atol=1e-6)
    small = cast(own_inputs(), jnp.bfloat16)
    sums = own_sums(*small)
    assert {x.dtype for x in sums} == {jnp.dtype(jnp.float32)}
    assert_same(sums, own_sums(*cast(small, jnp.float32)), atol=1e-6)
