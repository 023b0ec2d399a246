"""The roofline, by hand."""

from mova_jax.cost.chips import CHIPS
from mova_jax.planning.collectives import NETWORK, Collective
from mova_jax.planning.roofline import Roofline, roofline

V5E = CHIPS["v5e"]


class Device:
    def __init__(self, number):
        self.coords = (number % 4, number // 4 % 4, 0)


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
