#!/usr/bin/env bash
# Trains on the embedded data, from a fresh clone to the report; typed again, it resumes.
#
#     bash launch/run.sh [arguments of mova_jax.main]
#     bash launch/run.sh --workdir=runs/longer --config.train.steps=5000
#
# A --config or --workdir given here takes the place of the default. Relative paths count from the
# project's root, wherever this is called from.

source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
prepare_environment requirements.txt

# Of a flag that is given twice the last one counts.
exec "$python" -m mova_jax.main --workdir=runs/base --config=configs/base.py "$@"
