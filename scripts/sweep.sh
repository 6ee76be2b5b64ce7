#!/usr/bin/env bash
# Losses x seeds x representation modules, a training each, one at a time on every GPU (on a CPU, one).
#     LOSSES="atl hingeabl_released" SEEDS="1 5" SCRIPTS="bert roberta_docunet" bash scripts/sweep.sh [arguments of train.py]
# CUDA_VISIBLE_DEVICES=2,3 takes these GPUs alone. Runs are those of scripts/run_*.sh, so scripts/table.sh finds them:
# finished ones are not repeated, interrupted ones go on. SIZE=sample runs the sweep in miniature;
# scripts/slurm_sweep.sh runs the same list on SLURM. With --ray first, or with RAY_ADDRESS set, the trainings are tasks of
# Ray (scripts/requirements/ray.txt), here or on a cluster whose machines share this folder; docs/scale.md says more.
set -euo pipefail
source "$(dirname "$0")/setup.sh"
source scripts/tools/size.sh
source scripts/tools/sweep_list.sh

if [ "${1:-}" = --ray ] || [ -n "${RAY_ADDRESS:-}" ]; then
    if [ "${1:-}" = --ray ]; then shift; fi
    status=0
    python scripts/tools/ray_sweep.py "$COUNT" "$@" || status=$?
    python report.py --status "$RUNS"
    exit $status
fi
if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
    IFS=, read -ra GPUS <<<"${CUDA_VISIBLE_DEVICES:--1}" # -1 hides all, as "" does
else
    read -ra GPUS < <(python -c 'import torch; print(*range(torch.cuda.device_count() or 1))')
fi
run_every_nth() { # trainings $1, $1 + the number of GPUs, ... on the GPU of that place
    local number failed=0 sweep_stopped=
    trap 'sweep_stopped=1; kill -TERM "${training:-}" 2>/dev/null || true' TERM # the training saves, and leaves
    for ((number = $1; number < COUNT; number += ${#GPUS[@]})); do
        [ -z "$sweep_stopped" ] || break
        CUDA_VISIBLE_DEVICES=${GPUS[$1]} run_of_list "$number" "${@:2}" || failed=1
    done
    return $failed
}

stop_trainings() { # background jobs do not get Ctrl-C themselves
    trap '' INT TERM USR1
    kill -TERM "${pids[@]}" 2>/dev/null || true
    wait
    exit 130
}
pids=()
trap stop_trainings INT TERM USR1
for place in "${!GPUS[@]}"; do
    run_every_nth "$place" "$@" &
    pids+=($!)
done
status=0
for pid in "${pids[@]}"; do wait "$pid" || status=1; done
python report.py --status "$RUNS"
exit $status
