#!/usr/bin/env bash
# The trainings of scripts/sweep.sh as a SLURM array, a GPU each. One that is pre-empted or out of time saves, leaves with
# code 75, and its job goes into the queue again.
# Where nodes have no network, run `bash scripts/table.sh 6` before where there is one, and put the encoder into the
# hub's cache.
#     LOSSES="atl hingeabl_released" SEEDS="1 5" sbatch --array=0-3 scripts/slurm_sweep.sh [arguments of train.py]
#SBATCH --job-name=hingeabl
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=4
#SBATCH --mem=32G
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"
source scripts/setup.sh
source scripts/tools/size.sh
source scripts/tools/sweep_list.sh

if [ "${SLURM_ARRAY_TASK_COUNT:-$COUNT}" != "$COUNT" ]; then
    echo "note: there are $COUNT trainings, and this array has $SLURM_ARRAY_TASK_COUNT tasks; --array=0-$((COUNT - 1)) is all"
fi
trap 'pkill -USR1 -s 0 -f train.py || true' USR1 TERM # of this job's session
run_of_list "${SLURM_ARRAY_TASK_ID:?submit this with sbatch --array=0-N}" "$@" &
status=0
wait $! || status=$?
while jobs -r | grep -q .; do # a trapped signal ends the first wait
    status=0
    wait $! || status=$?
done
case $status in # 138: the signal came before the training could save, and ended it
75 | 138) scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" ;;
esac
exit "$status"
