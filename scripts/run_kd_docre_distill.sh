#!/usr/bin/env bash
# KD-DocRE's knowledge distillation: a teacher trained on the annotated documents scores the distantly labelled ones, a
# student matches its scores beside the distant labels, and goes on with the annotated documents.
#     bash scripts/run_kd_docre_distill.sh [more arguments of every train.py]
# DISTANT names the distantly labelled file; SIZE=sample takes the sample corpus, half of its labels left out.
# Each step is skipped when it is finished, so a stopped script goes on where it was.
set -euo pipefail
case ${DISTANT:-/} in /*) ;; *) DISTANT=$PWD/$DISTANT ;; esac
source "$(dirname "$0")/setup.sh"
source scripts/tools/size.sh
source scripts/tools/refuse.sh
refuse_options "the steps have folders of their own, in $RUNS/kd_docre_distill; move it away for another experiment" --o -- "$@"
DATA=dataset/redocred
if [ "${SIZE:-full}" = sample ]; then
    DATA=dataset/sample
    SIZE_ARGS+=(--seeds 1) # three minutes in all
fi
DISTANT=${DISTANT:-$PWD/$DATA/train_distant.json}
if [ ! -f "$DISTANT" ]; then
    echo "error: $DISTANT: no such file; get DocRED's train_distant.json and name it: DISTANT=/path/to/train_distant.json" >&2
    exit 2
fi
FOLDER=$RUNS/kd_docre_distill
SEED=66 # of teacher and student; the last step runs every seed
COMMON=(
    --backbone kd_docre --model_name_or_path roberta-large --emb_size 1024 --loss_type afl
    --keep_last_batch --test_batch_size 32 --warmup_ratio 0.06 --num_labels 4
)

echo; echo "1/4  the teacher: annotated documents"
python train.py "${COMMON[@]}" \
    --learning_rate 3e-5 --classifier_lr 1e-4 --module_lr 3e-5 \
    --train_batch_size 4 --num_train_epochs 30 \
    --output_dir "$FOLDER/teacher" "${SIZE_ARGS[@]}" "$@" --seeds $SEED

echo; echo "2/4  its scores of the distantly labelled documents"
python scripts/distill.py --load_path "$FOLDER/teacher/seed_$SEED" --data_file "$DISTANT" --output_dir "$FOLDER/scores"

# Ign F1 of this step leaves out the facts of the distant file, not of the annotated one: it compares with no other.
echo; echo "3/4  the student: distant labels and the teacher's scores"
python train.py "${COMMON[@]}" \
    --learning_rate 1e-5 --classifier_lr 5e-5 --module_lr 1e-5 \
    --train_batch_size 1 --gradient_accumulation_steps 4 --num_train_epochs 20 \
    --output_dir "$FOLDER/student" "${SIZE_ARGS[@]}" "$@" \
    --train_file "$DISTANT" --teacher_scores "$FOLDER/scores" --seeds $SEED

echo; echo "4/4  the student goes on with the annotated documents"
python train.py "${COMMON[@]}" \
    --learning_rate 1e-6 --classifier_lr 3e-6 --module_lr 1e-6 --warmup_ratio 0.1 --num_labels 3 \
    --train_batch_size 4 --num_train_epochs 10 \
    --output_dir "$FOLDER/finetuned" "${SIZE_ARGS[@]}" "$@" \
    --init_from "$FOLDER/student/seed_$SEED"
