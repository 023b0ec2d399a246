"""FLOPs in a jaxpr, by hand and against the compiler's own count."""

import jax
import jax.numpy as jnp
import pytest
from jax._src.cudnn import fused_attention_stablehlo
from jax.sharding import AxisType, PartitionSpec

from mova_jax.models import attention
from mova_jax.models.pallas_attention import pallas_attention
from mova_jax.planning import jaxpr_flops


def test_the_program_is_what_xla_counts_where_there_is_no_loop():
    def function(x, w):
        return jnp.tanh(x @ w) @ w.T

    x, w = jnp.ones((64, 128)), jnp.ones((128, 256))
    counted = jaxpr_flops.count(jax.jit(function).trace(x, w))
    assert counted.total == 2 * 2 * 64 * 128 * 256
    xla = jax.jit(function).lower(x, w).compile().cost_analysis()["flops"]
    assert counted.total == pytest.approx(xla, rel=0.05)


def scanned(x, w):
    with jax.named_scope("text_tower"):
        return jax.lax.scan(jax.checkpoint(lambda c, w: (jnp.sin(c @ w), None)), x, w)[0].sum()


def test_scans_count_by_their_length_and_remat_counts_again():
    x, w = jnp.ones((4, 8)), jnp.ones((5, 8, 8))
    once = 5 * 2 * 4 * 8 * 8
    assert jaxpr_flops.count(jax.jit(scanned).trace(x, w)).flops == {"text": once}
    both_gradients = jax.jit(jax.grad(scanned, argnums=(0, 1)))
    assert jaxpr_flops.count(both_gradients.trace(x, w)).total == 4 * once


def test_what_nobody_reads_is_not_counted():
    def function(x):
        y, unread = x @ x, x @ x.T
        del unread
        return y

    assert jaxpr_flops.count(jax.jit(function).trace(jnp.ones((4, 4)))).total == 2 * 4**3


def test_a_shard_map_counts_on_every_device_and_high_precision_in_passes():
    mesh = jax.make_mesh((8,), ("d",), axis_types=(AxisType.Auto,))
    rows, whole = PartitionSpec("d"), PartitionSpec()

    def function(x, w):
        return jnp.dot(x, w, precision="highest")

    mapped = jax.shard_map(function, mesh=mesh, in_specs=(rows, whole), out_specs=rows)
    counted = jaxpr_flops.count(jax.jit(mapped).trace(jnp.ones((16, 4)), jnp.ones((4, 3))))
    assert counted.total == 2 * 16 * 4 * 3
    assert counted.passes == 6 * counted.total


@pytest.mark.parametrize(("dtype", "passes"), [(jnp.float32, 2), (jnp.bfloat16, 1)])
def test_gpus_multiply_float32_at_half_the_rate(dtype, passes):
    traced = jax.jit(jnp.matmul).trace(*[jnp.ones((4, 4), dtype)] * 2)
    counted = jaxpr_flops.count(traced, costs=jaxpr_flops.GPU_PASSES)
    assert counted.passes == passes * counted.total > 0


def test_a_conditional_counts_its_larger_branch():
    def function(p, x):
        return jax.lax.cond(p, lambda: x @ x, lambda: x @ x @ x)

    counted = jaxpr_flops.count(jax.jit(function).trace(True, jnp.ones((4, 4))))
    assert counted.total == 2 * 2 * 4**3


@pytest.mark.parametrize("form", [attention.by_lengths, pallas_attention])
def test_kernels_of_attention_count_two_products_forwards_and_five_backwards(form, monkeypatch):
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    qkv = jax.ShapeDtypeStruct((3, 6, 3, 2, 128), jnp.bfloat16)
    product = 2 * 3 * 6 * 6 * 2 * 128
    assert jaxpr_flops.count(jax.jit(form).trace(qkv)).total == 2 * product
    gradient = jax.jit(jax.grad(lambda x: form(x).astype(jnp.float32).sum()))
    # Nobody reads the values of the forward pass here; cuDNN's has statistics that are read.
    forward = 2 * product if form is attention.by_lengths else 0
    assert jaxpr_flops.count(gradient.trace(qkv)).total == 5 * product + forward
