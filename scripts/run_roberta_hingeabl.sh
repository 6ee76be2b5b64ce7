#!/usr/bin/env bash
# ATLOP with HingeABL in the paper's Table 2 at full size: RoBERTa-large, five seeds (Appendix B).
#     bash scripts/run_roberta_hingeabl.sh [more arguments of train.py]
set -euo pipefail
source "$(dirname "$0")/setup.sh"
python scripts/fetch.py redocred

python train.py \
    --data_dir dataset/redocred \
    --model_name_or_path roberta-large \
    --loss_type hingeabl_released \
    --margin 5 \
    --learning_rate 3e-5 \
    --classifier_lr 1e-4 \
    --train_batch_size 4 \
    --test_batch_size 8 \
    --num_train_epochs 30 \
    --warmup_ratio 0.06 \
    --seeds 1 5 42 66 233 \
    --output_dir runs/roberta_hingeabl_released \
    "$@"
