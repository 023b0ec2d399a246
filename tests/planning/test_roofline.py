"""The roofline, by hand."""

import pytest

from mova_jax.planning.chips import CHIPS
from mova_jax.planning.collectives import Collective
from mova_jax.planning.roofline import Roofline, roofline

V5E = CHIPS["v5e"]


class Device:
    def __init__(self, number, slice_index=0):
        self.coords, self.slice_index = (number % 4, number // 4 % 4, 0), slice_index


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


def test_slices_are_joined_by_the_network_each_device_bringing_its_share():
    devices = [Device(i % 16, i // 16) for i in range(32)]
    received = 2 * 64e9 * 31 / 32  # an all-reduce of 64 GB over all
    bounds = roofline(V5E, 0, 0, [collective(range(32), received)], devices, (4, 4))
    across = 2 * 64e9 / 2 / 16
    assert bounds.dcn == pytest.approx(across / 3.125e9)
    assert bounds.ici == pytest.approx((received - across) / 100e9)


def test_a_group_with_one_device_a_slice_uses_the_network_alone():
    devices = [Device(0, 0), Device(0, 1)]
    bounds = roofline(V5E, 0, 0, [collective((0, 1), 3.125e9)], devices, (1, 1))
    assert (bounds.ici, bounds.dcn) == (0.0, 1.0)


def test_both_ends_of_the_step_time():
    bounds = Roofline(compute=3.0, hbm=4.0, ici=1.0, dcn=2.0)
    assert (bounds.step, bounds.without_overlap, bounds.bound) == (4.0, 7.0, "hbm")
