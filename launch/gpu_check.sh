#!/usr/bin/env bash
# Ten minutes on a machine with an NVIDIA GPU: whether this project runs on it as it does on a CPU,
# how fast, and whether `plan` told the truth. Prints one table to paste into an issue.
#
#     bash launch/gpu_check.sh
#     bash launch/gpu_check.sh --dry_run      # without a GPU: tiny models on the CPU, in minutes
#
# It makes .venv (3.2 GB of download, which do not count), and uses one GPU that must be idle. A check
# that fails is a line of the table; the others go on.

source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

if [[ " $* " == *" --dry_run "* ]]; then
  prepare_environment requirements.txt
else
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader ||
    { say "nvidia-smi finds no GPU; without one, try --dry_run" && exit 1; }
  prepare_environment requirements-gpu.txt
fi
exec bash launch/gpu.sh "$python" -m benchmarks.gpu_check "$@"
