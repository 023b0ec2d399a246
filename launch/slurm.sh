#!/usr/bin/env bash
# Trains on the GPUs of a Slurm cluster, one process a GPU:
#
#     sbatch --nodes=4 --gpus-per-node=8 --ntasks-per-node=8 launch/slurm.sh \
#         --config=configs/activitynet.py:data=shards,init=CLIP --workdir=runs/activitynet
#
# JAX finds the processes of the job by Slurm's own variables. Before the time limit and at a
# preemption Slurm sends SIGTERM: the run saves and ends with code 143, and the script requeues the
# job, which resumes. It also requeues when a process was lost (75, 134), unless the job was already
# restarted three times and lost one within ten minutes. The workdir and the shards must be on a
# disk that all nodes share. DRY_RUN=1 prints the commands. Needs .venv: `bash launch/setup.sh
# requirements-gpu.txt`. launch/gpu.sh has the settings for GPUs.
#
#SBATCH --job-name=mova_jax
#SBATCH --output=mova_jax-%j.log
#SBATCH --open-mode=append
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180
#SBATCH --requeue

set -euo pipefail
# Slurm runs a copy of this script: the project is where the job was submitted from.
cd -- "${SLURM_SUBMIT_DIR:-.}"
[[ -f mova_jax/main.py ]] ||
  { echo "slurm.sh: submit it from the project's root; this is $PWD" >&2 && exit 1; }

do_it() {
  if [[ -n "${DRY_RUN:-}" ]]; then
    printf '%q ' "$@" && echo
  else
    "$@"
  fi
}

# Whether the loss of a process is probably an error that recurs at every start.
no_progress() {
  [[ $code != 143 ]] && ((SECONDS < 600 && ${SLURM_RESTART_COUNT:-0} >= 3))
}

code=0
# When a task fails, end the others, which would wait for it.
do_it srun --kill-on-bad-exit=1 bash launch/gpu.sh .venv/bin/python -u -m mova_jax.main "$@" || code=$?
if [[ $code == 143 || $code == 75 || $code == 134 ]]; then
  if no_progress; then
    echo "slurm.sh: exit code $code, $SECONDS s after the start, at restart $SLURM_RESTART_COUNT:" \
      "not started again. The first error above is the cause; sbatch goes on from there" >&2
    exit "$code"
  fi
  do_it scontrol requeue "${SLURM_JOB_ID:?}"
fi
exit "$code"
