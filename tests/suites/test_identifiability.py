"""Known concept blocks: the generator, the scores by hand, a short training, the sentence."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from mova_jax.suites.identifiability import scores, suite
from mova_jax.suites.identifiability.data import World, draw_videos, make_mixings, mix, unmix
from mova_jax.suites.identifiability.evaluate import evaluate
from mova_jax.suites.identifiability.training import train
from tests import tiny

WORLD = World(alike=2, frames=2)


def drawn(world, count=64):
    mixings = make_mixings(jax.random.key(0), world)
    videos = draw_videos(jax.random.key(1), world, mixings, count)
    return mixings, jax.tree.map(np.asarray, videos)


# -- the generator


def test_a_mixing_is_undone_by_its_inverse():
    mixings = make_mixings(jax.random.key(0), WORLD)
    latents = jax.random.normal(jax.random.key(2), (5, WORLD.latents))
    for matrices in mixings.values():
        mixed = mix(matrices, latents)
        assert np.abs(mixed - latents).mean() > 0.5
        np.testing.assert_allclose(unmix(matrices, mixed), latents, atol=1e-5)


def test_observations_hold_the_values_of_shown_and_of_named_blocks():
    mixings, videos = drawn(WORLD)
    b, f, k, v = videos.values.shape
    latents = unmix(mixings["frames"], videos.frames)[..., : k * v].reshape(b, f, k, v)
    expected = np.where(videos.shown[..., None], videos.values, 0)
    np.testing.assert_allclose(latents, expected, atol=1e-4)
    latents = unmix(mixings["sentences"], videos.sentences)[..., : k * v].reshape(b, 3, k, v)
    expected = np.where(videos.named[..., None], videos.values[:, :1], 0)
    np.testing.assert_allclose(latents, expected, atol=1e-4)


def test_supports_are_sparse_and_sentences_name_what_their_frames_show():
    _, videos = drawn(WORLD)
    assert set(videos.shown.sum(-1).flat) == {WORLD.shown}
    assert set(videos.named.sum(-1).flat) == {1, 2}
    assert videos.named.sum(1).max() == 1  # no block is named by two sentences
    assert videos.shown.shape[1] == 6 and videos.named_by_own.shape == videos.shown.shape
    assert (videos.shown | ~videos.named_by_own).all()
    assert (videos.shared | ~videos.named_by_own).all() and (videos.shown | ~videos.shared).all()
    assert videos.shared.sum() > videos.named_by_own.sum()  # other frames show them too
    # Every other video is like the one before, but for its values.
    np.testing.assert_array_equal(videos.shown[::2], videos.shown[1::2])
    assert np.abs(videos.values[::2] - videos.values[1::2]).min() > 0


def test_named_blocks_keep_their_values_and_others_are_private_to_a_frame():
    _, videos = drawn(WORLD)
    same = (videos.values == videos.values[:, :1]).all((1, 3))
    np.testing.assert_array_equal(same, videos.named.any(1))


def test_worlds_can_break_the_assumptions():
    _, videos = drawn(dataclasses.replace(WORLD, together=2))
    for present in (videos.shown, videos.named):
        np.testing.assert_array_equal(present[..., ::2], present[..., 1::2])
    world = dataclasses.replace(WORLD, observed=0.5)
    assert drawn(world)[1].frames.shape[-1] == world.latents // 2
    _, videos = drawn(dataclasses.replace(WORLD, dependence=0.7), 2000)
    values = videos.values[:, 0, :, 0]
    assert np.corrcoef(values, rowvar=False)[0, 1:] == pytest.approx(0.7, abs=0.06)


# -- the scores


def test_r_squared_by_hand():
    truth = np.array([[0.0], [2.0], [4.0]])
    assert scores.r_squared(truth, truth) == 1
    assert scores.r_squared(np.full((3, 1), 2.0), truth) == 0
    assert scores.r_squared(truth + 1, truth) == pytest.approx(1 - 3 / 8)


def test_a_block_is_predicted_where_vectors_hold_it():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(900, 2, 2)).astype(np.float32)
    vectors = np.tanh(values[:, 0])  # block 0, bent; nothing of block 1
    where = np.ones((900, 2), bool)
    first, second = where.copy(), where.copy()
    first[:, 1], second[:, 0] = False, False
    assert scores.block_recovery(vectors, values, first, 600) > 0.95
    assert scores.block_recovery(vectors, values, second, 600) < 0.05
    assert math.isnan(scores.block_recovery(vectors, values, where, 901))


def test_dimensions_are_matched_to_the_block_that_explains_them():
    rng = np.random.default_rng(0)
    values, present = rng.normal(size=(500, 3, 2)), rng.random((500, 3)) < 0.6
    shown = np.where(present[..., None], values, 0)
    vectors = np.stack([shown[:, 2, 0], shown[:, 0].prod(-1), present[:, 1] * 1.0], 1)
    explained = scores.match_dimensions(vectors, values, present)
    np.testing.assert_allclose(explained[[0, 1, 2], [2, 0, 1]], 1, atol=1e-6)
    assert sorted(explained.ravel())[-4] < 0.1


def test_supports_by_hand():
    block_of = np.array([0, 0, 1, 2, 2])  # the last dimension is never open
    masks = np.array([[1, 0, 0, 1, 0], [0, 1, 1, 1, 0]], float)
    truth = np.array([[True, True, False], [False, True, False]])
    found = scores.support_scores(masks, block_of, truth)
    # Selected: blocks 0 (half open) and 2; all three. Hits: 2 of 5 selected and of 3 true.
    assert found.f1 == pytest.approx(2 * 2 / 8)
    assert found.open_inside == pytest.approx((0.5 + 0 + 1) / 3)
    assert found.open_outside == pytest.approx((1 + 0.5 + 1) / 3)
    assert scores.support_scores(0 * masks, block_of, truth).f1 == 0
    opened = scores.support_scores(np.ones((2, 5)), block_of, truth)
    assert opened.f1 == pytest.approx(2 * 3 / 9)


def test_purity_by_hand():
    explained = np.array([[0.8, 0.2], [0.3, 0.3], [1.0, 0.0]])
    masks = np.array([[1.0, 1.0, 0.0]])  # the last dimension is never open
    assert scores.purity(explained, masks) == pytest.approx((0.8 + 0.5) / 2)
    assert math.isnan(scores.purity(explained, 0 * masks))


# -- training


def test_twenty_steps_lower_the_loss_of_each_seed(monkeypatch):
    monkeypatch.setattr(jax, "jit", tiny.jit)
    world = World(blocks=6, shown=2, events=2)
    trained = train(world, "part_concepts", (0, 1), 20, {"losses.sparsity": 0.1})
    losses = np.asarray(trained.losses)
    assert losses.shape == (2, 20) and (losses[:, -3:].mean(1) < losses[:, :3].mean(1) - 0.2).all()
    assert np.abs(losses[0] - losses[1]).min() > 0  # other weights, mixings and videos
    monkeypatch.setattr("mova_jax.suites.identifiability.evaluate.VIDEOS", 64)
    monkeypatch.setattr("mova_jax.suites.identifiability.evaluate.ROWS", 16)
    found = evaluate(trained)
    assert len(found) == 2 and set(suite.SCORES) <= set(found[0])
    assert all(0 <= scores["f1"] <= 1 for scores in found)


# -- the suite


def test_interval_by_hand():
    mean, half = suite.interval([1.0, 2.0, 3.0])
    assert mean == 2 and half == pytest.approx(4.302653 / 3**0.5)
    assert math.isnan(suite.interval([1.0])[1])


def made(**changes):
    return [dict.fromkeys(suite.SCORES, 0.5) | {"f1_open": 0.3} | changes]


@pytest.mark.parametrize(
    ("f1", "words"),
    [(0.35, "are not found (F1 0.35"), (0.6, "in part (F1 0.60"), (0.9, "are found (F1 0.90")],
)
def test_the_sentence_follows_the_figures(f1, words):
    forms = dict.fromkeys(suite.FORMS, made())
    forms[suite.CONCEPTS] = made(f1=f1, video_in=0.93, video_out=0.04)
    forms["full"] = made(f1=0.31, text_out=0.77)
    violations = {"none": made(), "pairs": made(f1=0.2, video_in=0.81), "narrow": made()}
    text = suite.verdict(forms, violations)
    assert "R² 0.93 inside and 0.04 outside" in text and words in text
    assert "not found (F1 0.31; 0.30 with open masks)" in text and "0.77" in text
    assert "pairs: R² 0.81 inside" in text and text.endswith("lowest F1: pairs.")


def test_rows_are_trained_once(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(suite, "train", lambda world, *rest: asked.append(rest))
    monkeypatch.setattr(suite, "evaluate", lambda trained: made())

    def ask(steps):
        return suite._kept(tmp_path, suite.CONCEPTS, suite.BASE, (0,), steps)

    assert ask(9) == ask(9) == made() and len(asked) == 1
    ask(10)  # other settings
    assert len(asked) == 2
