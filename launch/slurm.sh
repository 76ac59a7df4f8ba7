#!/usr/bin/env bash
#SBATCH --job-name=genre_jax
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
#
# Trains a run on several nodes of a SLURM cluster: one process a node, which uses all GPUs of the node.
#
#   sbatch [--nodes=8 --gpus-per-node=4 --time=… --partition=…] launch/slurm.sh MAIN'S ARGUMENTS
#   sbatch --nodes=8 launch/slurm.sh --config=bytenet --workdir=/shared/runs/audioset --config.data.data_dir=/shared/data
#   bash launch/slurm.sh --dry_run MAIN'S ARGUMENTS       prints the command of the job step, and starts nothing;
#                                                         the numbers in it are those of the #SBATCH lines of this file
#
# Submit it in the checkout. The checkout, its .venv, the data and the workdir must be on a file system that all nodes mount.
# The interpreter is $PYTHON, otherwise .venv/bin/python. Options of sbatch on the command line replace the lines above.
# 180 s before the time limit (--signal), SLURM sends SIGTERM: the run saves its state and ends with 143, and the job enters the
# queue again. It resumes from there. At a preemption GraceTime of the partition is the time to save (docs/scaling.md).
# Stop: scancel JOB (the state is saved, and the job does not enter the queue again; KillWait must be long enough for a save).
# Resume, also on another number of nodes: submit the same command again.
set -u

if [ "${1:-}" = --help ]; then sed -n '2,/^set -u/{/^#SBATCH/!s/^# \{0,1\}//p;}' "$0"; exit; fi
dry_run=
if [ "${1:-}" = --dry_run ]; then dry_run=1; shift; fi
if [ $# = 0 ]; then
  echo "error: the arguments of genre_jax.main are missing: sbatch launch/slurm.sh --config=bytenet --workdir=DIR" >&2
  exit 1
fi
if [ -z "$dry_run" ] && [ -z "${SLURM_JOB_ID:-}" ]; then
  echo "error: this script runs inside a SLURM job: submit it with sbatch launch/slurm.sh $*" >&2
  exit 1
fi

# With one process a node JAX needs the list of its GPUs: in a SLURM job it otherwise takes one GPU for each process.
gpus=${SLURM_GPUS_ON_NODE:-${dry_run:+4}}
if [ "${SLURM_NTASKS_PER_NODE:-1}" = 1 ] && [ "${gpus:-0}" -gt 0 ]; then
  JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((gpus - 1)))
  export JAX_LOCAL_DEVICE_IDS
fi

# A process that ends must not end the others: they stop with a sentence within a minute, or still write the report.
command=(srun "--cpus-per-task=${SLURM_CPUS_PER_TASK:-16}" --kill-on-bad-exit=0 --wait=0) # srun does not inherit the cores
command+=("${PYTHON:-.venv/bin/python}" -m genre_jax.main --distributed "$@")
if [ -n "$dry_run" ]; then
  [ -z "${JAX_LOCAL_DEVICE_IDS:-}" ] || printf 'JAX_LOCAL_DEVICE_IDS=%s ' "$JAX_LOCAL_DEVICE_IDS"
  printf '%q ' "${command[@]}"
  echo
  exit 0
fi
"${command[@]}"
code=$?
if [ $code = 143 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit $code
