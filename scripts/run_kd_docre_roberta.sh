#!/usr/bin/env bash
# KD-DocRE in the paper's Table 2, without distant data: RoBERTa-large with any loss, five seeds; rates are its authors'.
#     bash scripts/run_kd_docre_roberta.sh [LOSS [more arguments of train.py]]      (default: afl, its authors')
set -euo pipefail
LOSS=${1:-afl}
source "$(dirname "$0")/setup.sh"
source scripts/tools/size.sh

exec python train.py \
    --backbone kd_docre \
    --model_name_or_path roberta-large \
    --emb_size 1024 \
    --loss_type "$LOSS" \
    --learning_rate 3e-5 \
    --classifier_lr 1e-4 \
    --module_lr 3e-5 \
    --train_batch_size 4 \
    --keep_last_batch \
    --test_batch_size 32 \
    --num_train_epochs 30 \
    --warmup_ratio 0.06 \
    --num_labels 4 \
    --output_dir "$RUNS/roberta_kd_docre_$LOSS" \
    "${SIZE_ARGS[@]}" "${@:2}"
