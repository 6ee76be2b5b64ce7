#!/usr/bin/env bash
# DocuNet in the paper's Table 2: RoBERTa-large with any loss, five seeds; rates and batches are its authors'.
#     bash scripts/run_docunet_roberta.sh [LOSS [more arguments of train.py]]      (default: balanced_softmax, its authors')
set -euo pipefail
LOSS=${1:-balanced_softmax}
source "$(dirname "$0")/setup.sh"
source scripts/tools/size.sh

exec python train.py \
    --backbone docunet \
    --model_name_or_path roberta-large \
    --loss_type "$LOSS" \
    --learning_rate 3e-5 \
    --classifier_lr 1e-4 \
    --module_lr 4e-4 \
    --train_batch_size 2 \
    --gradient_accumulation_steps 2 \
    --test_batch_size 32 \
    --num_train_epochs 30 \
    --warmup_ratio 0.06 \
    --num_labels 4 \
    --output_dir "$RUNS/roberta_docunet_$LOSS" \
    "${SIZE_ARGS[@]}" "${@:2}"
