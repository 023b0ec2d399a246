"""L_tv of divided captions: by hand, against loops, sharded, and as a term of the objective."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mova_jax.losses import ring
from mova_jax.losses.batch_rows import RowKeys
from mova_jax.losses.frame_answer import SAME_EVENT, frame_answer
from mova_jax.losses.objective import objective
from mova_jax.parallel import collectives
from mova_jax.parallel import mesh as mesh_lib
from mova_jax.typing import Term
from tests import tiny

B, F, P, D = 8, 3, 4, 5
NOTHING, SHARPNESS = 0.2, 6.0

# Valid frames and parts: with holes, one, all; caption 4 has no parts. Row 5 is padding.
FRAME_MASK = np.array(4 * [[1, 0, 1], [1, 1, 1]], dtype=bool)
PART_MASK = np.array(2 * [[1, 1, 0, 1], [1, 0, 0, 0], [0, 1, 1, 0], [1, 1, 1, 1]], dtype=bool)
PART_MASK[4] = False
EXAMPLE_MASK = np.arange(B) != 5
FRAMES_READ, PARTS_READ = (mask & EXAMPLE_MASK[:, None] for mask in (FRAME_MASK, PART_MASK))


def inputs(masked: bool) -> list[np.ndarray]:
    """zv, zt and s. Two parts say the same as parts of other captions; some vectors are zero."""
    rng = np.random.default_rng(0)
    frames, parts = (rng.normal(size=size).astype(np.float32) for size in ((B, F, D), (B, P, D)))
    frames[1, 2] = parts[3, 2] = 0.0
    parts[6, 1] = 3 * parts[0, 3] + 0.01
    parts[7, 0] = parts[1, 0]
    masks = rng.uniform(size=(B, P, F, D)) > 0.4
    masks[0, 1, 0] = False  # a frame under an empty mask
    return [frames, parts, (parts[:, :, None] * masks).astype(np.float32)][: 2 + masked]


def cost(arrays, group) -> Term:
    """`frame_answer` of a replica's rows, by their arrays and masks."""
    frames, parts, masked, frame_mask, part_mask, example_mask = arrays
    options = {"nothing": NOTHING, "sharpness": SHARPNESS, "group": group}
    return frame_answer(
        frames, parts, masked, frame_mask, part_mask, example_mask=example_mask, **options
    )


def on_devices(devices: int, frames, parts, masked=None) -> Term:
    group = collectives.replica_group(mesh_lib.make_mesh(data=devices))
    masks = (jnp.asarray(mask) for mask in (FRAME_MASK, PART_MASK, EXAMPLE_MASK))
    rows = frames, parts, masked, *masks
    return group.shard_map(lambda _, rows: group.psum(cost(rows, group)), (), rows)


def cosines(z, s):
    """Of a vector `[d]` with vectors `[n d]`; 0 where one is 0."""
    empty = (z == 0).all() | (s == 0).all(-1)
    z, s = (jnp.where(empty[:, None], 1.0, x) for x in (z, s))
    return jnp.where(empty, 0.0, (z * s).sum(-1) / jnp.sqrt((z * z).sum(-1) * (s * s).sum(-1)))


def negatives_of(b: int) -> tuple[np.ndarray, int]:
    """The (caption, part) that row b is kept away from, and how many say the same as its own."""
    texts = inputs(False)[1].astype(np.float64)
    texts /= np.maximum(np.linalg.norm(texts, axis=-1, keepdims=True), 1e-9)
    others = np.array([at for at in np.argwhere(PARTS_READ) if at[0] != b])
    closest = (texts[tuple(others.T)] @ texts[b][PARTS_READ[b]].T).max(-1, initial=-1.0)
    return others[closest < SAME_EVENT], (closest >= SAME_EVENT).sum()


def loops(frames, parts, masked=None) -> Term:
    """In the words of the docstring, frame by frame."""
    total, k = 0.0, SHARPNESS
    for b, f in np.argwhere(FRAMES_READ):
        own = parts[b][:, None].repeat(F, 1) if masked is None else masked[b]
        answers = cosines(frames[b, f], own[PARTS_READ[b], f])
        wrong = cosines(frames[b, f], parts[tuple(negatives_of(b)[0].T)])
        right = jnp.exp(k * answers).sum() + jnp.exp(k * NOTHING)
        total += jnp.log(right + jnp.exp(k * wrong).sum()) - jnp.log(right)
    return Term(total, float(FRAMES_READ.sum()))


def value_and_gradient(fn, arrays):
    wanted = tuple(range(len(arrays)))
    return tiny.jit(jax.value_and_grad(lambda *x: tuple(fn(*x)), wanted, has_aux=True))(*arrays)


@pytest.mark.parametrize("masked", [False, True])
def test_values_and_gradients_are_those_of_loops_on_any_number_of_devices(masked, monkeypatch):
    assert [negatives_of(b)[1] for b in range(B)] == [1, 1, 0, 0, 0, 0, 1, 1]
    arrays = inputs(masked)
    expected = value_and_gradient(loops, arrays)
    tiny.assert_near(value_and_gradient(lambda *x: on_devices(1, *x), arrays), expected, 1e-5)
    assert all(np.abs(gradient).max() > 0.1 for gradient in expected[1])
    monkeypatch.setattr(ring, "TILE_FLOATS", 3 * 4 * P * (F + P))  # of three pairs
    monkeypatch.setattr(ring, "STORED_FLOATS", 0)
    for devices in (1, 2, 8):
        found = value_and_gradient(lambda *x, n=devices: on_devices(n, *x), arrays)
        tiny.assert_near(found, expected, 1e-5)


@pytest.mark.parametrize("garbage", [1e30, jnp.nan])
def test_padded_frames_parts_and_rows_are_never_read(garbage):
    clean = inputs(masked=True)
    both = PARTS_READ[..., None] & FRAMES_READ[:, None]
    read = [mask[..., None] for mask in (FRAMES_READ, PARTS_READ, both)]
    dirty = [jnp.where(mask, array, garbage) for mask, array in zip(read, clean, strict=True)]
    results = [value_and_gradient(lambda *x: on_devices(1, *x), x) for x in (clean, dirty)]
    jax.tree.map(np.testing.assert_array_equal, *results)
    for mask, gradient in zip(read, results[1][1], strict=True):
        assert not np.where(mask, 0.0, gradient).any()


X, Y, Z = np.eye(3, dtype=np.float32)


def worked(frames, parts, **changes) -> Term:
    """Whole arrays without padding; e^k = 2, so that the cosines 1, 0 and -1 count 2, 1 and 1/2."""
    frames, parts = jnp.asarray(frames), jnp.asarray(parts)
    masks = (jnp.ones(x.shape[:2], bool) for x in (frames, parts))
    options = {
        "nothing": 0.0,
        "sharpness": np.log(2.0),
        "example_mask": jnp.ones(len(frames), bool),
    }
    return frame_answer(frames, parts, None, *masks, **(options | changes))


def test_worked_by_hand():
    frames, parts = np.array([[X, Z], [Y, -X]]), np.array([[X], [Y]])
    # Frame X of video 0: own part 2, nothing 1, the other part 1: log 4/3. Frame Z: 1, 1, 1: log
    # 3/2. Frame Y of video 1: 2, 1, 1. Frame -X: own 1, nothing 1, the other part 1/2: log 5/4.
    expected = np.log(4 / 3 * 3 / 2 * 4 / 3 * 5 / 4)
    np.testing.assert_allclose(worked(frames, parts), (expected, 4), rtol=1e-5)
    # With nothing at cosine 1 it counts 2 everywhere: 5/4, 4/3, 5/4, 3.5/3.
    expected = np.log(5 / 4 * 4 / 3 * 5 / 4 * 3.5 / 3)
    np.testing.assert_allclose(worked(frames, parts, nothing=1.0), (expected, 4), rtol=1e-5)
    # The same event twice: no negatives, no cost.
    np.testing.assert_allclose(worked(frames, np.array([[X], [2 * X]])), (0, 4), atol=1e-6)


def test_rows_of_the_same_video_are_no_negatives():
    frames, parts = np.array([[X], [Y], [X]]), np.array([[X], [Y], [Z]])
    keys = RowKeys(jnp.array([4, 5, 4]), jnp.arange(6, dtype=jnp.uint32).reshape(3, 2))
    # Frame X of video 0: own 2, nothing 1; part Y counts 1, part Z of the same video nothing: log
    # 4/3. Frame Y of video 1: 2, 1, and 1 for either other: log 5/3. Frame X of video 2: own 1,
    # nothing 1, part Y 1: log 3/2.
    expected = np.log(4 / 3 * 5 / 3 * 3 / 2)
    np.testing.assert_allclose(worked(frames, parts, keys=keys), (expected, 3), rtol=1e-5)


def test_a_frame_is_pulled_by_its_share_and_the_sharpness_not_at_all():
    frames, parts = np.array([[X, Z], [Y, -X]]), np.array([[X], [Y]])

    def pull(nothing: float, sharpness: float) -> np.ndarray:
        """How far each frame of video 0 is drawn towards its own part."""
        gradient = jax.grad(lambda x: worked(x, parts, nothing=nothing, sharpness=sharpness).sum)
        return -gradient(jnp.asarray(frames))[0, :, 0]

    # Frame Z: own part 1, nothing 1 or 1000, the other part 1.
    alone, answered = pull(-1e3, np.log(2.0))[1], pull(np.log2(1000.0), np.log(2.0))[1]
    np.testing.assert_allclose(alone / np.log(2.0), 1 - 1 / 2, rtol=1e-5)
    np.testing.assert_allclose(answered / np.log(2.0), 1 / 1001 - 1 / 1002, rtol=1e-2)
    by_sharpness = jax.grad(lambda k: worked(frames, parts, sharpness=k).sum)(jnp.float32(1.0))
    assert by_sharpness == 0


@pytest.mark.parametrize("form", ["parts", "part_concepts", "part_masks"])
def test_the_term_is_in_the_loss_of_divided_captions(form):
    changes = {"losses__frame": 0.5, "losses__margin": 0.1, "model__masks__kind": "soft"}
    changes |= {"losses__hard_pairs": 3} if form == "part_masks" else {}
    cfg = tiny.config(form, **changes).losses

    def both(model, batch):
        """The term in the metrics, and what it should be."""
        texts = batch.tokens, batch.token_mask, batch.part_tokens, batch.part_token_mask
        video = model.encode_video(batch.frames, batch.frame_mask)
        text = model.encode_text(*texts)
        masked = model.own_masks(video, model.prepare(text)).part if form == "part_masks" else None
        masks = batch.frame_mask, batch.part_token_mask.any(-1)
        options = {"nothing": 0.1, "sharpness": 20.0, "example_mask": batch.example_mask}
        term = frame_answer(video.frames, text.parts.pooled, masked, *masks, **options)
        return objective(model, batch, cfg)[1]["frame"], term.mean

    found, expected = tiny.jit(both)(tiny.model(form, **changes), tiny.batch(parts=True))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert expected > 0
