#!/usr/bin/env bash
# Losses x seeds x representation modules, a training each, one at a time on every GPU (on the CPU: one).
#     LOSSES="atl hingeabl_released" SEEDS="1 5" BACKBONES="atlop" bash scripts/sweep.sh [more arguments of train.py]
# Finished trainings are not repeated, interrupted ones go on; scripts/slurm_sweep.sh runs the same list on SLURM.
# SIZE=sample runs it in miniature. What is done, running or failed: python report.py --status runs/sweep
set -euo pipefail
source "$(dirname "$0")/setup.sh"
source scripts/size.sh
source scripts/sweep_list.sh

GPUS=$(python -c 'import torch; print(torch.cuda.device_count() or 1)')
run_every_nth() { # the trainings number $1, $1 + GPUS, ... of the list, on GPU $1
    local number failed=0
    for ((number = $1; number < COUNT; number += GPUS)); do
        CUDA_VISIBLE_DEVICES=$1 run_of_list "$number" "${@:2}" || failed=1
    done
    return $failed
}

pids=()
for ((gpu = 0; gpu < GPUS; gpu++)); do
    run_every_nth "$gpu" "$@" &
    pids+=($!)
done
status=0
for pid in "${pids[@]}"; do wait "$pid" || status=1; done
python report.py --status "$RUNS/sweep"
exit $status
