"""Names of topologies, and what is set before JAX starts."""

import types
from pathlib import Path

import jax
import pytest

from mova_jax.cost.chips import CHIPS, of_kind
from mova_jax.planning import gpu
from mova_jax.planning import targets as topology_lib
from mova_jax.planning.targets import TopologyError, parse

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("name", "platform", "chips"),
    [
        ("v5e:16x16", "tpu", 256),
        ("v5p:4x4x4", "tpu", 64),
        ("v6e:4x8*2", "tpu", 64),
        ("tpu7x:2x2x1", "tpu", 4),
        ("l4:1", "gpu", 1),
        ("h100:8", "gpu", 8),
        ("h200:2x8", "gpu", 16),
        ("cpu:8", "cpu", 8),
        ("local", "local", 0),
    ],
)
def test_names_of_topologies(name, platform, chips):
    topology = parse(name)
    assert (topology.platform, topology.chips) == (platform, chips)
    assert (topology.chip is not None) == (platform in ("tpu", "gpu"))
    # Only for GPUs that are not here can nothing be timed.
    assert bool(topology.compiler_options) == (platform == "gpu")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("v5e", "expected CHIP:SHAPE"),
        ("v9:4x4", "v4, v5e, v5p, v6e, tpu7x"),
        ("v5e:4x4x4", "v5e has 2 axes, as in v5e:4x4"),
        ("v5p:4x4", "v5p has 3 axes"),
        ("v5e:0x4", "2 axes"),
        ("cpu:2x2", "a number of devices: cpu:8"),
        ("h100", "GPUs such as h100:8"),
        ("h300:8", "l4, a100, h100, h200"),
        ("h100:2x2x2", "h100:8, h100:2x8"),
        ("a100:8*2", "a100:8, a100:2x8"),
        ("l4:0", "l4:8, l4:2x8"),
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


@pytest.mark.parametrize(
    ("name", "file"), [("v5e:4x4", "requirements-tpu"), ("h100:8", "requirements-gpu-plan")]
)
def test_without_the_compiler_it_says_what_to_install(name, file, monkeypatch):
    monkeypatch.setattr(topology_lib.util, "find_spec", lambda name: None)
    with pytest.raises(TopologyError, match=rf"pip install -r {file}\.txt"):
        topology_lib.prepare_environment(parse(name), {})
    assert (ROOT / f"{file}.txt").exists()


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


@pytest.mark.parametrize("name", ["l4:1", "a100:8", "h100:2x8", "h200:1x2"])
def test_devices_of_gpus_that_are_not_here(name):
    topology = parse(name)
    if not gpu.is_installed():
        pytest.skip("needs requirements-gpu-plan.txt")
    found = topology_lib.devices(topology)
    nodes, each = topology.shape
    assert [device.process_index for device in found] == [i // each for i in range(nodes * each)]
    assert of_kind(found[0].device_kind) is topology.chip


def test_the_compiler_is_given_the_memory_of_the_card_and_the_plan_a_share_of_it():
    chip = CHIPS["h100"]
    assert "device_memory_size: 84942979072" in gpu.target_config(chip)
    assert chip.hbm_usable == pytest.approx(0.9 * 84_942_979_072)
    assert "minor: 9 feature_extension: NONE" in gpu.target_config(CHIPS["l4"])
