#!/usr/bin/env bash
# CDR: chemicals and the diseases that they cause, with any loss, five seeds; ATLOP's settings for it.
#     bash scripts/run_cdr.sh LOSS [more arguments of train.py]
# docs/data.md#cdr-and-gda says where the files come from; they belong into dataset/cdr/.
set -euo pipefail
LOSS=${1:?usage: bash scripts/run_cdr.sh LOSS; the losses are listed by: python train.py --help}
[ "${SIZE:-full}" = full ] || { echo "error: SIZE=$SIZE: there is no CDR in miniature; leave SIZE out" >&2; exit 2; }
source "$(dirname "$0")/setup.sh"
python scripts/tools/fetch.py cdr

exec python train.py \
    --data_dir dataset/cdr \
    --train_file train_filter.data \
    --dev_file dev_filter.data \
    --test_file test_filter.data \
    --rel2id meta/rel2id_cdr.json \
    --entity_marker asterisks \
    --model_name_or_path allenai/scibert_scivocab_cased \
    --loss_type "$LOSS" \
    --learning_rate 2e-5 \
    --classifier_lr 1e-4 \
    --train_batch_size 4 \
    --test_batch_size 32 \
    --num_train_epochs 30 \
    --warmup_ratio 0.06 \
    --num_labels 1 \
    --seeds 1 5 42 66 233 \
    --output_dir "runs/cdr_$LOSS" \
    "${@:2}"
