# shellcheck shell=bash
# Sourced by tpu.sh and gke.sh: goes to the project's root and defines their shared functions.

set -euo pipefail
CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

say() { printf '%s: %s\n' "$(basename -- "$0" .sh)" "$*" >&2; }

fail() {
  say "$*"
  exit 2
}

# Runs a command; with $dry_run prints it, quoted so that it can be pasted.
do_it() {
  if [[ -n "${dry_run:-}" ]]; then
    printf '%q ' "$@" && echo
  else
    "$@"
  fi
}
