#!/usr/bin/env bash
# The three models of the paper's Table 2: RoBERTa-large with any loss, five seeds (Appendix B).
#     bash scripts/run_roberta.sh [atlop|docunet|kd_docre [LOSS [more arguments of train.py]]]
# LOSS is by default that of the model's authors. KD-DocRE is trained without distant data.
set -euo pipefail
MODEL=${1:-atlop}
case $MODEL in # rates and batches of the models' authors
atlop) LOSS=atl OWN=(--train_batch_size 4) ;;
docunet) LOSS=balanced_softmax OWN=(--train_batch_size 2 --gradient_accumulation_steps 2 --module_lr 4e-4) ;;
kd_docre) LOSS=afl OWN=(--train_batch_size 4 --keep_last_batch --module_lr 3e-5 --emb_size 1024) ;;
*) echo "error: $MODEL: is none of atlop, docunet, kd_docre; correct it" >&2; exit 2 ;;
esac
LOSS=${2:-$LOSS}
source "$(dirname "$0")/setup.sh"
source scripts/tools/size.sh

exec python train.py \
    --backbone "$MODEL" \
    --model_name_or_path roberta-large \
    --loss_type "$LOSS" \
    --learning_rate 3e-5 \
    --classifier_lr 1e-4 \
    "${OWN[@]}" \
    --test_batch_size 32 \
    --num_train_epochs 30 \
    --warmup_ratio 0.06 \
    --num_labels 4 \
    --output_dir "$RUNS/roberta_${MODEL}_$LOSS" \
    "${SIZE_ARGS[@]}" "${@:3}"
