#!/usr/bin/env bash
# Another benchmark at full size with the small encoder, 30 epochs: CDR with eleven losses (3,750 steps a run; ATLOP's
# settings but for the encoder's rate, 5e-5 as for BERT in the paper), or DWIE with the paper's losses, documents whole
# (4,500 steps). Hours a run on a CPU.
#     bash scripts/studies/small_encoder.sh cdr            docs/data.md says where the files come from
#     bash scripts/studies/small_encoder.sh dwie
# A run is kept as a record in results/cdr/ or results/dwie/; one that has a record is not trained, one that was
# interrupted goes on. Then prints the table of the records and what each run cost, and writes both to tables.md.
#     LOSSES="atl" SEEDS="66 233" bash scripts/studies/small_encoder.sh cdr      other runs for the same tables
#     JOBS=8 bash scripts/studies/small_encoder.sh cdr                           so many runs at once, on one GPU
#     LOSSES="atl" SEEDS=1 EPOCHS=1 RECORDS=runs/try bash scripts/studies/small_encoder.sh cdr    a short try
#     DWIE=FOLDER bash scripts/studies/small_encoder.sh dwie                     another folder than dataset/dwie
set -euo pipefail
USAGE="usage: bash scripts/studies/small_encoder.sh cdr, or dwie"
[ $# = 1 ] || { echo "$USAGE" >&2; exit 2; }
case $1 in
cdr)
    SCRIPT=scripts/run_cdr.sh TABLE=inter
    LOSSES=${LOSSES:-atl balanced_softmax afl aml sat mean_sat hingeabl hingeabl_released atgl ncrl pmtl}
    ;;
dwie)
    SCRIPT=scripts/studies/run_dwie.sh TABLE=all
    LOSSES=${LOSSES:-atl balanced_softmax afl aml sat mean_sat hingeabl hingeabl_released}
    ;;
*)
    echo "$USAGE" >&2
    exit 2
    ;;
esac
SEEDS=${SEEDS:-1 5 42 66 233}
EPOCHS=${EPOCHS:-30}
NAME=$1
[ "$EPOCHS" = 30 ] || NAME+=_epochs_$EPOCHS
RECORDS=${RECORDS:-results/$NAME}
RUNS=${RUNS:-runs/$NAME}
case ${DWIE:-/} in /*) ;; *) DWIE=$PWD/$DWIE ;; esac
source "$(dirname "$0")/../setup.sh"
export DWIE=${DWIE:-dataset/dwie}

train_and_record() { # LOSS SEED
    bash "$SCRIPT" "$1" --model_name_or_path dataset/encoders/all-MiniLM-L6-v2 --learning_rate 5e-5 \
        --num_train_epochs "$EPOCHS" --seeds "$2" --output_dir "$RUNS/bert_$1" || return 1
    python report.py --record "$RECORDS" "$RUNS/bert_$1/seed_$2"
}
export -f train_and_record
export SCRIPT RECORDS RUNS EPOCHS
missing=$(for seed in $SEEDS; do
    for loss in $LOSSES; do
        [ -f "$RECORDS/bert_$loss/seed_$seed.json" ] || echo "$loss $seed"
    done
done)
if [ -n "$missing" ]; then
    case $1 in # once, before several runs need it
    cdr) python scripts/tools/fetch.py cdr ;;
    dwie)
        [ -f "$DWIE/rel2id.json" ] || python prepro.py "$DWIE"/{train,dev,test}.json --make_rel2id "$DWIE/rel2id.json"
        ;;
    esac
    python scripts/tools/fetch.py encoder
    xargs -P "${JOBS:-1}" -L 1 bash -euc 'train_and_record "$@"' study <<<"$missing"
fi

python report.py --table "$TABLE" "$RECORDS"
python report.py --table runs "$RECORDS"
{
    python report.py --table "$TABLE" --format markdown "$RECORDS"
    echo
    python report.py --table runs --format markdown "$RECORDS"
} >"$RECORDS/tables.md.tmp"
mv "$RECORDS/tables.md.tmp" "$RECORDS/tables.md"
