#!/usr/bin/env bash
# Trains on the Storyboard data, from a fresh clone to the report. The same command resumes a run.
#
#     bash launch/run.sh [arguments of mova_jax.main]
#     bash launch/run.sh --workdir=runs/longer --config.train.steps=5000
#
# A --config or --workdir given here replaces the default. Relative paths count from the
# project's root, wherever this is called from.

source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
prepare_environment requirements.txt

# On a CPU, large pages for large arrays: a step of this recipe has 100 times fewer page faults and
# takes 0.87 of the time. Steps of large models take longer with them (docs/results.md), and
# GLIBC_TUNABLES=glibc.malloc.hugetlb=0 does without. Changes no figure; other systems ignore it.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"

# The last of two equal flags counts.
exec "$python" -m mova_jax.main --workdir=runs/base --config=configs/base.py "$@"
