#!/usr/bin/env bash
# Only makes or updates .venv, for hosts on which another script starts the training.
#
#     bash launch/setup.sh [requirements.txt | requirements-tpu.txt | ...]

source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
prepare_environment "${1:-requirements.txt}"
