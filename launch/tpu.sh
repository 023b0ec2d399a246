#!/usr/bin/env bash
# Creates a Cloud TPU slice, trains on it, and deletes it.
#
#     bash launch/tpu.sh create --name mova --zone us-west4-a --type v5litepod-16 --spot
#     bash launch/tpu.sh setup  --name mova --zone us-west4-a
#     bash launch/tpu.sh mount  --name mova --zone us-west4-a --nfs 10.0.0.2:/mova
#     bash launch/tpu.sh run    --name mova --zone us-west4-a -- \
#         --config=configs/activitynet.py:data=/mnt/data/shards,init=/mnt/data/CLIP \
#         --workdir=/mnt/data/runs/activitynet
#     bash launch/tpu.sh logs   --name mova --zone us-west4-a
#     bash launch/tpu.sh resume --name mova --zone us-west4-a --type v5litepod-16 --spot -- ...
#     bash launch/tpu.sh stop | status | delete --name mova --zone us-west4-a
#
# create  requests the slice as a queued resource and waits until it is there
# setup   copies the committed state of this clone to all hosts and makes their environments
# mount   mounts an NFS share on all hosts, as /mnt/data
# run     starts the training on all hosts, in the background, under launch/supervise.sh
# resume  after a spot slice was preempted: delete, create, setup, mount (with --nfs), run
# stop    saves and ends the training; `run` resumes it
# delete  deletes the slice, which ends its cost
#
# Options: --project P (gcloud's own), --version V (the runtime; by the type), --spot, --slices N
# (several slices over the data centre's network), --nfs ADDRESS:/SHARE, --cache DIR (for `run`: the
# folder of JAX's compilation cache, on the shared disk), --dry_run (prints every command, runs
# none). Give the training flags after `--`. All hosts write to one --workdir, on a disk that they
# share (docs/pods.md).

source "$(dirname -- "${BASH_SOURCE[0]}")/cloud.sh"

parse() {
  action=${1:-} name='' zone='' type='' version='' project='' spot='' slices=1 dry_run=''
  nfs='' cache=''
  [[ $# -gt 0 ]] && shift
  while [[ $# -gt 0 ]]; do
    case $1 in
      --name | --zone | --type | --version | --project | --slices | --nfs | --cache)
        [[ $# -gt 1 ]] || fail "$1 needs a value"
        printf -v "${1#--}" %s "$2" && shift 2
        ;;
      --spot) spot=yes && shift ;;
      --dry_run) dry_run=yes && shift ;;
      --) shift && break ;;
      *) fail "unknown option $1; see the head of launch/tpu.sh" ;;
    esac
  done
  flags=("$@")
  [[ "$name" =~ ^[a-z]([a-z0-9-]{0,60}[a-z0-9])?$ ]] ||
    fail "--name must be lower case letters, digits and dashes, got '$name'"
  [[ -n "$zone" ]] || fail "--zone is missing, such as --zone us-west4-a"
  [[ "$slices" =~ ^[1-9][0-9]*$ ]] || fail "--slices must be a positive number, got '$slices'"
  [[ -z "$nfs" || "$nfs" =~ ^[A-Za-z0-9.-]+:/[A-Za-z0-9._/-]+$ ]] ||
    fail "--nfs must be ADDRESS:/SHARE, got '$nfs'"
  [[ -z "$cache" || "$cache" == /* ]] ||
    fail "--cache must be a folder of the shared disk, such as /mnt/data/programs, got '$cache'"
  at=(--zone "$zone" ${project:+--project "$project"})
}

runtime_version() {
  case $type in
    v6e-*) echo v2-alpha-tpuv6e ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    v4-*) echo tpu-ubuntu2204-base ;;
    *) fail "the runtime of '$type' is not known here: give it with --version" ;;
  esac
}

# The machines of the request: NAME, or NAME-0, NAME-1, ... for several slices.
nodes() {
  if ((slices == 1)); then
    echo "$name"
  else
    for ((i = 0; i < slices; i++)); do echo "$name-$i"; done
  fi
}

create() {
  [[ -n "$type" ]] || fail "--type is missing, such as --type v5litepod-16"
  [[ -n "$version" ]] || version=$(runtime_version)
  local request=(--accelerator-type "$type" --runtime-version "$version")
  if ((slices == 1)); then
    request+=(--node-id "$name")
  else
    request+=(--node-prefix "$name" --node-count "$slices")
  fi
  do_it gcloud compute tpus queued-resources create "$name" "${at[@]}" "${request[@]}" \
    ${spot:+--spot}
  wait_until_active
}

state() {
  gcloud compute tpus queued-resources describe "$name" "${at[@]}" --format='value(state.state)'
}

wait_until_active() {
  local now
  if [[ -n "$dry_run" ]]; then
    do_it gcloud compute tpus queued-resources describe "$name" "${at[@]}" \
      '--format=value(state.state)'
    return
  fi
  while true; do
    now=$(state) || fail "gcloud does not tell the state of $name"
    case $now in
      ACTIVE) return ;;
      '') fail "gcloud tells no state of $name: does the request exist?" ;;
      FAILED | SUSPENDED | SUSPENDING) fail "the slice is $now: delete it, then create it again" ;;
      *) say "the slice is $now; waiting (Ctrl-C ends the waiting, not the request)" ;;
    esac
    sleep 30
  done
}

# Runs a line of shell on all hosts of all slices.
on_all_hosts() {
  local node
  for node in $(nodes); do
    do_it gcloud compute tpus tpu-vm ssh "$node" "${at[@]}" --worker=all --command "$1"
  done
}

# Fails when a training runs on a host, which then holds the lock.
all_idle() {
  on_all_hosts "flock --nonblock mova_jax.lock true || \
{ echo 'a training is still running here: stop it first' >&2; exit 1; }"
}

setup() {
  local archive node
  archive=$(mktemp --suffix=.tar.gz)
  # shellcheck disable=SC2064  # expands $archive now
  trap "rm -f '$archive'" EXIT
  do_it git archive --format=tar.gz --output "$archive" HEAD
  all_idle
  for node in $(nodes); do
    do_it gcloud compute tpus tpu-vm scp "$archive" "$node:mova_jax.tar.gz" "${at[@]}" \
      --worker=all
  done
  # Removes files that the commit no longer has and leaves what the hosts made. Ubuntu 22.04 has a
  # package python3.11; later releases have none, and their default Python is newer.
  on_all_hosts "mkdir -p mova_jax && cd mova_jax && \
find . -mindepth 1 -maxdepth 1 ! -name .venv ! -name .data ! -name runs -exec rm -rf {} + && \
tar -xzf ../mova_jax.tar.gz && sudo apt-get -qq update && \
{ sudo apt-get -qq install -y python3.11 python3.11-venv || \
sudo apt-get -qq install -y python3 python3-venv; } && bash launch/setup.sh requirements-tpu.txt"
}

mount_share() {
  [[ -n "$nfs" ]] || fail "--nfs is missing, such as --nfs 10.0.0.2:/mova"
  on_all_hosts "sudo apt-get -qq update && sudo apt-get -qq install -y nfs-common && \
sudo mkdir -p /mnt/data && { mountpoint -q /mnt/data || sudo mount -t nfs $nfs /mnt/data; } && \
sudo chmod a+rwx /mnt/data"
}

run_training() {
  local quoted variable=''
  quoted=$(printf '%q ' "${flags[@]}")
  [[ -z "$cache" ]] || printf -v variable 'JAX_COMPILATION_CACHE_DIR=%q ' "$cache"
  all_idle
  # The log and the lock are outside of the folder, which `setup` overwrites.
  on_all_hosts "cd mova_jax && { ${variable}nohup flock --nonblock ../mova_jax.lock \
bash launch/supervise.sh .venv/bin/python -u -m mova_jax.main $quoted \
>> ../mova_jax.log 2>&1 < /dev/null & } && sleep 1"
}

delete() {
  do_it gcloud compute tpus queued-resources delete "$name" "${at[@]}" --force --quiet
}

parse "$@"
if [[ $action == run || $action == resume ]]; then
  ((${#flags[@]})) || fail "give the flags of mova_jax.main after --"
fi
case $action in
  create) create ;;
  setup) setup ;;
  mount) mount_share ;;
  run) run_training ;;
  logs)
    do_it gcloud compute tpus tpu-vm ssh "$(nodes | head -n 1)" "${at[@]}" --worker=0 \
      --command 'tail -n 100 -F mova_jax.log'
    ;;
  status)
    do_it gcloud compute tpus queued-resources describe "$name" "${at[@]}"
    ;;
  stop)
    on_all_hosts "pkill -TERM -f '[l]aunch/supervise.sh' || echo 'no training runs here'"
    ;;
  # On lines of their own: in a && list bash ignores errors inside the functions.
  resume)
    delete
    create
    setup
    if [[ -n "$nfs" ]]; then mount_share; fi
    run_training
    ;;
  delete) delete ;;
  *) fail "unknown action '$action'; create, setup, mount, run, logs, status, stop, resume, delete" ;;
esac
