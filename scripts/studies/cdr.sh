#!/usr/bin/env bash
# CDR at full size with the small encoder: eleven losses, 500 training documents, 30 epochs; ATLOP's settings for CDR but
# for the encoder and its rate, 5e-5 as for BERT in the paper. 3,750 steps a run: hours on a CPU.
#     bash scripts/studies/cdr.sh            docs/data.md#cdr-and-gda says where the files come from
# A run is kept as a record in results/cdr/; one that has a record is not trained, one that was interrupted goes on.
# Then prints the table of the records and what each run cost, and writes both to tables.md.
#     LOSSES="atl" SEEDS="66 233" bash scripts/studies/cdr.sh      other runs for the same tables
#     JOBS=8 bash scripts/studies/cdr.sh                           so many runs at once, on one GPU
#     LOSSES="atl" SEEDS=1 EPOCHS=1 RECORDS=runs/try bash scripts/studies/cdr.sh    a short try
set -euo pipefail
[ $# = 0 ] || { echo "usage: bash scripts/studies/cdr.sh" >&2; exit 2; }
LOSSES=${LOSSES:-atl balanced_softmax afl aml sat mean_sat hingeabl hingeabl_released atgl ncrl pmtl}
SEEDS=${SEEDS:-1 5 42 66 233}
EPOCHS=${EPOCHS:-30}
NAME=cdr
[ "$EPOCHS" = 30 ] || NAME+=_epochs_$EPOCHS
RECORDS=${RECORDS:-results/$NAME}
RUNS=${RUNS:-runs/$NAME}
source "$(dirname "$0")/../setup.sh"

train_and_record() { # LOSS SEED
    bash scripts/run_cdr.sh "$1" --model_name_or_path dataset/encoders/all-MiniLM-L6-v2 --learning_rate 5e-5 \
        --num_train_epochs "$EPOCHS" --seeds "$2" --output_dir "$RUNS/bert_$1" || return 1
    python report.py --record "$RECORDS" "$RUNS/bert_$1/seed_$2"
}
export -f train_and_record
export RECORDS RUNS EPOCHS
missing=$(for seed in $SEEDS; do
    for loss in $LOSSES; do
        [ -f "$RECORDS/bert_$loss/seed_$seed.json" ] || echo "$loss $seed"
    done
done)
if [ -n "$missing" ]; then
    python scripts/tools/fetch.py cdr
    python scripts/tools/fetch.py encoder
    xargs -P "${JOBS:-1}" -L 1 bash -euc 'train_and_record "$@"' study <<<"$missing"
fi

python report.py --table inter "$RECORDS"
python report.py --table runs "$RECORDS"
{
    python report.py --table inter --format markdown "$RECORDS"
    echo
    python report.py --table runs --format markdown "$RECORDS"
} >"$RECORDS/tables.md.tmp"
mv "$RECORDS/tables.md.tmp" "$RECORDS/tables.md"
