#!/usr/bin/env bash
# Runs one training as several processes of this machine, connected by loopback: a small pod.
#
#     bash launch/local_processes.sh [--processes N] [--devices D] [arguments of mova_jax.main]
#     bash launch/local_processes.sh --processes 2 --devices 4 --config=configs/base.py
#
# N processes (2) with D CPU devices each (1); the batch is split over all N x D. Each line of the
# output begins with the number of its process. When one fails the others end too. Exit code: 0 when
# all are done, else that of the first process that failed. Needs bash 5.1.

source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

processes=2 devices=1
while [[ $# -gt 0 ]]; do
  case $1 in
    --processes) processes=$2 && shift 2 ;;
    --devices) devices=$2 && shift 2 ;;
    *) break ;;
  esac
done
for number in "$processes" "$devices"; do
  [[ "$number" =~ ^[1-9][0-9]*$ ]] ||
    { say "--processes and --devices must be positive numbers, got '$number'" && exit 2; }
done
prepare_environment requirements.txt

arguments=(--workdir=runs/processes)
case " $* " in
  *" --config="* | *" --config "*) ;;
  *) arguments+=(--config=configs/base.py) ;;
esac

port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export JAX_PLATFORMS=cpu XLA_FLAGS="${XLA_FLAGS:-} --xla_force_host_platform_device_count=$devices"

# Explains an exit code.
meaning() {
  case $1 in
    75 | 134) echo ": another process of the run was lost; the same command goes on" ;;
    137) echo ": it was killed; the same command goes on" ;;
  esac
}

children=()
# shellcheck disable=SC2329  # called by the trap
stop_all() { kill -TERM "${children[@]}" 2>/dev/null || true; }
trap stop_all TERM INT

for ((i = 0; i < processes; i++)); do
  "$python" -u -m mova_jax.main "${arguments[@]}" "$@" --coordinator="127.0.0.1:$port" \
    --processes="$processes" --process="$i" > >(sed -u "s/^/[$i] /") 2>&1 &
  children+=($!)
done

code=0
while ((${#children[@]})); do
  one=0 gone=''
  wait -n -p gone "${children[@]}" || one=$?
  # A signal interrupts `wait` although no process ended: wait again.
  [[ -n "$gone" ]] || continue
  left=()
  for child in "${children[@]}"; do [[ "$child" == "$gone" ]] || left+=("$child"); done
  children=("${left[@]}")
  if ((one != 0 && code == 0)); then
    code=$one
    # The others notice the lost process within a minute.
    ((one == 143 || one == 130)) || say "a process ended with exit code $one$(meaning "$one")"
  fi
done
exit "$code"
