#!/usr/bin/env bash
# The trainings of scripts/sweep.sh as a SLURM array, a GPU each. A job that is pre-empted or runs out of time saves,
# leaves with code 75 and is put into the queue again.
#     LOSSES="atl hingeabl_released" SEEDS="1 5" sbatch --array=0-3 scripts/slurm_sweep.sh [more arguments of train.py]
# Run `bash scripts/sweep.sh --help >/dev/null` once before, where the network is: it makes .venv and fetches the data.
#SBATCH --job-name=hingeabl
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=4
#SBATCH --mem=32G
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --signal=B:USR1@120
#SBATCH --open-mode=append
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
source scripts/setup.sh
source scripts/size.sh
source scripts/sweep_list.sh

run_of_list "${SLURM_ARRAY_TASK_ID:?submit this with sbatch --array=0-N}" "$@" &
training=$!
trap 'pkill -USR1 -P "$training" python || true' USR1 TERM
status=0
wait "$training" || status=$?
while kill -0 "$training" 2>/dev/null; do status=0; wait "$training" || status=$?; done # the first wait ends with the trap
if [ "$status" = 75 ]; then scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"; fi
exit "$status"
