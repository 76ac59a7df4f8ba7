#!/usr/bin/env bash
#SBATCH --job-name=genre_jax
#SBATCH --array=0-4
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --signal=TERM@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%A_%a.log
#
# Does the runs of launch/repeat.py (folds, seeds or both) as a SLURM job array: one independent run in each task.
#
#   sbatch [--array=0-9] launch/slurm_array.sh --config=FILE:presets --workdir=DIR --folds=10 [--seeds=N]
#   bash launch/slurm_array.sh --dry_run …                prints the command of a task, and starts nothing
#
# The array must be 0 to (number of runs - 1). Submit it in the checkout; all nodes must mount the checkout, the data and DIR.
# The interpreter is $PYTHON, otherwise .venv/bin/python.
# When all tasks have ended, the same arguments for launch/repeat.py print the summary, and write DIR/summary.json:
#   python launch/repeat.py --config=FILE:presets --workdir=DIR --folds=10
# Before the time limit SLURM sends SIGTERM: the run saves its state and ends with 143, and its task is queued again.
# Stop: scancel JOB, or scancel JOB_TASK. Resume: submit the same command again; finished runs end at once.
set -u

if [ "${1:-}" = --help ]; then sed -n '2,/^set -u/{/^#SBATCH/!s/^# \{0,1\}//p;}' "$0"; exit; fi
dry_run=
if [ "${1:-}" = --dry_run ]; then dry_run=1; shift; fi
if [ -z "$dry_run" ] && [ -z "${SLURM_ARRAY_TASK_ID:-}" ]; then
  echo "error: this script runs inside a SLURM job array: submit it with sbatch launch/slurm_array.sh $*" >&2
  exit 1
fi

python=${PYTHON:-.venv/bin/python}
command=(srun "--cpus-per-task=${SLURM_CPUS_PER_TASK:-8}") # srun does not inherit it from the job
command+=("$python" launch/repeat.py "$@" "--only=${SLURM_ARRAY_TASK_ID:-0}")
if [ -n "$dry_run" ]; then
  printf '%q ' "${command[@]}"
  echo
  exit 0
fi
"${command[@]}"
code=$?
if [ $code = 143 ]; then scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"; fi
exit $code
