"""The terms of the objective: by hand, against loops and PyTorch, in values and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mova_jax.losses import ring, terms
from mova_jax.typing import ConceptMasks, Term

B, F, D, K = 4, 3, 5, 3
ALL = jnp.ones(B, bool)
SOME = jnp.array([True, False, True, True])

# Valid frames of a video: with a hole, none, one, all.
FRAME_MASK = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]], dtype=bool)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def cosines(seed, *shape):
    return jnp.tanh(normal(seed, *shape))


def assert_same(got, expected, rtol=1e-4, atol=1e-5):
    compare = functools.partial(np.testing.assert_allclose, rtol=rtol, atol=atol)
    jax.tree.map(compare, got, expected)


def of_scores(loss):
    """The loss of given scores `(scores, scale, example_mask) -> Term`, in one tile."""

    def term(scores, scale, example_mask):
        rows = jnp.arange(len(scores))
        logits = terms.contrast(
            ring.SingleReplica(), lambda x, *_: x, scores, rows, rows, scale, example_mask
        )
        return loss(logits, example_mask)

    return term


LOSSES = {
    "global": of_scores(terms.global_contrast),
    "sfdm": of_scores(terms.same_frame_different_masks),
    "dfsm": of_scores(terms.different_frames_same_mask),
}


def loop_reference(name, scores, scale, example_mask):
    """The same by loops over the valid examples, and what is left out is never touched."""
    valid = [i for i in range(len(scores)) if example_mask[i]]
    total = 0.0
    for i in valid:
        row = sum(jnp.exp(scale * scores[i, j]) for j in valid)
        column = sum(jnp.exp(scale * scores[j, i]) for j in valid)
        by_row, by_column = (-jnp.log(jnp.exp(scale * scores[i, i]) / x) for x in (row, column))
        total += {"global": (by_row + by_column) / 2, "sfdm": by_row, "dfsm": by_column}[name]
    return total, float(len(valid))


@pytest.mark.parametrize("example_mask", [ALL, SOME], ids=["all", "some"])
@pytest.mark.parametrize("name", LOSSES)
def test_contrast_equals_loops_in_values_and_gradients(name, example_mask):
    scores, scale = cosines(0, B, B), jnp.float32(7.0)
    mask = np.asarray(example_mask)
    got = LOSSES[name](scores, scale, example_mask)
    assert_same(tuple(got), loop_reference(name, scores, scale, mask))
    gradients = [
        jax.grad(lambda *args, f=f: f(*args)[0], argnums=(0, 1))(scores, scale)
        for f in (
            lambda *args: LOSSES[name](*args, example_mask),
            lambda *args: loop_reference(name, *args, mask),
        )
    ]
    assert_same(*gradients)
    assert abs(gradients[0][1]) > 1e-3  # the scale can be trained


@pytest.mark.parametrize("name", LOSSES)
def test_contrast_equals_torch(name):
    torch = pytest.importorskip("torch")
    scores = cosines(1, B, B)
    leaf = torch.tensor(np.asarray(scores), requires_grad=True)
    own = torch.arange(B)

    def entropy(logits):
        return torch.nn.functional.cross_entropy(logits, own)

    by_row, by_column = entropy(20 * leaf), entropy(20 * leaf.T)
    loss = {"global": (by_row + by_column) / 2, "sfdm": by_row, "dfsm": by_column}[name]
    loss.backward()
    value, gradient = jax.value_and_grad(lambda x: LOSSES[name](x, 20.0, ALL).mean)(scores)
    assert_same(value, loss.item())
    assert_same(gradient, leaf.grad.numpy())


@pytest.mark.parametrize("name", LOSSES)
def test_contrast_does_not_overflow_and_is_permutation_invariant(name):
    scores = jnp.eye(B)
    assert_same(LOSSES[name](scores, 100.0, ALL).mean, 0.0)
    # The own pair is 2 worse than all others: 200 + log(3) + what exp(-200) adds.
    assert_same(LOSSES[name](1 - 2 * scores, 100.0, ALL).mean, 200 + np.log(3))
    scores, order = cosines(2, B, B), np.array([2, 0, 3, 1])
    shuffled = LOSSES[name](scores[order][:, order], 9.0, SOME[order])
    assert_same(shuffled, LOSSES[name](scores, 9.0, SOME))


@pytest.mark.parametrize("name", LOSSES)
def test_equal_scores_give_log_of_the_valid_examples(name):
    assert_same(LOSSES[name](jnp.full((B, B), 0.3), 50.0, SOME), Term(3 * np.log(3), 3.0))


@pytest.mark.parametrize("garbage", [1e30, -jnp.inf, jnp.nan])
@pytest.mark.parametrize("name", LOSSES)
def test_scores_of_padded_examples_are_never_read(name, garbage):
    scores = cosines(3, B, B)
    dirty = jnp.where(SOME[:, None] & SOME, scores, garbage)
    results = [
        jax.value_and_grad(lambda *args: LOSSES[name](*args, SOME).sum, argnums=(0, 1))(x, 9.0)
        for x in (scores, dirty)
    ]
    assert_same(*results, atol=0)
    assert not results[1][1][0][1].any() and not results[1][1][0][:, 1].any()


@pytest.mark.parametrize("name", LOSSES)
def test_terms_of_no_example_are_zero(name):
    got = LOSSES[name](cosines(4, B, B), 9.0, jnp.zeros(B, bool))
    assert_same(tuple(got) + (got.mean,), (0.0, 0.0, 0.0), atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_bfloat16_scores_give_float32_terms(name):
    scores = cosines(5, B, B).astype(jnp.bfloat16)
    got = LOSSES[name](scores, 9.0, ALL)
    assert got.sum.dtype == got.count.dtype == jnp.float32
    assert_same(got, LOSSES[name](scores.astype(jnp.float32), 9.0, ALL), atol=1e-6)


# -- the best of the others


def test_found_first_worked_by_hand():
    # Caption 0 finds its video; 1 is beaten; 2 ties, which is no hit; 3 is padded, and its video,
    # which would beat caption 0's, does not count.
    scores = jnp.array([[0.9, 0.8, 0.1, 0], [0.1, 0.7, 0.5, 0], [0.2, 0.1, 0.5, 0], [1, 0, 0.9, 1]])
    mask = jnp.array([True, True, True, False])
    assert_same(of_scores(terms.in_batch_recall_at_1)(scores, 7.0, mask), Term(1.0, 3.0))
    assert not jax.grad(lambda x: of_scores(terms.in_batch_recall_at_1)(x, 7.0, mask).sum)(
        scores
    ).any()


# -- sfdm over chosen candidates


def test_candidates_worked_by_hand():
    # Video 0: own at column 0, one candidate padded: log(e^1 + e^0) - 1.
    # Video 1: all valid: log(e^2 + e^0 + e^1) - 2. Video 2 is padded.
    scores = jnp.array([[1.0, 0, 5], [2, 0, 1], [3, 3, 3]])
    candidates = jnp.array([[True, True, False], [True, True, True], [True, True, True]])
    got = terms.chosen_candidates(scores, 1.0, candidates, jnp.array([True, True, False]))
    expected = np.log(np.e + 1) - 1 + np.log(1 + np.e + np.e**2) - 2
    assert_same(got, Term(expected, 2.0))


def test_own_caption_is_column_zero_and_always_a_candidate():
    scores = cosines(6, B, K)
    everything = jnp.ones((B, K), bool)
    given = terms.chosen_candidates(scores, 9.0, everything.at[:, 0].set(False), SOME)
    assert_same(terms.chosen_candidates(scores, 9.0, everything, SOME), given)
    assert_same(terms.chosen_candidates(scores, 9.0, ~everything, SOME), Term(0.0, 3.0))


def test_scores_of_candidates_that_are_masked_out_are_never_read():
    scores, mask = cosines(7, B, K), jax.random.bernoulli(jax.random.key(8), 0.6, (B, K))
    mask = mask.at[:, 0].set(True)
    dirty = jnp.where(mask & SOME[:, None], scores, jnp.nan)
    results = [
        jax.value_and_grad(lambda x: terms.chosen_candidates(x, 9.0, mask, SOME).sum)(x)
        for x in (scores, dirty)
    ]
    assert_same(*results, atol=0)


# -- frame contrast


def contrast_inputs():
    """zv and s, with one empty part among the valid frames and one zero frame."""
    parts = normal(1, B, F, D).at[3, 1].set(0.0)
    return normal(0, B, F, D).at[0, 2].set(0.0), parts


def contrast_reference(frames, parts, valid, margin, form, negatives):
    """By loops over frames and their negatives, in the words of the docstring."""

    def cosine(z, s):
        empty = (z == 0).all() | (s == 0).all()
        z, s = jnp.where(empty, 1.0, z), jnp.where(empty, 1.0, s)
        return jnp.where(empty, 0.0, z @ s / jnp.sqrt((z @ z) * (s @ s)))

    total, count = 0.0, 0.0
    for b, f in np.argwhere(valid):
        positive = cosine(frames[b, f], parts[b, f])
        costs = []
        for c, g in np.argwhere(valid):
            same_video = c == b and g != f
            other_video = c != b and (negatives == "all" or g == f)
            if same_video or other_video:
                negative = cosine(frames[b, f], parts[c, g])
                over = negative - (margin if form == "hinge" else positive - margin)
                costs.append(jnp.maximum(over, 0.0))
        total += (1 - positive) if form == "hinge" else 0.0
        total += sum(costs) / len(costs) if costs else 0.0
        count += 1
    return total, count


@pytest.mark.parametrize("negatives", ["same_index", "all"])
@pytest.mark.parametrize("form", ["hinge", "relative"])
@pytest.mark.parametrize("example_mask", [ALL, SOME.at[0].set(False)], ids=["all", "some"])
def test_frame_contrast_equals_loops_in_values_and_gradients(form, negatives, example_mask):
    valid = FRAME_MASK & np.asarray(example_mask)[:, None]

    def loops(frames, parts):
        return contrast_reference(frames, parts, valid, 0.2, form, negatives)

    def blockwise(frames, parts):
        return tuple(
            terms.frame_contrast(
                frames,
                parts,
                jnp.asarray(FRAME_MASK),
                margin=0.2,
                example_mask=example_mask,
                form=form,
                negatives=negatives,
            )
        )

    assert_same(blockwise(*contrast_inputs()), loops(*contrast_inputs()))
    gradients = [
        jax.jit(jax.grad(lambda *args, f=f: f(*args)[0], argnums=(0, 1)))(*contrast_inputs())
        for f in (blockwise, loops)
    ]
    assert_same(*gradients)
    assert all(np.abs(g).max() > 1e-3 for g in gradients[0])


def contrast(frames, parts, frame_mask=None, example_mask=None, **kwargs):
    frame_mask = jnp.ones(frames.shape[:2], bool) if frame_mask is None else frame_mask
    example_mask = jnp.ones(len(frames), bool) if example_mask is None else example_mask
    return terms.frame_contrast(frames, parts, frame_mask, example_mask=example_mask, **kwargs)


def test_frame_contrast_worked_by_hand():
    # Two videos of two frames on the axes x, y of a plane. Video 0's parts sit on its frames; video
    # 1 has its parts exchanged.
    x, y = [1.0, 0.0], [0.0, 1.0]
    frames = jnp.array([[x, y], [x, y]])
    parts = jnp.array([[x, y], [y, x]])
    # Margin 0.25: a negative of cosine 1 costs 0.75. Frame (0, 0) = x: c+ = 1; its negatives are
    # (0, 1) = y at 0 and (1, 0) = y at 0; so 0. Likewise frame (0, 1). Frame (1, 0) = x: c+ = 0;
    # negatives (1, 1) = x at 1 and (0, 0) = x at 1; so 1 + 0.75. Likewise frame (1, 1).
    assert_same(contrast(frames, parts, margin=0.25), Term(3.5, 4.0))
    # relative: frames of video 0: max(0, 0.25 + 0 - 1) = 0; of video 1: 0.25 + 1 - 0.
    assert_same(contrast(frames, parts, margin=0.25, form="relative"), Term(2.5, 4.0))
    # all: one more negative each. Frame (0, 0) = x also meets (1, 1) = x: 0.75 / 3. Frame (1, 0)
    # also meets (0, 1) = y: 1 + (0.75 + 0.75 + 0) / 3.
    everything = contrast(frames, parts, margin=0.25, negatives="all")
    assert_same(everything, Term(2 * 0.25 + 2 * 1.5, 4.0))


def test_empty_part_counts_as_cosine_zero():
    frames = normal(0, 1, 1, D)
    empty = jnp.zeros((1, 1, D))
    assert_same(contrast(frames, empty, margin=0.2), Term(1.0, 1.0))
    # A frame without negatives costs its pull alone, which the relative form does not have.
    assert_same(contrast(frames, frames, margin=0.2), Term(0.0, 1.0))
    assert_same(contrast(frames, empty, margin=0.2, form="relative"), Term(0.0, 1.0))


@pytest.mark.parametrize("negatives", ["same_index", "all"])
def test_frame_contrast_does_not_depend_on_order_or_length(negatives):
    frames, parts = contrast_inputs()
    kwargs = {"margin": 0.2, "negatives": negatives}
    expected = contrast(frames, parts, jnp.asarray(FRAME_MASK), SOME, **kwargs)
    b, f = np.array([2, 0, 3, 1]), np.array([1, 2, 0])
    shuffled = contrast(
        frames[b][:, f], parts[b][:, f], jnp.asarray(FRAME_MASK)[b][:, f], SOME[b], **kwargs
    )
    assert_same(shuffled, expected)
    rescaled = contrast(30 * frames, 0.1 * parts, jnp.asarray(FRAME_MASK), SOME, **kwargs)
    assert_same(rescaled, expected)


@pytest.mark.parametrize("garbage", [1e30, jnp.nan])
@pytest.mark.parametrize("negatives", ["same_index", "all"])
def test_padded_frames_and_examples_are_never_read(negatives, garbage):
    example_mask = jnp.array([True, True, True, False])
    valid = (jnp.asarray(FRAME_MASK) & example_mask[:, None])[..., None]

    def loss(frames, parts):
        return contrast(
            frames, parts, jnp.asarray(FRAME_MASK), example_mask, margin=0.2, negatives=negatives
        ).sum

    clean = contrast_inputs()
    dirty = tuple(jnp.where(valid, x, garbage) for x in clean)
    results = [jax.value_and_grad(loss, argnums=(0, 1))(*x) for x in (clean, dirty)]
    assert_same(*results, atol=0)
    assert not np.where(valid, 0.0, results[1][1][0]).any()


def test_negatives_that_do_not_fit_are_met_tile_by_tile(monkeypatch):
    def value(frames, parts):
        return contrast(frames, parts, margin=0.2, negatives="all").sum

    whole = jax.value_and_grad(value, (0, 1))(*contrast_inputs())
    monkeypatch.setattr(ring, "WHOLE_FLOATS", 0)
    monkeypatch.setattr(ring, "TILE_FLOATS", 12 * 4 * F * F)  # 12 pairs: 3 videos
    assert_same(jax.jit(jax.value_and_grad(value, (0, 1)))(*contrast_inputs()), whole)
    jaxpr = str(jax.make_jaxpr(jax.grad(value))(*contrast_inputs()))
    assert f"f32[2,{F},{B},{F}]" in jaxpr and f"f32[{B},{F},{B},{F}]" not in jaxpr


def test_frame_contrast_of_bfloat16_is_float32():
    small = [x.astype(jnp.bfloat16) for x in contrast_inputs()]
    got = contrast(*small, margin=0.2)
    assert got.sum.dtype == got.count.dtype == jnp.float32
    assert_same(got, contrast(*(x.astype(jnp.float32) for x in small), margin=0.2), atol=1e-6)


@pytest.mark.parametrize("kwargs", [{"form": "soft"}, {"negatives": "none"}])
def test_unknown_forms_are_refused(kwargs):
    with pytest.raises(ValueError, match="choose"):
        contrast(*contrast_inputs(), margin=0.2, **kwargs)


# -- sparsity


def test_sparsity_is_the_open_share_of_valid_frames():
    video = jnp.array([[[1.0, 0, 0, 1], [1, 1, 1, 1]], [[0, 0, 0, 1], [9, 9, 9, 9]]])
    text_mask_density = jnp.array([[0.1, 0.2], [0.3, 9]])
    frame_mask = jnp.array([[True, True], [True, False]])
    # Neither the text mask nor the part is read: `tokens` has a mask over tokens, not over d.
    masks = ConceptMasks(text=None, video=video, part=None, text_mask_density=text_mask_density)
    got_text, got_video = terms.sparsity(masks, frame_mask)
    assert_same(got_text, Term(0.6, 3.0))
    assert_same(got_video, Term(0.5 + 1 + 0.25, 3.0))
    assert_same(got_text.mean, 0.2)


def test_sparsity_passes_its_share_to_valid_frames_and_nothing_to_padding():
    video = normal(1, B, F, D).at[1].set(jnp.nan)  # video 1 has no valid frame
    masks = ConceptMasks(text=None, video=video, part=None, text_mask_density=normal(0, B, F))

    def total(masks):
        text, video = terms.sparsity(masks, jnp.asarray(FRAME_MASK))
        return text.sum + 2 * video.sum

    gradient = jax.grad(total)(masks)
    assert_same(gradient.text_mask_density, FRAME_MASK.astype(np.float32), atol=0)
    share = np.broadcast_to(FRAME_MASK[..., None], (B, F, D)) * np.float32(2 / D)
    assert_same(gradient.video, share, atol=0)
    text, _ = terms.sparsity(jax.tree.map(lambda x: x.astype(jnp.bfloat16), masks), FRAME_MASK)
    assert text.sum.dtype == text.count.dtype == jnp.float32


# -- leak


def test_leak_worked_by_hand():
    # Caption 0 finds its video; 1 is beaten; 2 shares the top with one other; 3 is padded, and its
    # video, which would beat caption 0's, does not count.
    scores = jnp.array(
        [
            [0.9, 0.8, 0.1, 0.0],
            [0.1, 0.7, 0.5, 0.0],
            [0.2, 0.1, 0.5, 0.0],
            [1.0, 0.0, 0.9, 1.0],
        ]
    )
    got = terms.identity_leak(scores, jnp.array([True, True, True, False]))
    assert_same(got, Term(1.5, 3.0))


def test_equal_scores_leak_at_chance():
    assert_same(terms.identity_leak(jnp.full((B, B), 0.3), SOME).mean, 1 / 3)
    assert_same(terms.identity_leak(jnp.eye(B), SOME).mean, 1.0)


def test_leak_passes_no_gradient_and_ignores_padding():
    scores = cosines(9, B, B)
    dirty = jnp.where(SOME[:, None] & SOME, scores, jnp.nan)
    assert_same(terms.identity_leak(dirty, SOME), terms.identity_leak(scores, SOME))
    assert not jax.grad(lambda x: terms.identity_leak(x, SOME).sum)(scores).any()
