#!/usr/bin/env bash
# Runs a command and restarts it when it was stopped from outside: the loop on each host of a pod.
#
#     bash launch/supervise.sh [--attempts N] COMMAND [ARGUMENT ...]
#
# After exit codes 143 (SIGTERM: a preemption), 75 and 134 (another process was lost) the command
# starts again, up to N times (100), and resumes from its last checkpoint. Any other code is passed
# on. A SIGTERM or Ctrl-C to this script goes to the command, and ends both.
#
# The other processes also end with 75 or 134 when one fails at the same place each time, and with
# 134 when a host does not join within JAX's five minutes. So three of these codes in a row, each
# within ten minutes of the start, end this script: the run makes no progress.
#
# On Google Cloud a maintenance notice of the metadata server counts as a SIGTERM: it comes before
# the machine stops, so that the run can save. The command starts again when the notice is gone;
# such a restart is not counted. A machine that is preempted ends this script with code 143.

set -euo pipefail

readonly again=" 143 75 134 " lost=" 75 134 "
readonly metadata=http://metadata.google.internal/computeMetadata/v1/instance
readonly pause=${SUPERVISE_PAUSE_S:-10} soon=${SUPERVISE_SOON_S:-600}
readonly look=${SUPERVISE_LOOK_S:-5} # how often the metadata server is asked
readonly most_lost=3 noticed=99      # 99: the watcher's exit code when it saw a notice

say() { printf 'supervise: %s\n' "$*" >&2; }

ask() { curl -sf --max-time 2 -H 'Metadata-Flavor: Google' "$metadata/$1"; }

# Whether a maintenance of the machine is announced, and whether it is being preempted.
maintenance() { [[ -n "$google" && "$(ask maintenance-event || echo NONE)" != NONE ]]; }
preempted() { [[ -n "$google" && "$(ask preempted || echo FALSE)" == TRUE ]]; }

# Sends SIGTERM to process $1 when the metadata server announces maintenance or a preemption.
watch_notices() {
  [[ -n "$google" ]] || return 0
  while sleep "$look"; do
    if maintenance || preempted; then
      say "notice from the machine (maintenance or preemption): saving"
      kill -TERM "$1" 2>/dev/null || true
      return "$noticed"
    fi
  done
}

# Returns when no maintenance is announced; ends the script at a preemption or a stop signal.
wait_for_machine() {
  local announced=''
  while true; do
    [[ -z "$stopped" ]] || exit 143
    if preempted; then
      say "the machine is being taken: ending"
      exit 143
    fi
    maintenance || return 0
    [[ -n "$announced" ]] || say "waiting until the maintenance is over"
    announced=yes
    sleep "$look"
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

# Outside of Google Cloud there is no such host and nothing to watch.
google=''
if command -v curl >/dev/null && ask maintenance-event >/dev/null 2>&1; then google=yes; fi

attempt=1 lost_soon=0
while true; do
  wait_for_machine
  began=$SECONDS
  # Job control gives the command a process group of its own, so that Ctrl-C reaches it once.
  set -m
  "$@" &
  child=$!
  set +m
  [[ -z "$stopped" ]] || forward TERM # the signal came while the command was being started
  watch_notices "$child" &
  watcher=$!
  code=0 seen=0
  # A forwarded signal interrupts `wait`: wait until the command itself is gone.
  while wait "$child" && code=0 || code=$?; kill -0 "$child" 2>/dev/null; do :; done
  child=''
  kill "$watcher" 2>/dev/null || true
  wait "$watcher" || seen=$?
  if [[ -n "$stopped" || "$again" != *" $code "* ]]; then
    exit "$code"
  fi
  if ((seen == noticed)); then
    say "exit code $code after a notice"
    continue
  fi
  if [[ "$lost" == *" $code "* ]] && ((SECONDS - began < soon)); then
    lost_soon=$((lost_soon + 1))
  else
    lost_soon=0
  fi
  if ((lost_soon >= most_lost)); then
    say "exit code $code, $lost_soon times in a row within $soon s of the start: giving up." \
      "The first error in the log of the host that ended first is the cause"
    exit "$code"
  fi
  if ((attempt >= attempts)); then
    say "exit code $code after $attempt attempts: giving up"
    exit "$code"
  fi
  case $code in
    143) why="it was told to stop" ;;
    *) why="another process of the run was lost" ;;
  esac
  say "exit code $code, $why: starting again ($attempt of $attempts)"
  attempt=$((attempt + 1))
  sleep "$pause"
done
