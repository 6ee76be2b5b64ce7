#!/usr/bin/env bash
# ATLOP in the paper's Table 2: RoBERTa-large with any loss, five seeds (Appendix B).
#     bash scripts/run_atlop_roberta.sh [LOSS [more arguments of train.py]]      (default: atl, its authors')
set -euo pipefail
LOSS=${1:-atl}
source "$(dirname "$0")/setup.sh"
source scripts/tools/size.sh

exec python train.py \
    --backbone atlop \
    --model_name_or_path roberta-large \
    --loss_type "$LOSS" \
    --learning_rate 3e-5 \
    --classifier_lr 1e-4 \
    --train_batch_size 4 \
    --test_batch_size 32 \
    --num_train_epochs 30 \
    --warmup_ratio 0.06 \
    --num_labels 4 \
    --output_dir "$RUNS/roberta_atlop_$LOSS" \
    "${SIZE_ARGS[@]}" "${@:2}"
