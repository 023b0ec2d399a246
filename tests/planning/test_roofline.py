"""The roofline, by hand."""

import dataclasses

import pytest

from mova_jax.cost.chips import CHIPS
from mova_jax.planning.collectives import NETWORK, Collective, from_other_nodes
from mova_jax.planning.roofline import Roofline, roofline

V5E = CHIPS["v5e"]


class Device:
    def __init__(self, number):
        self.coords = (number % 4, number // 4 % 4, 0)


class Gpu:
    def __init__(self, node):
        self.process_index = node


def collective(group, size, kind="all-reduce"):
    return Collective(kind, "", 1.0, size, len(group), tuple(group))


def test_each_bound_is_its_amount_over_what_the_chip_can_do():
    devices = [Device(i) for i in range(16)]
    found = [collective(range(16), 100e9)]
    bounds = roofline(V5E, 16 * 197e12, 819e9 / 2, found, devices, (4, 4))
    assert (bounds.compute, bounds.hbm, bounds.dcn) == (1.0, 0.5, 0.0)
    assert bounds.ici == 100e9 / (2 * 50e9)


def test_a_permutation_goes_over_one_link():
    devices = [Device(i) for i in range(16)]
    found = [collective((0, 1), 50e9, "collective-permute")]
    assert roofline(V5E, 0, 0, found, devices, (4, 4)).ici == 1.0


def test_what_crosses_slices_comes_in_over_the_network():
    devices = [Device(i % 16) for i in range(32)]
    found = [Collective(NETWORK, "", 1.0, 3.125e9, 0, ()), collective(range(16), 50e9)]
    bounds = roofline(V5E, 0, 0, found, devices, (4, 4))
    assert (bounds.dcn, bounds.ici) == (1.0, 0.5)


def test_both_ends_of_the_step_time():
    bounds = Roofline(compute=3.0, hbm=4.0, ici=1.0, dcn=2.0)
    assert (bounds.step, bounds.without_overlap, bounds.bound) == (4.0, 7.0, "hbm")


TWO_NODES = [0] * 8 + [1] * 8


@pytest.mark.parametrize(
    ("kind", "group", "received", "expected"),
    [
        # A result of 16 parts of 1: a node lacks 8 of them, one for each of its GPUs' ports.
        ("all-gather", range(16), 15.0, 1.0),
        ("all-reduce", range(16), 30.0, 2.0),
        # Two GPUs a node: it lacks 2 parts of 4, for 2 ports.
        ("all-gather", (0, 1, 8, 9), 3.0, 1.0),
        # Every GPU lacks what all 8 of the other node have for it alone.
        ("all-to-all", range(16), 15.0, 8.0),
        ("all-gather", (0, 8), 1.0, 1.0),
        ("all-gather", range(8), 7.0, 0.0),
        ("all-gather", (), 0.0, 0.0),
    ],
)
def test_what_a_gpu_receives_from_other_nodes(kind, group, received, expected):
    assert from_other_nodes(collective(group, received, kind), TWO_NODES) == expected


def test_a_ring_over_two_nodes_is_as_slow_as_the_network():
    ring = collective((0, 1), 5.0, "collective-permute")
    inside = dataclasses.replace(ring, pairs=((0, 1), (1, 0)))
    around = dataclasses.replace(ring, pairs=((0, 1), (7, 8)))
    assert from_other_nodes(inside, TWO_NODES) == 0
    assert from_other_nodes(around, TWO_NODES) == 5.0


def test_gpus_of_two_nodes_use_nvlink_and_the_network():
    h100, devices = CHIPS["h100"], [Gpu(node) for node in TWO_NODES]
    found = [collective(range(16), 15 * 50e9, "all-gather"), collective(range(8), 450e9)]
    bounds = roofline(h100, 0, 0, found, devices, (2, 8))
    assert bounds.dcn == 1.0
    assert bounds.ici == pytest.approx(14 * 50 / 450 + 1.0)
    assert h100.networks == ("NVLink", "network") and V5E.networks == ("ICI", "DCN")
    assert CHIPS["l4"].networks == ("PCIe", "network")
