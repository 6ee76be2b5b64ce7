#!/usr/bin/env bash
# The paper's Table 3 protocol on 400 real documents: eight losses with three seeds, ten epochs, a six-layer encoder.
#     bash scripts/studies/documents_400.sh --data FOLDER      (with dev_revised.json and test_revised.json of Re-DocRED)
# About three hours on two cores. A run is kept as a record in results/documents_400/; one that has a record is not
# trained, one that was interrupted goes on. Then prints every table of the records, writes them to tables.md, and draws figures.
#     LOSSES="atl" SEEDS="66 233" bash scripts/studies/documents_400.sh --data FOLDER      other runs for the same tables
#     LOSSES="atl" SEEDS=66 EPOCHS=30 bash scripts/studies/documents_400.sh --data FOLDER  longer ones, with own tables
#     LOSSES="atl" SEEDS=1 PRECISION=fp32 bash scripts/studies/documents_400.sh --data FOLDER  likewise; else train.py picks
#     RECORDS=runs/again bash scripts/studies/documents_400.sh --data FOLDER    trains all runs again
set -euo pipefail
[ "${1:-}" = --data ] && [ $# = 2 ] || { echo "usage: bash scripts/studies/documents_400.sh --data FOLDER" >&2; exit 2; }
case $2 in /*) DATA=$2 ;; *) DATA=$PWD/$2 ;; esac
LOSSES=${LOSSES:-atl balanced_softmax afl aml sat mean_sat hingeabl hingeabl_released}
SEEDS=${SEEDS:-1 5 42}
EPOCHS=${EPOCHS:-10}
NAME=documents_400
ARGS=(--num_train_epochs "$EPOCHS")
[ "$EPOCHS" = 10 ] || NAME+=_epochs_$EPOCHS
[ -z "${PRECISION:-}" ] || { NAME+=_$PRECISION; ARGS+=(--precision "$PRECISION"); }
RECORDS=${RECORDS:-results/$NAME}
source "$(dirname "$0")/../setup.sh"

export SIZE=documents_400
for seed in $SEEDS; do
    for loss in $LOSSES; do
        [ -f "$RECORDS/bert_$loss/seed_$seed.json" ] && continue
        [ -f dataset/documents_400/test.json ] || python scripts/studies/make_documents_400.py "$DATA"
        run=runs/$NAME/bert_$loss
        bash scripts/run_bert.sh "$loss" --seeds "$seed" --output_dir "$run" "${ARGS[@]}"
        python report.py --record "$RECORDS" "$run/seed_$seed"
    done
done

python report.py --table all "$RECORDS"
python report.py --table all "$RECORDS" --format markdown >"$RECORDS/tables.md.tmp"
mv "$RECORDS/tables.md.tmp" "$RECORDS/tables.md"
for figure in epochs patterns; do
    python report.py --figure "$figure" "$RECORDS" --output "$RECORDS"
done
