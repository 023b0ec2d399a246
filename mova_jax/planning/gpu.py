"""GPUs that exist only for the compiler: XLA compiles for a card from a description of it.

The description is a GpuTargetConfigProto in text form. Its figures are those that XLA publishes for
these cards (xla/backends/gpu/target_config/specs); those of the L4 are NVIDIA's for compute
capability 8.9 (CUDA C++ Programming Guide, "Compute Capabilities") and for its 58 multiprocessors.
"""

import dataclasses
from importlib import util
from typing import Any

from mova_jax.cost.chips import GPU_MEMORY_SHARE, Chip

INSTALL = (
    "GPU topologies need JAX's compiler for CUDA, which is not installed: pip install -r "
    "requirements-gpu-plan.txt (0.2 GB; no GPU and no driver is needed). Without it: "
    "--topology=cpu:8 or --topology=local"
)
# Triton's tiles are found by timing them on the GPU. Without one XLA fails ("Couldn't find output
# tile sizes"), so products go to cuBLAS; a run may fuse more and need other temporaries.
COMPILER_OPTIONS = {"xla_gpu_enable_triton_gemm": False}
CUDNN = 9, 10  # version of the runtime that is compiled for


@dataclasses.dataclass(frozen=True)
class _Card:
    """What the compiler asks of a card that `cost/chips.py` does not know."""

    capability: tuple[int, int]
    cores: int  # streaming multiprocessors
    fpus: int  # float32 units of a core
    threads: int  # of a core, at most
    shared: int  # bytes of shared memory of a core
    l2: int  # bytes
    ghz: float
    # Hopper has instructions that later generations do not have ("sm_90a").
    feature: str = "NONE"


_HOPPER = _Card((9, 0), 132, 128, 2048, 233_472, 52_428_800, 1.98, "ACCELERATED_FEATURES")
_CARDS = {
    "l4": _Card((8, 9), 58, 128, 1536, 102_400, 50_331_648, 2.04),
    "a100": _Card((8, 0), 108, 64, 2048, 167_936, 41_943_040, 1.41),
    "h100": _HOPPER,
    "h200": _HOPPER,
}


def is_installed() -> bool:
    """Whether JAX's plugin for CUDA is there; it compiles without a driver."""
    try:
        return any(util.find_spec(f"jax_plugins.xla_cuda{version}") for version in (12, 13))
    except ModuleNotFoundError:  # no plugin at all
        return False


def devices(chip: Chip, nodes: int, count: int) -> list[Any]:
    """JAX devices of a kind of GPU, node by node; `process_index` is the node.

    Args:
        chip: a GPU of `cost/chips.py`.
        nodes: machines.
        count: GPUs of each.
    """
    from jax.experimental import topologies

    assume_cudnn()
    # Partitions x hosts x GPUs of a host: a partition is what NVLink joins.
    shape = f"{nodes}x1x{count}"
    description = topologies.get_topology_desc(
        platform="cuda", target_config=target_config(chip), topology=shape
    )
    return list(description.devices)


def assume_cudnn() -> None:
    """Lets JAX trace attention by cuDNN where there is no cuDNN, as of the version of the target.

    JAX asks the library, of 0.7 GB, for nothing but its version.
    """
    from jax._src.cudnn import fused_attention_stablehlo

    fused_attention_stablehlo.check_cudnn_version = lambda: CUDNN[0] * 10_000 + CUDNN[1] * 100


def target_config(chip: Chip) -> str:
    """The description of a card for XLA, a GpuTargetConfigProto in text form."""
    card = _CARDS[chip.name]
    major, minor = card.capability
    return f"""
platform_name: "CUDA"
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {card.shared}
  shared_memory_per_block_optin: {card.shared - 1024}
  threads_per_core_limit: {card.threads}
  core_count: {card.cores}
  fpus_per_core: {card.fpus}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  memory_bandwidth: {int(chip.hbm_bandwidth)}
  l2_cache_size: {card.l2}
  clock_rate_ghz: {card.ghz}
  device_memory_size: {round(chip.hbm_usable / GPU_MEMORY_SHARE)}
  cuda_compute_capability {{ major: {major} minor: {minor} feature_extension: {card.feature} }}
}}
runtime_version {{ major: 12 minor: 9 patch: 0 }}
dnn_version_info {{ major: {CUDNN[0]} minor: {CUDNN[1]} patch: 0 }}
device_description_str: "{chip.kind}"
"""
