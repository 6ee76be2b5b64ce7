#!/usr/bin/env bash
# DREEAM (Ma et al., EACL 2023) on BERT-base-cased with any loss: ATLOP whose attention is trained with the evidence
# sentences, then a second pass over the predicted evidence.
#     bash scripts/run_dreeam.sh [LOSS [more arguments of every train.py]]      (default: atl, its authors')
# DISTANT=/path/to/train_distant.json adds its self-training: the model of step 1 is the teacher, a student matches its
# attention on the distantly labelled documents, and goes on with the annotated ones.
# SIZE=sample takes the sample corpus, half of its labels left out as the distant ones. Finished steps are skipped.
set -euo pipefail
LOSS=${1:-atl}
case ${DISTANT:-/} in /*) ;; *) DISTANT=$PWD/$DISTANT ;; esac
source "$(dirname "$0")/setup.sh"
source scripts/tools/size.sh
source scripts/tools/refuse.sh
refuse_options "the steps have folders of their own, in $RUNS/dreeam_$LOSS; move these away for another experiment" --o -- "$@"
if [ "${SIZE:-full}" = sample ]; then
    DISTANT=${DISTANT:-$PWD/dataset/sample/train_distant.json}
    SIZE_ARGS+=(--seeds 1) # a few minutes in all
fi
if [ -n "${DISTANT:-}" ] && [ ! -f "$DISTANT" ]; then
    echo "error: $DISTANT: no such file; get DocRED's train_distant.json and name it: DISTANT=/path/to/train_distant.json" >&2
    exit 2
fi
FOLDER=$RUNS/dreeam_$LOSS
SEED=1 # of teacher and student; the last step runs every seed
SUPERVISED_ARGS=("${SIZE_ARGS[@]}" "${@:2}")
[ -z "${DISTANT:-}" ] || SUPERVISED_ARGS+=(--seeds $SEED)
COMMON=(
    --model_name_or_path bert-base-cased --loss_type "$LOSS" --evidence_weight 0.1
    --train_batch_size 4 --test_batch_size 32 --warmup_ratio 0.06 --num_labels 4
)
SUPERVISED=(--learning_rate 5e-5 --classifier_lr 1e-4 --num_train_epochs 30)
LAST=$FOLDER/supervised

echo; echo "annotated documents and their evidence"
python train.py "${COMMON[@]}" "${SUPERVISED[@]}" --output_dir "$LAST" "${SUPERVISED_ARGS[@]}"

if [ -n "${DISTANT:-}" ]; then
    echo; echo "the teacher's attention on the distantly labelled documents"
    python scripts/distill.py --attention \
        --load_path "$LAST/seed_$SEED" --data_file "$DISTANT" --output_dir "$FOLDER/attention"

    # Ign F1 of this step leaves out the facts of the distant file, not of the annotated one: it compares with no other.
    echo; echo "the student: distant labels and the teacher's attention"
    python train.py "${COMMON[@]}" --learning_rate 3e-5 --classifier_lr 1e-4 --num_train_epochs 2 \
        --output_dir "$FOLDER/student" "${SIZE_ARGS[@]}" "${@:2}" \
        --train_file "$DISTANT" --teacher_attention "$FOLDER/attention" --seeds $SEED

    LAST=$FOLDER/finetuned
    echo; echo "the student goes on with the annotated documents and their evidence"
    python train.py "${COMMON[@]}" --learning_rate 1e-6 --classifier_lr 3e-6 --num_train_epochs 10 \
        --output_dir "$LAST" "${SIZE_ARGS[@]}" "${@:2}" --init_from "$FOLDER/student/seed_$SEED"
fi

echo; echo "a second pass over the predicted evidence"
FINISHED=("$LAST"/seed_*/scores.json)
python scripts/fuse_evidence.py --load_path "${FINISHED[@]%/scores.json}" --output_dir "$FOLDER/fused"
