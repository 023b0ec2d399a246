"""Transformer layers: attention against PyTorch, stacks against a loop over their blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from mova_jax.models import layers
from mova_jax.models.attention import SequenceMask, attend
from tests import tiny

RNG = np.random.default_rng(0)
MASK = np.array([[True, True, False], [True, False, False]])


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def test_attention_equals_pytorch():
    query, key, value = normal(2, 5, 4, 6), normal(2, 3, 4, 6), normal(2, 3, 4, 6)
    mask = RNG.random((2, 5, 3)) < 0.6
    mask[..., 0] = True
    by_head = [torch.tensor(x).transpose(1, 2) for x in (query, key, value)]
    expected = torch.nn.functional.scaled_dot_product_attention(
        *by_head, attn_mask=torch.tensor(mask)[:, None]
    ).transpose(1, 2)
    got = attend(query, key, value, mask)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_a_query_whose_mask_is_all_false_returns_zero_with_finite_gradients():
    query, key, value = normal(1, 2, 1, 4), normal(1, 3, 1, 4), normal(1, 3, 1, 4)
    mask = np.array([[[False] * 3, [True, False, False]]])

    def out(*args):
        return attend(*args, mask)

    got = out(query, key, value)
    np.testing.assert_array_equal(got[0, 0], 0.0)
    np.testing.assert_allclose(got[0, 1], value[0, 0], rtol=1e-6)
    gradients = jax.grad(lambda *args: out(*args).sum(), argnums=(0, 1, 2))(query, key, value)
    assert all(np.isfinite(g).all() for g in gradients)
    np.testing.assert_array_equal(gradients[2][0, 1:], 0.0)  # never attended to
    np.testing.assert_array_equal(gradients[2][0, 0], 1.0)


def test_activations_and_layer_norm_equal_pytorch():
    x = torch.linspace(-6, 6, 49)
    quick = x * torch.sigmoid(1.702 * x)
    exact = torch.nn.functional.gelu(x)
    for name, expected in (("quick_gelu", quick), ("gelu", exact)):
        np.testing.assert_allclose(layers.ACTIVATIONS[name](x.numpy()), expected, atol=1e-6)
    y = 5 + 3 * normal(4, 8)
    norm = layers.LayerNorm(8, rngs=nnx.Rngs(0))
    expected = torch.nn.functional.layer_norm(torch.tensor(y), (8,), eps=1e-5)
    np.testing.assert_allclose(norm(y), expected, atol=1e-5)
    # The statistics of bfloat16 input are float32: 1000 + noise has a variance.
    half = jnp.asarray(1000 + 8 * normal(4, 8), jnp.bfloat16)
    assert norm(half).dtype == jnp.bfloat16
    np.testing.assert_allclose(norm(half), norm(half.astype(jnp.float32)), atol=0.02)


def test_masks():
    np.testing.assert_array_equal(layers.full_mask(MASK), MASK[:, None])
    lower = np.tril(np.ones((3, 3), bool))
    causal = SequenceMask(MASK, causal=True).dense(3)
    np.testing.assert_array_equal(causal, lower & MASK[:, None])


@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_a_stack_equals_a_loop_over_its_blocks(remat):
    width, heads, depth = 8, 2, 3
    options = {"dtype": jnp.float32, "remat": remat}
    stack = tiny.drawn(
        lambda: layers.Stack(width, heads, depth, "gelu", rngs=nnx.Rngs(0), **options)
    )
    x, mask = normal(2, 3, width), layers.full_mask(jnp.asarray(MASK))
    whole, params = nnx.split(stack)
    one = nnx.graphdef(stack.blocks)

    def unrolled(params, x):
        for i in range(depth):
            block = jax.tree.map(lambda leaf, i=i: leaf[i], params["blocks"])
            x = nnx.merge(one, block)(x, mask)
        return x

    def scanned(params, x):
        return nnx.merge(whole, params)(x, mask)

    results = [
        tiny.jit(jax.value_and_grad(lambda p, x, f=f: jnp.square(f(p, x)).sum()))(params, x)
        for f in (unrolled, scanned)
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *results)


def test_remat_stores_what_it_says_for_the_backward_pass():
    width, heads, depth, rows = 8, 2, 5, (2, 3)
    mask = layers.full_mask(jnp.asarray(MASK))

    def stored(remat):
        """Stored numbers per row and layer, without products of attention."""
        options = {"dtype": jnp.float32, "remat": remat}
        made = nnx.eval_shape(
            lambda: layers.Stack(width, heads, depth, "gelu", rngs=nnx.Rngs(0), **options)
        )
        graphdef, params = nnx.split(made)
        pullback = jax.eval_shape(
            lambda params, x: jax.vjp(lambda p, x: nnx.merge(graphdef, p)(x, mask), params, x)[1],
            params,
            jax.ShapeDtypeStruct((*rows, width), jnp.float32),
        )
        shapes = [x.shape for x in jax.tree.leaves(pullback) if x.shape[:3] == (depth, *rows)]
        return sum(np.prod(shape[3:], dtype=int) for shape in shapes)

    assert stored("full") == width  # the input of each block
    # The input; query, key and value; the output of attention; the hidden layer of the MLP.
    assert stored("dots") == width + 3 * width + width + 4 * width
    # Only products of attention more: no norm, no activation.
    assert stored("none") == stored("dots")


def test_initial_weights_scale_with_depth_and_differ_between_blocks():
    @nnx.jit
    def create():
        return layers.Stack(64, 2, 8, "gelu", rngs=nnx.Rngs(0), dtype=jnp.float32)

    blocks = create().blocks
    np.testing.assert_allclose(blocks.mlp.down.kernel[...].std(), 64**-0.5 / 4, rtol=0.05)
    np.testing.assert_allclose(blocks.attention.out.kernel[...].std(), 64**-0.5 / 4, rtol=0.05)
    np.testing.assert_allclose(blocks.mlp.up.kernel[...].std(), 128**-0.5, rtol=0.05)
    kernel = blocks.attention.qkv.kernel[...]
    assert kernel.shape == (8, 64, 3, 2, 32)
    assert np.abs(kernel[0] - kernel[1]).max() > 0.1


def test_positions_are_relative_and_interpolated():
    rows = jnp.asarray([[0.0], [10.0], [40.0]])
    masks = jnp.asarray([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1], [0, 1, 0, 1]], bool)
    found = layers.positions_of(rows, masks)[..., 0]
    np.testing.assert_allclose(found[0, :3], [0, 10, 40])
    np.testing.assert_allclose(found[1, 0], 0)
    np.testing.assert_allclose(found[2], [0, 20 / 3, 20, 40], rtol=1e-6)
    np.testing.assert_allclose(found[3, [1, 3]], [0, 40])  # only valid frames count


def test_a_zero_vector_normalises_to_zero_and_passes_no_gradient():
    vectors = jnp.asarray([[0.0, 0.0], [3.0, 4.0]])
    value, pull = jax.vjp(layers.normalise, vectors)
    np.testing.assert_allclose(value, [[0, 0], [0.6, 0.8]], rtol=1e-6)
    (gradient,) = pull(jnp.ones_like(value))
    np.testing.assert_array_equal(gradient[0], [0, 0])
    assert np.abs(gradient[1]).max() > 0
    assert layers.normalise(jnp.ones(3, jnp.bfloat16)).dtype == jnp.float32
