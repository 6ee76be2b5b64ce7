#!/usr/bin/env bash
# A row of the paper's Table 3: ATLOP on BERT-base-cased with any loss, five seeds (Appendix B).
#     bash scripts/run_bert.sh LOSS [more arguments of train.py]
set -euo pipefail
LOSS=${1:?usage: bash scripts/run_bert.sh LOSS; the losses are listed by: python train.py --help}
source "$(dirname "$0")/setup.sh"
source scripts/tools/size.sh

exec python train.py \
    --model_name_or_path bert-base-cased \
    --loss_type "$LOSS" \
    --learning_rate 5e-5 \
    --classifier_lr 1e-4 \
    --train_batch_size 4 \
    --test_batch_size 32 \
    --num_train_epochs 30 \
    --warmup_ratio 0.06 \
    --output_dir "$RUNS/bert_$LOSS" \
    "${SIZE_ARGS[@]}" "${@:2}"
