"""Figures of accelerators from public documents, for rooflines and MFUs.

All figures are of one chip. Bandwidths are in bytes per second; those of links are of one
direction. `hbm_usable` is less than the built-in memory: for TPUs it is the limit that libtpu
0.0.42 names when a program does not fit, for GPUs the share that JAX allocates.
"""

import dataclasses

GIB = 2**30
# Share of a GPU's memory for JAX; launch/gpu.sh says why. NCCL, cuDNN and cuBLAS take theirs from
# the rest.
GPU_MEMORY_SHARE = 0.9


@dataclasses.dataclass(frozen=True)
class Chip:
    """One kind of chip."""

    name: str  # as in the names of topologies
    kind: str  # `device_kind` of its devices in JAX
    peak_flops: float  # bfloat16 FLOP/s
    hbm_usable: float  # bytes
    hbm_bandwidth: float  # bytes/s
    link_bandwidth: float  # bytes/s of one link to a neighbour, one direction
    torus_axes: int  # dimensions of the torus of links; 0: GPUs, all of a node joined alike
    # Axes of this length (in 2 dimensions) or of its multiples (in 3) are rings.
    wraps_at: int
    dcn_bandwidth: float  # bytes/s to other slices or nodes, one direction
    devices: int  # JAX devices per chip
    price: float | None  # USD per chip-hour on demand in `price_region`; None: unknown
    price_region: str
    source: str

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU: its links go through a switch, and XLA compiles for it by itself."""
        return not self.torus_axes

    @property
    def networks(self) -> tuple[str, str]:
        """What joins the chips of a slice or node, and what joins the slices or nodes."""
        if not self.is_gpu:
            return "ICI", "DCN"
        return ("NVLink" if self.link_bandwidth > _PCIE_5 else "PCIe"), "network"


_PCIE_5 = 64e9  # bytes/s of 16 lanes, one direction; NVLink is faster
PRICES = "list prices on demand, as in public price lists of 2026; they change and differ by region"
_DOCS = "https://docs.cloud.google.com/tpu/docs"
_SOURCES = {
    "v4": f"{_DOCS}/v4; links: arXiv 2304.01433; DCN: jax-ml.github.io/scaling-book/tpus",
    "v5e": f"{_DOCS}/v5e",
    "v5p": f"{_DOCS}/tpu7x, table of v5p, v6e and TPU7x",
    "v6e": f"{_DOCS}/v6e and {_DOCS}/tpu7x",
    "tpu7x": f"{_DOCS}/tpu7x",
    "a100": "NVIDIA A100 datasheet; network: DGX A100, one 200 Gbit/s port a GPU",
    "h100": "NVIDIA H100 SXM datasheet, dense; network: DGX H100, one 400 Gbit/s port a GPU",
    "h200": "NVIDIA H200 SXM datasheet, dense; network: DGX H200, one 400 Gbit/s port a GPU",
    "l4": "NVIDIA L4 datasheet, dense; links: PCIe 4.0; network: 100 Gbit/s for 8 GPUs (g2 of GCP)",
}
# The fields of `Chip` from `kind` to `price_region`. Links of TPUs, from their sum in both
# directions: 400 GB/s over 4 ports (v5e), 800 over 4 (v6e), 1,200 over 6 (v5p, TPU7x). DCN of v5e:
# 2 x 100 Gbit/s a host of 8 chips. Links of GPUs are half of what the datasheets give for both
# directions. Memory of GPUs is what CUDA reports: XLA's target configurations
# (xla/backends/gpu/target_config/specs), for L4 rounded down from 24 GB less ECC.
_FIGURES = {
    "v4": ("TPU v4", 275e12, 30.75 * GIB, 1200e9, 50e9, 3, 4, 6.25e9, 1, 3.22, "us-central2"),
    "v5e": ("TPU v5 lite", 197e12, 15.75 * GIB, 819e9, 50e9, 2, 16, 3.125e9, 1, 1.2, "us-central1"),
    "v5p": ("TPU v5", 459e12, 95.74 * GIB, 2765e9, 100e9, 3, 4, 6.25e9, 1, 4.2, "us-central1"),
    "v6e": (
        "TPU v6 lite",
        918e12,
        31.25 * GIB,
        1638e9,
        100e9,
        2,
        16,
        12.5e9,
        1,
        2.7,
        "us-central1",
    ),
    "tpu7x": ("TPU7x", 2307e12, 2 * 94.75 * GIB, 7380e9, 100e9, 3, 4, 12.5e9, 2, None, ""),
    **{
        name: (kind, peak, GPU_MEMORY_SHARE * memory, hbm, links, 0, 0, network, 1, None, "")
        for name, kind, peak, memory, hbm, links, network in (
            ("l4", "NVIDIA L4", 121e12, 22 * GIB, 300e9, 32e9, 1.5625e9),
            ("a100", "NVIDIA A100-SXM4-80GB", 312e12, 85_100_068_864, 2039e9, 300e9, 25e9),
            ("h100", "NVIDIA H100 80GB HBM3", 989e12, 84_942_979_072, 3352e9, 450e9, 50e9),
            ("h200", "NVIDIA H200", 989e12, 151_397_597_184, 4800e9, 450e9, 50e9),
        )
    },
}
CHIPS = {name: Chip(name, *figures, source=_SOURCES[name]) for name, figures in _FIGURES.items()}


def of_kind(kind: str) -> Chip | None:
    """The chip of a `jax.Device.device_kind`; None if the table has none, as for CPUs."""
    return next((chip for chip in CHIPS.values() if chip.kind == kind), None)
