# shellcheck shell=bash
# Sourced by the launch scripts. Goes to the project's root and sets `python` to the interpreter of
# .venv, which is made when there is none and updated when the requirements changed.
#
#     source environment.sh; prepare_environment requirements.txt; "$python" -m ...
#
# PYTHON=/path/to/python chooses the interpreter that .venv is made with.

set -euo pipefail
CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
python="$PWD/.venv/bin/python"

say() { printf '%s: %s\n' "$(basename -- "$0")" "$*" >&2; }

# Prints the first interpreter of at least Python 3.11 that can make an environment with pip.
find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3.13 python3 python; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
      2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  say "found no Python 3.11 or newer with its venv module (tried python3.11, python3.12," \
    "python3.13, python3, python). Install one (on Debian and Ubuntu: python3 and" \
    "python3-venv), or name one: PYTHON=/path/to/python bash $0"
  return 1
}

# A checksum of the requirements: of all files, since they include each other.
fingerprint() { cat requirements*.txt | cksum; }

# Makes or updates .venv so that it holds the requirements of file $1.
prepare_environment() {
  local requirements=$1 stamp=.venv/installed-$1 base
  # Two scripts started at once must not install into one environment at once.
  if command -v flock >/dev/null; then
    exec 9>.venv.lock
    flock --nonblock 9 || { say "waiting for another script to finish .venv" && flock 9; }
  fi
  if ! "$python" -m pip --version >/dev/null 2>&1; then
    base=$(find_python)
    say "making .venv with $("$base" --version)"
    "$base" -m venv --clear .venv
  fi
  if [[ "$(cat "$stamp" 2>/dev/null)" != "$(fingerprint)" ]]; then
    say "installing $requirements into .venv (the first time some minutes and 1 to 3 GB)"
    rm -f .venv/installed-*
    "$python" -m pip install --quiet --quiet --disable-pip-version-check \
      --requirement "$requirements"
    # Written last, so that an interrupted installation is repeated.
    fingerprint >.venv/installed-requirements.txt
    fingerprint >"$stamp"
  fi
  exec 9>&-
}
