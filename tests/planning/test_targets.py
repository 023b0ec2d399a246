"""Names of topologies, and what is set before JAX starts."""

import types

import jax
import pytest

from mova_jax.cost.chips import CHIPS, of_kind
from mova_jax.planning import targets as topology_lib
from mova_jax.planning.targets import TopologyError, parse


@pytest.mark.parametrize(
    ("name", "platform", "chips"),
    [
        ("v5e:16x16", "tpu", 256),
        ("v5p:4x4x4", "tpu", 64),
        ("v6e:4x8*2", "tpu", 64),
        ("tpu7x:2x2x1", "tpu", 4),
        ("cpu:8", "cpu", 8),
        ("local", "local", 0),
    ],
)
def test_names_of_topologies(name, platform, chips):
    topology = parse(name)
    assert (topology.platform, topology.chips) == (platform, chips)
    assert (topology.chip is not None) == (platform == "tpu")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("v5e", "expected CHIP:SHAPE"),
        ("v9:4x4", "v4, v5e, v5p, v6e, tpu7x"),
        ("v5e:4x4x4", "v5e has 2 axes, as in v5e:4x4"),
        ("v5p:4x4", "v5p has 3 axes"),
        ("v5e:0x4", "2 axes"),
        ("cpu:2x2", "a number of devices: cpu:8"),
        ("h100:8", "expected CHIP:SHAPE"),
    ],
)
def test_names_that_are_none_say_what_is_expected(name, says):
    with pytest.raises(TopologyError, match=says):
        parse(name)


def test_simulated_devices_are_added_to_the_flags_that_were_set():
    environment = {"XLA_FLAGS": "--other=1", "JAX_PLATFORMS": "tpu"}
    topology_lib.prepare_environment(parse("cpu:6"), environment)
    assert environment["JAX_PLATFORMS"] == "cpu"
    assert environment["XLA_FLAGS"].split() == [
        "--other=1",
        "--xla_force_host_platform_device_count=6",
    ]


def test_the_machine_at_hand_is_left_as_it_is():
    environment = {}
    topology_lib.prepare_environment(parse("local"), environment)
    assert environment == {}
    assert topology_lib.devices(parse("local")) == jax.devices()


def test_the_shape_of_the_machine_at_hand_is_that_of_its_coordinates():
    def at(*coords):
        return types.SimpleNamespace(coords=coords)

    part = [at(x, y, 0) for y in range(4, 8) for x in range(2)]
    assert topology_lib.local_shape(CHIPS["v5e"], part) == (2, 4)
    cube = [at(x, y, z) for z in range(2) for y in range(2) for x in range(1) for _ in range(2)]
    assert topology_lib.local_shape(CHIPS["tpu7x"], cube) == (1, 2, 2)
    assert topology_lib.local_shape(CHIPS["h100"], [types.SimpleNamespace()] * 8) == (8,)


def test_without_libtpu_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(topology_lib.util, "find_spec", lambda name: None)
    with pytest.raises(TopologyError, match=r"pip install -r requirements-tpu\.txt"):
        topology_lib.prepare_environment(parse("v5e:4x4"), {})


def test_more_simulated_devices_than_jax_was_started_with():
    with pytest.raises(TopologyError, match="needs 99 devices"):
        topology_lib.devices(parse("cpu:99"))


def test_chips_are_found_by_the_kind_of_their_devices():
    assert of_kind("TPU v5 lite") is CHIPS["v5e"]
    assert of_kind(jax.devices()[0].device_kind) is None
    assert all(chip.source and chip.peak_flops > 1e14 for chip in CHIPS.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "devices", "kind"),
    [("v5e:4x4", 16, "v5e"), ("v4:2x2x1", 4, "v4"), ("tpu7x:2x2x1", 8, "tpu7x")],
)
def test_devices_of_a_tpu_that_is_not_here(monkeypatch, name, devices, kind):
    pytest.importorskip("libtpu")
    topology, environment = parse(name), {}
    topology_lib.prepare_environment(topology, environment)
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    found = topology_lib.devices(topology)
    assert len(found) == devices == topology.chips * CHIPS[kind].devices
    assert of_kind(found[0].device_kind) is CHIPS[kind]
