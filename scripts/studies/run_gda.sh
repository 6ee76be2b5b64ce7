#!/usr/bin/env bash
# GDA: genes and the diseases that they are associated with, with any loss, five seeds; ATLOP's settings for it.
#     bash scripts/studies/run_gda.sh LOSS [more arguments of train.py]
# docs/data.md#cdr-and-gda says where the files come from; they belong into dataset/gda/.
set -euo pipefail
LOSS=${1:?usage: bash scripts/studies/run_gda.sh LOSS; the losses are listed by: python train.py --help}
[ "${SIZE:-full}" = full ] || { echo "error: SIZE=$SIZE: there is no GDA in miniature; leave SIZE out" >&2; exit 2; }
source "$(dirname "$0")/../setup.sh"

exec python train.py \
    --data_dir dataset/gda \
    --train_file train.data \
    --dev_file dev.data \
    --test_file test.data \
    --rel2id meta/rel2id_gda.json \
    --entity_marker asterisks \
    --model_name_or_path allenai/scibert_scivocab_cased \
    --loss_type "$LOSS" \
    --learning_rate 2e-5 \
    --classifier_lr 1e-4 \
    --train_batch_size 4 \
    --gradient_accumulation_steps 4 \
    --test_batch_size 32 \
    --num_train_epochs 10 \
    --warmup_ratio 0.06 \
    --num_labels 1 \
    --seeds 1 5 42 66 233 \
    --output_dir "runs/gda_$LOSS" \
    "${@:2}"
