"""Fused forms of attention against the plain one: values, gradients, and rows that see nothing."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs.base import get_config
from mova_jax.config import from_config_dict
from mova_jax.models import attention
from mova_jax.models.pallas_attention import pallas_attention
from mova_jax.parallel import mesh as mesh_lib
from mova_jax.parallel import sharding
from tests import tiny

FUSED = {
    "pallas": partial(pallas_attention, interpret=True),
    # What the kernel of cuDNN gets, computed by XLA: its flag and lengths, without a GPU.
    "cudnn": partial(attention.by_lengths, implementation="xla"),
}
LENGTH = 7  # odd, which needs padding for cuDNN
VALID = np.arange(LENGTH) < np.array([7, 3, 0])[:, None]


def qkv(heads, width, dtype=np.float32):
    return np.random.default_rng(0).normal(size=(3, LENGTH, 3, heads, width)).astype(dtype)


def both(function, x, weights):
    def loss(x):
        out = function(x)
        return jnp.sum(out.astype(jnp.float32) * weights), out

    return tiny.jit(jax.grad(loss, has_aux=True))(x)


@pytest.mark.parametrize(("valid", "causal"), [(None, False), (VALID, True), (VALID, False)])
@pytest.mark.parametrize(
    ("form", "heads", "width"), [("pallas", 4, 64), ("pallas", 1, 128), ("cudnn", 2, 4)]
)
def test_a_fused_form_equals_the_plain_one(form, heads, width, valid, causal):
    x = qkv(heads, width)
    weights = np.random.default_rng(1).normal(size=(3, LENGTH, heads, width)).astype(np.float32)
    mask = attention.SequenceMask(valid, causal)
    expected = both(lambda x: attention.plain(x, mask), x, weights)
    got = both(lambda x: FUSED[form](x, valid, causal), x, weights)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), got, expected)
    if valid is not None:
        np.testing.assert_array_equal(got[1][2], 0.0)  # a row of padding
        np.testing.assert_array_equal(got[0][2], 0.0)


def test_the_kernel_keeps_the_dtype_and_refuses_heads_that_do_not_fill_lanes():
    x = jnp.asarray(qkv(2, 64), jnp.bfloat16)
    got = FUSED["pallas"](x)
    assert got.dtype == jnp.bfloat16
    plain = attention.plain(x.astype(jnp.float32), attention.SequenceMask())
    np.testing.assert_allclose(got.astype(jnp.float32), plain, atol=0.03)
    with pytest.raises(ValueError, match="got 3 of 32"):
        pallas_attention(qkv(3, 32))


def test_a_kernel_runs_on_each_shard_of_rows_and_heads(monkeypatch):
    monkeypatch.setattr(attention, "pallas_attention", FUSED["pallas"])
    x = np.tile(qkv(4, 64), (4, 1, 1, 1, 1))
    mask = attention.SequenceMask(np.tile(VALID, (4, 1)), causal=True)
    mesh = mesh_lib.make_mesh(data=2, tensor=2, devices=jax.devices()[:4])
    with sharding.activation_sharding(mesh):
        text = jax.jit(attention.pallas).lower(x, mask).as_text()
        got = jax.jit(attention.pallas)(x, mask)
    assert "tensor<6x7x384xf32>" in text  # half of the rows, three times half of the 4 x 64 columns
    np.testing.assert_allclose(got, attention.plain(x, mask), rtol=1e-4, atol=1e-5)


def test_devices_without_a_kernel_are_refused():
    mesh, model = mesh_lib.make_mesh(), tiny.config().model
    sharding.check_attention(mesh, model)
    for form, kind in (("cudnn", "gpu"), ("pallas", "tpu")):
        with pytest.raises(mesh_lib.MeshError, match=f"kernel for {kind}.*platform cpu"):
            sharding.check_attention(mesh, dataclasses.replace(model, attention=form))


def test_heads_that_the_kernel_does_not_take_on_a_device_are_refused(monkeypatch):
    monkeypatch.setitem(attention.PLATFORMS, "pallas", ("cpu",))
    made = get_config("model=b16")
    made.model.attention = "pallas"
    model = from_config_dict(made).model  # 12 heads of 64, and 8 in the text tower
    for size in (1, 2):
        sharding.check_attention(mesh_lib.make_mesh(tensor=size), model)
    with pytest.raises(mesh_lib.MeshError, match="vision has 3 heads of 64 on a device"):
        sharding.check_attention(mesh_lib.make_mesh(tensor=4), model)
