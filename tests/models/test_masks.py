"""Mask networks: the straight-through estimator by hand, and the inputs that masks depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mova_jax.models.masks import TMN_LAYOUTS, ConceptMaskNetwork, straight_through
from tests import tiny
from tests.tiny import D, F, L, W

C = 2  # captions
FRAME_MASK = np.array([True, True, False])
TOKEN_MASK = tiny.masks_of_lengths([4, 6], L)
RNG = np.random.default_rng(0)
FRAMES = RNG.normal(size=(F, D)).astype(np.float32)
TOKENS = RNG.normal(size=(C, L, W)).astype(np.float32)
PARTS = RNG.normal(size=(C, F, D)).astype(np.float32)


# -- straight through


def test_hard_masks_are_zeros_and_ones_with_the_gradient_of_the_sigmoid():
    logits = jnp.array([-3.0, -1e-3, 0.0, 1e-3, 5.0])
    mask = straight_through(logits, 1.0)
    np.testing.assert_array_equal(mask, [0.0, 0.0, 1.0, 1.0, 1.0])
    weights = jnp.array([1.0, 2, 3, 4, 5])
    gradient = jax.grad(lambda x: (weights * straight_through(x, 1.0)).sum())(logits)
    sigmoid = 1 / (1 + np.exp(-np.asarray(logits)))
    np.testing.assert_allclose(gradient, weights * sigmoid * (1 - sigmoid), rtol=1e-5)


def test_soft_masks_are_the_sigmoid_of_logits():
    # sigmoid(ln 3) = 3/4 with slope 3/16.
    value, slope = jax.value_and_grad(lambda x: straight_through(x, 0.0))(np.log(3.0))
    np.testing.assert_allclose([value, slope], [3 / 4, 3 / 16], rtol=1e-6)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("hardness", [0.0, 1.0])
def test_masks_at_the_ends_of_the_annealing_are_soft_and_hard(hardness, traced):
    logits = jnp.linspace(-4.0, 4.0, 9)

    def value_and_slope(hardness):
        return jax.value_and_grad(lambda x: (x * straight_through(x, hardness)).sum())(logits)

    annealed = (
        jax.jit(value_and_slope)(hardness) if traced else value_and_slope(jnp.array(hardness))
    )
    jax.tree.map(
        np.testing.assert_array_equal,
        annealed,
        jax.jit(value_and_slope, static_argnums=0)(hardness),
    )


def test_masks_between_are_the_mixture_with_the_gradient_of_the_sigmoid():
    # sigmoid(ln 3) = 3/4 with slope 3/16; a quarter of the way to 1.
    value, slope = jax.value_and_grad(straight_through)(np.log(3.0), jnp.array(0.25))
    np.testing.assert_allclose([value, slope], [3 / 4 + 1 / 16, 3 / 16], rtol=1e-6)


@pytest.mark.parametrize("hardness", [0.0, 0.5, 1.0])
def test_masks_of_bfloat16_and_of_large_logits_are_exact_with_finite_gradients(hardness):
    logits = jnp.array([-1e4, -200.0, 200.0, 1e4])
    mask = straight_through(logits.astype(jnp.bfloat16), hardness)
    assert mask.dtype == jnp.float32
    np.testing.assert_allclose(mask, [0, 0, 1, 1], atol=1e-30)
    gradient = jax.grad(lambda x: straight_through(x, hardness).sum())(logits)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-30)


# -- networks


def network(name, **changes):
    """A layout of the TMN by name, or the CMN."""
    layout = {} if name == "cmn" else {"model__tmn__layout": name}
    cfg = tiny.config(**(layout | changes)).model
    make = ConceptMaskNetwork if name == "cmn" else TMN_LAYOUTS[name]
    return tiny.drawn(lambda: make(cfg, rngs=nnx.Rngs(0), dtype=jnp.float32))


def raw_logits(net, frames=FRAMES, tokens=TOKENS, parts=PARTS, token_mask=TOKEN_MASK):
    """`[c f d]` (`[c f l]` for `tokens`) of one video's frames for every caption."""
    tokens, token_mask = jnp.asarray(tokens), jnp.asarray(token_mask)
    prepared = net.prepare(tokens, token_mask)
    if isinstance(net, ConceptMaskNetwork):
        return jax.vmap(net, in_axes=(0, None, 0, 0))(parts, frames, prepared, token_mask)
    one = jax.vmap(net, in_axes=(None, None, 0, 0))
    return one(frames, jnp.asarray(FRAME_MASK), prepared, token_mask)


logits_of = tiny.jit(raw_logits)


ALL = [*TMN_LAYOUTS, "cmn"]


@pytest.mark.parametrize("name", ALL)
def test_padding_changes_no_value_and_gets_no_gradient(name):
    net = network(name, model__cmn__detach_tokens=False)
    weights = RNG.normal(size=(C, F, L if name == "tokens" else D))
    valid = np.broadcast_to(FRAME_MASK[None, :, None], weights.shape).copy()
    if name == "tokens":
        valid &= TOKEN_MASK[:, None]

    def loss(frames, tokens):
        out = raw_logits(net, frames, tokens)
        return (out * weights * valid).sum(), out

    run = tiny.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    dirty_frames = np.where(FRAME_MASK[:, None], FRAMES, 3e4)
    dirty_tokens = np.where(TOKEN_MASK[..., None], TOKENS, -3e4)
    (_, clean), clean_gradient = run(FRAMES, TOKENS)
    (_, dirty), dirty_gradient = run(dirty_frames, dirty_tokens)
    assert clean.shape == weights.shape
    np.testing.assert_allclose(np.asarray(dirty)[valid], np.asarray(clean)[valid], rtol=1e-5)
    for ours, theirs in zip(clean_gradient, dirty_gradient, strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(dirty_gradient[0][~FRAME_MASK], 0.0)
    np.testing.assert_array_equal(dirty_gradient[1][~TOKEN_MASK], 0.0)
    assert np.abs(dirty_gradient[1][TOKEN_MASK]).min(-1).max() > 0
    if name != "cmn":  # the CMN sees no frame
        assert np.abs(dirty_gradient[0][FRAME_MASK]).max() > 1e-4


@pytest.mark.parametrize("name", ["select", "cross", "joint", "tokens"])
def test_detached_tokens_pass_no_gradient_and_keep_their_values(name):
    nets = [network(name, model__tmn__detach_tokens=detach) for detach in (False, True)]

    @tiny.jit
    def run(net):
        return jax.value_and_grad(lambda x: jnp.square(raw_logits(net, tokens=x)).sum())(TOKENS)

    (value, gradient), (same, none) = map(run, nets)
    np.testing.assert_allclose(same, value, rtol=1e-6)
    assert not none.any() and np.abs(gradient).max() > 1e-4


def test_detached_tokens_of_the_concept_mask_network_pass_no_gradient():
    for detach in (False, True):
        net = network("cmn", model__cmn__detach_tokens=detach)
        gradient = tiny.jit(jax.grad(lambda x, net=net: raw_logits(net, tokens=x).sum()))(TOKENS)
        assert gradient.any() != detach


@pytest.mark.parametrize("name", ALL)
def test_the_initial_bias_is_added_to_the_logits(name):
    closed, opened = (network(name, model__masks__init_bias=b) for b in (-1.0, 2.0))
    np.testing.assert_allclose(logits_of(opened) - logits_of(closed), 3.0, rtol=1e-4)


@pytest.mark.parametrize("name", ["select", "cross", "joint", "tokens"])
def test_logits_depend_on_the_position_of_a_frame_and_not_on_its_length(name):
    net = network(name)
    np.testing.assert_allclose(logits_of(net, 50 * FRAMES), logits_of(net), rtol=1e-4, atol=1e-5)
    equal = logits_of(net, np.broadcast_to(FRAMES[:1], FRAMES.shape))[:, :2]
    assert np.abs(equal[:, 0] - equal[:, 1]).max() > 1e-4


def test_in_select_a_frame_only_decides_where_to_attend():
    net = network("select")
    # A single token: the logits do not depend on the frame.
    one = np.zeros_like(TOKEN_MASK)
    one[:, 0] = True
    alone = logits_of(net, token_mask=one)
    np.testing.assert_allclose(alone, np.broadcast_to(alone[:, :1], alone.shape), rtol=1e-5)
    other = logits_of(net, RNG.normal(size=FRAMES.shape), token_mask=one)
    np.testing.assert_allclose(other, alone, rtol=1e-4, atol=1e-6)
    assert np.abs(alone[0] - alone[1]).max() > 0.01
    # Equal tokens: again they do not.
    same = np.broadcast_to(TOKENS[:, :1], TOKENS.shape)
    spread = logits_of(net, tokens=same)
    np.testing.assert_allclose(spread, np.broadcast_to(spread[:, :1], spread.shape), rtol=1e-4)
    # Different tokens: frames attend to different ones.
    free = logits_of(net)
    assert np.abs(free[:, 0] - free[:, 1]).max() > 0.01


@pytest.mark.parametrize("name", ["cross", "joint"])
def test_in_layouts_with_a_residual_masks_depend_on_the_frame(name):
    one = np.zeros_like(TOKEN_MASK)
    one[:, 0] = True
    alone = logits_of(network(name), token_mask=one)
    assert np.abs(alone[:, 0] - alone[:, 1]).max() > 0.01


def test_concept_masks_depend_on_the_frame_only_with_sees_frame():
    others = RNG.normal(size=FRAMES.shape).astype(np.float32)
    for sees in (False, True):
        net = network("cmn", model__cmn__sees_frame=sees)
        moved = np.abs(logits_of(net, others) - logits_of(net)).max(-1)
        assert (moved > 1e-3).all() if sees else not moved.any()
        # They depend on the direction of the part, not on its length.
        changed = PARTS.copy()
        changed[:, 1] = PARTS[:, 0]
        moved = np.abs(logits_of(net, parts=changed) - logits_of(net)).max(-1)
        assert (moved[:, 1] > 1e-3).all() and (moved[:, [0, 2]] < 1e-5).all()
        long = logits_of(net, parts=50 * PARTS)
        np.testing.assert_allclose(long, logits_of(net), rtol=1e-4, atol=1e-5)


def test_no_valid_token_gives_finite_logits_and_gradients():
    none_valid = np.zeros_like(TOKEN_MASK)
    for name in ALL:
        net = network(name)

        @tiny.jit
        @jax.value_and_grad
        def run(frames, net=net):
            return jnp.square(raw_logits(net, frames, token_mask=none_valid)).sum()

        value, gradient = run(FRAMES)
        assert np.isfinite(value) and np.isfinite(gradient).all(), name


def test_default_networks_form_no_array_of_frames_by_tokens_by_width():
    """All pairs of b videos and c captions stay cheap (docs/method.md, 2)."""
    videos = 7
    for name in ("select", "cmn"):
        net = network(name)

        def pairs(frames, tokens, parts, net=net):
            return jax.vmap(lambda f: raw_logits(net, f, tokens, parts))(frames)

        frames = jnp.zeros((videos, F, D))
        program = str(jax.make_jaxpr(pairs)(frames, TOKENS, PARTS))
        tokens_wide = {f"{L},{W}]", f"{L},2,{W // 2}]"}
        shapes = {word for word in program.split() if word.startswith("f32[") or "f32[" in word}
        assert not any(str(videos) in s and any(s.endswith(t) for t in tokens_wide) for s in shapes)
