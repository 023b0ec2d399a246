"""Figures of accelerators from public documents, for rooflines and MFUs.

All figures are of one chip. Bandwidths are in bytes per second; those of links are of one
direction. `hbm_usable` is less than the built-in memory: it is the limit that libtpu 0.0.42 names
when a program does not fit.
"""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of chip."""

    name: str  # as in the names of topologies
    kind: str  # `device_kind` of its devices in JAX
    peak_flops: float  # bfloat16 FLOP/s
    hbm_usable: float  # bytes
    hbm_bandwidth: float  # bytes/s
    link_bandwidth: float  # bytes/s of one link to a neighbour, one direction
    torus_axes: int  # dimensions of the torus of links; 0: a switch between all chips
    # Axes of this length (in 2 dimensions) or of its multiples (in 3) are rings.
    wraps_at: int
    dcn_bandwidth: float  # bytes/s to other slices, one direction
    price: float | None  # USD per chip-hour on demand in `price_region`; None: unknown
    price_region: str
    source: str
    devices: int = 1  # JAX devices per chip


PRICES = "list prices on demand, as in public price lists of 2026; they change and differ by region"
_DOCS = "https://docs.cloud.google.com/tpu/docs"

CHIPS = {
    chip.name: chip
    for chip in (
        Chip(
            name="v4",
            kind="TPU v4",
            peak_flops=275e12,
            hbm_usable=30.75 * GIB,
            hbm_bandwidth=1200e9,
            link_bandwidth=50e9,
            torus_axes=3,
            wraps_at=4,
            dcn_bandwidth=6.25e9,
            price=3.22,
            price_region="us-central2",
            source=f"{_DOCS}/v4; links: arXiv 2304.01433; DCN: jax-ml.github.io/scaling-book/tpus",
        ),
        Chip(
            name="v5e",
            kind="TPU v5 lite",
            peak_flops=197e12,
            hbm_usable=15.75 * GIB,
            hbm_bandwidth=819e9,
            link_bandwidth=50e9,  # 400 GB/s in both directions over 4 ports
            torus_axes=2,
            wraps_at=16,
            dcn_bandwidth=200e9 / 8 / 8,  # 2 x 100 Gbit/s a host of 8 chips
            price=1.20,
            price_region="us-central1",
            source=f"{_DOCS}/v5e",
        ),
        Chip(
            name="v5p",
            kind="TPU v5",
            peak_flops=459e12,
            hbm_usable=95.74 * GIB,
            hbm_bandwidth=2765e9,
            link_bandwidth=100e9,  # 1,200 GB/s in both directions over 6 ports
            torus_axes=3,
            wraps_at=4,
            dcn_bandwidth=50e9 / 8,
            price=4.20,
            price_region="us-central1",
            source=f"{_DOCS}/tpu7x, table of v5p, v6e and TPU7x",
        ),
        Chip(
            name="v6e",
            kind="TPU v6 lite",
            peak_flops=918e12,
            hbm_usable=31.25 * GIB,
            hbm_bandwidth=1638e9,
            link_bandwidth=100e9,  # 800 GB/s in both directions over 4 ports
            torus_axes=2,
            wraps_at=16,
            dcn_bandwidth=100e9 / 8,
            price=2.70,
            price_region="us-central1",
            source=f"{_DOCS}/v6e and {_DOCS}/tpu7x",
        ),
        Chip(
            name="tpu7x",
            kind="TPU7x",
            peak_flops=2307e12,
            hbm_usable=2 * 94.75 * GIB,
            hbm_bandwidth=7380e9,
            link_bandwidth=100e9,  # 1,200 GB/s in both directions over 6 ports
            torus_axes=3,
            wraps_at=4,
            dcn_bandwidth=100e9 / 8,
            price=None,
            price_region="",
            source=f"{_DOCS}/tpu7x",
            devices=2,
        ),
        Chip(
            name="a100",
            kind="NVIDIA A100-SXM4-80GB",
            peak_flops=312e12,
            hbm_usable=80e9,
            hbm_bandwidth=2039e9,
            link_bandwidth=300e9,
            torus_axes=0,
            wraps_at=0,
            dcn_bandwidth=25e9,
            price=None,
            price_region="",
            source="NVIDIA A100 datasheet; network: DGX A100, one 200 Gbit/s port a GPU",
        ),
        Chip(
            name="h100",
            kind="NVIDIA H100 80GB HBM3",
            peak_flops=989e12,
            hbm_usable=80e9,
            hbm_bandwidth=3350e9,
            link_bandwidth=450e9,
            torus_axes=0,
            wraps_at=0,
            dcn_bandwidth=50e9,
            price=None,
            price_region="",
            source="NVIDIA H100 SXM datasheet, dense; network: DGX H100, one 400 Gbit/s port a GPU",
        ),
    )
}


def of_kind(kind: str) -> Chip | None:
    """The chip of a `jax.Device.device_kind`; None if the table has none, as for CPUs."""
    return next((chip for chip in CHIPS.values() if chip.kind == kind), None)
