#!/usr/bin/env bash
# Checks the style, then runs the tests, in two processes.
#
#     bash launch/test.sh [arguments of pytest]
#     bash launch/test.sh tests/models -x
#     bash launch/test.sh -m "slow or not slow"    # every test: takes longer, run it nightly
#     bash launch/test.sh -n 0                     # in one process, for a debugger
#
# Relative paths count from the project's root, wherever this is called from.

source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"
prepare_environment requirements-dev.txt

"$python" -m ruff check --quiet
"$python" -m ruff format --check
.venv/bin/shellcheck --external-sources --source-path=SCRIPTDIR launch/*.sh .ci/run
exec "$python" -m pytest -n 2 --dist worksteal "$@"
