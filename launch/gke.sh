#!/usr/bin/env bash
# Trains on TPU node pools of a GKE cluster that has JobSet and Kueue (XPK sets one up).
#
#     bash launch/gke.sh apply --name mova --image REGION-docker.pkg.dev/P/R/mova_jax:1 \
#         --accelerator tpu-v5-lite-podslice --topology 4x4 --claim mova-data -- \
#         --config=configs/activitynet.py:data=/mnt/data/shards,init=/mnt/data/CLIP \
#         --workdir=/mnt/data/runs/one
#     bash launch/gke.sh render ...         # prints the manifest
#     bash launch/gke.sh logs | delete --name mova
#
# Options: --slices N (1), --chips C (of a host, 4), --restarts R (100), --dry_run. The image is
# made from launch/Dockerfile; the claim is a ReadWriteMany volume with shards, weights and workdir.
# Exit codes 1 and 2 (wrong flags, data or disk) end the JobSet; 75, 134, 143 and a lost host restart
# all pods, R times at most.
# The same `apply` after a `delete` resumes from the last checkpoint of the workdir.

source "$(dirname -- "${BASH_SOURCE[0]}")/cloud.sh"

action=${1:-} name='' image='' accelerator='' topology='' claim='' dry_run=''
slices=1 chips=4 restarts=100
[[ $# -gt 0 ]] && shift
while [[ $# -gt 0 ]]; do
  case $1 in
    --name | --image | --accelerator | --topology | --claim | --slices | --chips | --restarts)
      [[ $# -gt 1 ]] || fail "$1 needs a value"
      printf -v "${1#--}" %s "$2" && shift 2
      ;;
    --dry_run) dry_run=yes && shift ;;
    --) shift && break ;;
    *) fail "unknown option $1; see the head of launch/gke.sh" ;;
  esac
done
flags=("$@")

# Stops when the value $2 of option $1 does not match the regex $3 as a whole.
must_match() {
  [[ "$2" =~ ^($3)$ ]] || fail "--$1: got '$2', expected the form $3"
}
must_match name "$name" '[a-z]([a-z0-9-]{0,40}[a-z0-9])?'

# The product of a topology's sides: its chips.
chips_of() {
  local product=1 side
  for side in ${1//x/ }; do product=$((product * side)); done
  echo "$product"
}

render() {
  local manifest arguments='' hosts flag
  must_match image "$image" '[A-Za-z0-9][A-Za-z0-9._/:@-]*'
  must_match accelerator "$accelerator" '[a-z0-9-]+'
  must_match topology "$topology" '[1-9][0-9]*x[1-9][0-9]*(x[1-9][0-9]*)?'
  must_match claim "$claim" '[a-z0-9]([a-z0-9.-]*[a-z0-9])?'
  must_match slices "$slices" '[1-9][0-9]*'
  must_match chips "$chips" '[1-9][0-9]*'
  must_match restarts "$restarts" '[0-9]+'
  ((${#flags[@]})) || fail "give the flags of mova_jax.main after --"
  for flag in "${flags[@]}"; do
    # Refuses what YAML's double quotes would need to escape.
    [[ "$flag" != *[\"\\[:cntrl:]]* ]] ||
      fail "a flag with quotes, backslashes or line breaks cannot be passed on: $flag"
    arguments+="${arguments:+, }\"$flag\""
  done
  hosts=$(($(chips_of "$topology") / chips))
  ((hosts >= 1 && hosts * chips == $(chips_of "$topology"))) ||
    fail "--topology $topology does not divide into hosts of --chips $chips"
  manifest=$(grep -v '^#' launch/gke_jobset.yaml)
  fill NAME "$name"
  fill IMAGE "$image"
  fill ACCELERATOR "$accelerator"
  fill TOPOLOGY "$topology"
  fill CLAIM "$claim"
  fill SLICES "$slices"
  fill HOSTS "$hosts"
  fill CHIPS "$chips"
  fill RESTARTS "$restarts"
  fill ARGUMENTS "[$arguments]"
  printf '%s\n' "$manifest"
}

# Replaces ${$1} in the manifest by $2.
fill() { manifest=${manifest//"\${$1}"/"$2"}; }

case $action in
  render) render ;;
  apply)
    rendered=$(render)
    do_it kubectl apply -f - <<<"$rendered"
    ;;
  logs)
    do_it kubectl logs --follow --prefix --max-log-requests=64 \
      --selector "jobset.sigs.k8s.io/jobset-name=$name" --container jax-tpu
    ;;
  delete) do_it kubectl delete jobset "$name" ;;
  *) fail "unknown action '$action'; render, apply, logs, delete" ;;
esac
