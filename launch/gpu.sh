#!/usr/bin/env bash
# Runs a command with the settings for NVIDIA GPUs that NVIDIA's and MaxText's recipes agree on:
#
#     bash launch/gpu.sh .venv/bin/python -m mova_jax.main --config=configs/base.py
#
# slurm.sh, gpu_check.sh and the image run through it. What is set already stays as it is; of
# XLA_FLAGS the last of two equal flags counts, so yours win. None was measured with this project.

set -euo pipefail

# The schedule hides collectives behind products, and loops pipeline them.
export JAX_OPTIMIZATION_LEVEL=${JAX_OPTIMIZATION_LEVEL:-O1}

# JAX takes 75 % by itself. The rest is for NCCL's buffers and the workspaces of cuDNN and cuBLAS;
# `plan` counts with the same share (GPU_MEMORY_SHARE in mova_jax/cost/chips.py).
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.9}

flags=(
  # mesh.fsdp: gathers and sums of at least a whole block's weights in one message (L/14 has 50 MB a
  # block in float32). Smaller ones are bound by latency.
  --xla_gpu_all_gather_combine_threshold_bytes=134217728
  --xla_gpu_reduce_scatter_combine_threshold_bytes=134217728
  --xla_gpu_all_reduce_combine_threshold_bytes=134217728
  # The ring of the modular losses: permutes of more than 1 kB become sends and receives, which a
  # loop starts one visit ahead.
  --xla_gpu_collective_permute_decomposer_threshold=1024
  --xla_gpu_enable_pipelined_p2p=true
)
export XLA_FLAGS="${flags[*]} ${XLA_FLAGS:-}"

# Compute capabilities of this machine's GPUs, such as 9.0; nothing without a driver.
capabilities=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null || true)
newest=$(sort -rn <<<"$capabilities" | head -n 1)
if [[ "${newest%%.*}" =~ ^[0-9]+$ ]]; then
  # One queue of work a GPU: XLA has put it in order already, and a collective that was started first
  # then begins first. Blackwell runs slower with it.
  ((${newest%%.*} >= 10)) ||
    export CUDA_DEVICE_MAX_CONNECTIONS=${CUDA_DEVICE_MAX_CONNECTIONS:-1}
  # A node of 8 from Hopper on has NVSwitches that sum by themselves.
  if ((${newest%%.*} >= 9 && $(wc -l <<<"$capabilities") >= 8)); then
    export NCCL_NVLS_ENABLE=${NCCL_NVLS_ENABLE:-1}
  fi
fi

exec "$@"
