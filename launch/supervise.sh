#!/usr/bin/env bash
# Runs a command, and again when it was stopped from outside: the loop on each host of a pod.
#
#     bash launch/supervise.sh [--attempts N] COMMAND [ARGUMENT ...]
#
# Exit codes 143 (SIGTERM: a preemption), 75 and 134 (another process was lost) say that the
# same command goes on from the last checkpoint, and start it again, up to N times (100). Any other
# code is passed on. A SIGTERM or Ctrl-C to this script goes to the command, and ends both.
#
# On Google Cloud the maintenance notice of the metadata server counts as a SIGTERM: it comes
# before the machine stops, so that the run saves where it is.

set -euo pipefail

readonly again=" 143 75 134 "
readonly metadata=http://metadata.google.internal/computeMetadata/v1/instance

say() { printf 'supervise: %s\n' "$*" >&2; }

# Sends SIGTERM to process $1 when the metadata server announces maintenance or a preemption.
watch_notices() {
  local event taken
  command -v curl >/dev/null || return 0
  # Elsewhere than on Google Cloud there is no such host, and nothing to watch.
  curl --silent --fail --max-time 2 --header 'Metadata-Flavor: Google' \
    "$metadata/maintenance-event" >/dev/null 2>&1 || return 0
  while sleep 5; do
    event=$(curl -sf --max-time 2 -H 'Metadata-Flavor: Google' "$metadata/maintenance-event") ||
      event=NONE
    taken=$(curl -sf --max-time 2 -H 'Metadata-Flavor: Google' "$metadata/preempted") ||
      taken=FALSE
    if [[ "$event" != NONE || "$taken" == TRUE ]]; then
      say "notice from the machine (maintenance $event, preempted $taken): saving"
      kill -TERM "$1" 2>/dev/null || true
      return 0
    fi
  done
}

attempts=100
if [[ "${1:-}" == --attempts ]]; then
  attempts=$2
  shift 2
fi
[[ $# -gt 0 ]] || { say "no command given; see the head of $0" && exit 2; }

child='' stopped=''
forward() {
  stopped=yes
  [[ -z "$child" ]] || kill "-$1" "$child" 2>/dev/null || true
}
trap 'forward TERM' TERM
trap 'forward INT' INT

for ((attempt = 1; ; attempt++)); do
  # Job control, so that the command has a process group of its own and Ctrl-C reaches it once.
  set -m
  "$@" &
  child=$!
  set +m
  watch_notices "$child" &
  watcher=$!
  code=0
  # A signal that is forwarded ends `wait` early: wait until the command itself is gone.
  while wait "$child" && code=0 || code=$?; kill -0 "$child" 2>/dev/null; do :; done
  kill "$watcher" 2>/dev/null || true
  if [[ -n "$stopped" || "$again" != *" $code "* ]]; then
    exit "$code"
  fi
  if ((attempt >= attempts)); then
    say "exit code $code after $attempt attempts: giving up"
    exit "$code"
  fi
  say "exit code $code: starting again ($attempt of $attempts)"
  sleep "${SUPERVISE_PAUSE_S:-10}"
done
