"""Checksums: any one value that changes is found, on every mesh alike."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mova_jax.parallel import mesh as mesh_lib
from mova_jax.parallel import sharding
from mova_jax.utils import checksum
from mova_jax.utils.checksum import differing, json_checksum, state_checksums

TREE = {
    "params": {
        "a": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        "b": np.linspace(-1, 1, 8, dtype=np.float32).astype(jnp.bfloat16),
    },
    "step": np.int32(7),
    "finite": np.array([True, False]),
}


def plain(tree) -> int:
    """The same sum, value by value, in Python's integers."""
    total = 0
    for number, leaf in enumerate(jax.tree.leaves(tree)):
        bits = np.asarray(leaf).reshape(-1).view(f"u{np.asarray(leaf).dtype.itemsize}")
        own = sum(int(bit) * (2 * place + 1) for place, bit in enumerate(bits))
        total += (2 * number + 1) * own
    return total % 2**32


@pytest.fixture(params=["host", "devices"])
def on(request, monkeypatch):
    if request.param == "devices":
        monkeypatch.setattr(checksum, "_is_in_memory", lambda leaf: False)


def test_it_is_the_sum_by_hand(on, monkeypatch):
    monkeypatch.setattr(checksum, "_BLOCK", 5)
    assert state_checksums(TREE) == {name: plain(tree) for name, tree in TREE.items()}


def test_every_flipped_bit_is_found_in_its_field(on):
    saved = state_checksums(TREE)
    for place in range(24):
        flipped = TREE["params"]["a"].copy()
        flipped.reshape(-1).view(np.uint32)[place] ^= np.uint32(1 << place)
        found = state_checksums(TREE | {"params": TREE["params"] | {"a": flipped}})
        assert differing(saved, found) == ["params"]
    assert differing(saved, {"other": 1}) == []


@pytest.mark.parametrize("shape", [(1, 8, 1), (4, 1, 2)])
def test_it_is_the_same_on_every_mesh(on, shape):
    mesh = mesh_lib.make_mesh(**dict(zip(mesh_lib.AXES, shape, strict=True)))
    rows = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
    split = jax.device_put(rows, sharding.batch_sharding(mesh))
    assert state_checksums({"x": split}) == state_checksums({"x": rows}) == {"x": plain(rows)}


def test_json_is_compared_by_what_it_says():
    assert json_checksum({"a": 1, "b": [2.5]}) == json_checksum({"b": [2.5], "a": 1})
    assert json_checksum({"a": 1}) != json_checksum({"a": 2})
