#!/usr/bin/env bash
# DWIE: long news articles, 65 relations, read whole; with any loss, five seeds, the paper's settings for Re-DocRED.
#     bash scripts/studies/run_dwie.sh LOSS [more arguments of train.py]
# docs/data.md#dwie says where the files come from; they belong into dataset/dwie/.
set -euo pipefail
LOSS=${1:?usage: bash scripts/studies/run_dwie.sh LOSS; the losses are listed by: python train.py --help}
[ "${SIZE:-full}" = full ] || { echo "error: SIZE=$SIZE: there is no DWIE in miniature; leave SIZE out" >&2; exit 2; }
case ${DWIE:-/} in /*) ;; *) DWIE=$PWD/$DWIE ;; esac
source "$(dirname "$0")/../setup.sh"
DWIE=${DWIE:-dataset/dwie}
[ -f "$DWIE/rel2id.json" ] || python prepro.py "$DWIE"/{train,dev,test}.json --make_rel2id "$DWIE/rel2id.json"

exec python train.py \
    --data_dir "$DWIE" \
    --train_file train.json \
    --dev_file dev.json \
    --test_file test.json \
    --rel2id "$DWIE/rel2id.json" \
    --max_seq_length 4096 \
    --model_name_or_path bert-base-cased \
    --loss_type "$LOSS" \
    --learning_rate 5e-5 \
    --classifier_lr 1e-4 \
    --train_batch_size 4 \
    --test_batch_size 32 \
    --num_train_epochs 30 \
    --warmup_ratio 0.06 \
    --seeds 1 5 42 66 233 \
    --output_dir "runs/dwie_$LOSS" \
    "${@:2}"
