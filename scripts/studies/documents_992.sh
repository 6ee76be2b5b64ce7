#!/usr/bin/env bash
# The paper's Table 3 on 992 of its 3,053 training documents, which are no random third of them; dev and test are whole and
# official. ATLOP with a six-layer encoder, all else as in the paper, 30 epochs: 7,440 steps a run.
#     bash scripts/studies/documents_992.sh --data FOLDER
# FOLDER holds train_part.json, dev_revised.json and test_revised.json, made by make_documents_992.py; if it holds
# test_docgnre.json too, runs are scored with its labels.
# A run is kept as a record in results/documents_992/; one that has a record is not trained, one that was interrupted
# goes on.
# Then prints the tables of these records and a list of all the study's runs, writes both to tables.md, and draws
# figures. The study has seven parts, trained in this order:
#     first     hingeabl_released and atl, seed 1
#     eight     the paper's other losses and hingeabl, seed 1
#     length    hingeabl_released and atl, seed 1, 3 and 10 epochs; records in ..._epochs_3/ and ..._epochs_10/
#     margin    hingeabl_released, seed 1, margins 1, 2 and 10, 10 epochs; records in ..._epochs_10_margin_1/ and so on
#     seeds     hingeabl_released, atl and afl, seeds 5, 42, 66 and 233
#     claims    balanced_softmax and sat, seeds 5 and 42, for claims that one seed leaves open
#     later     losses of later papers, seed 1
# PARTS chooses some of them, JOBS how many runs go at once (on one GPU), and EPOCHS=1 makes a short try:
#     PARTS="first eight" JOBS=4 bash scripts/studies/documents_992.sh --data FOLDER
#     PARTS=first EPOCHS=1 RECORDS=runs/try/records RUNS=runs/try/runs bash scripts/studies/documents_992.sh --data FOLDER
set -euo pipefail
[ "${1:-}" = --data ] && [ $# = 2 ] || { echo "usage: bash scripts/studies/documents_992.sh --data FOLDER" >&2; exit 2; }
case $2 in /*) DOCUMENTS_992=$2 ;; *) DOCUMENTS_992=$PWD/$2 ;; esac
PARTS=${PARTS:-first eight length margin seeds claims later}
EPOCHS=${EPOCHS:-30}
NAME=documents_992
[ "$EPOCHS" = 30 ] || NAME+=_epochs_$EPOCHS
RECORDS=${RECORDS:-results/$NAME}
RUNS=${RUNS:-runs/$NAME}
source "$(dirname "$0")/../setup.sh"

runs_of() { # PART: a line for each of its runs, LOSS SEED EPOCHS [MARGIN]
    local loss seed epochs margin
    case $1 in
    first) for loss in hingeabl_released atl; do echo "$loss 1 $EPOCHS"; done ;;
    eight) for loss in afl hingeabl sat mean_sat balanced_softmax aml; do echo "$loss 1 $EPOCHS"; done ;;
    length) for epochs in 3 10; do for loss in hingeabl_released atl; do echo "$loss 1 $epochs"; done; done ;;
    margin) for margin in 1 2 10; do echo "hingeabl_released 1 10 $margin"; done ;;
    seeds) for seed in 5 42 66 233; do for loss in hingeabl_released atl afl; do echo "$loss $seed $EPOCHS"; done; done ;;
    claims) for seed in 5 42; do for loss in balanced_softmax sat; do echo "$loss $seed $EPOCHS"; done; done ;;
    later) for loss in atgl ncrl pmtl amtl pn_risk; do echo "$loss 1 $EPOCHS"; done ;;
    *) echo "error: PARTS: $1: choose from first, eight, length, margin, seeds, claims, later" >&2; return 2 ;;
    esac
}
ending() { # EPOCHS [MARGIN]: of the folders of such runs
    [ "$1" = "$EPOCHS" ] || echo -n "_epochs_$1"
    echo "${2:+_margin_$2}"
}
train_and_record() { # LOSS SEED EPOCHS [MARGIN]
    local records run also=$DOCUMENTS_992/test_docgnre.json
    records=$RECORDS$(ending "${@:3}")
    run=$RUNS$(ending "${@:3}")/bert_$1
    [ -f "$also" ] || also=
    bash scripts/run_bert.sh "$1" --seeds "$2" --num_train_epochs "$3" ${4:+--margin "$4"} --output_dir "$run" || return 1
    python report.py --record "$records" "$run/seed_$2" ${also:+--also "$also"}
}
export -f ending train_and_record
export SIZE=documents_992 DOCUMENTS_992 RECORDS RUNS EPOCHS

wanted=$(for part in $PARTS; do runs_of "$part" || exit 2; done)
wanted=$(awk '!seen[$0]++' <<<"$wanted") # EPOCHS=3 or 10: a run of two parts once
missing=$(while read -r loss seed length; do
    [ -f "$RECORDS$(ending $length)/bert_$loss/seed_$seed.json" ] || echo "$loss $seed $length"
done <<<"$wanted")
if [ -n "$missing" ]; then
    python scripts/studies/check_documents_992.py "$DOCUMENTS_992"
    python scripts/tools/fetch.py encoder
    xargs -P "${JOBS:-1}" -L 1 bash -euc 'train_and_record "$@"' study <<<"$missing"
fi

[ -d "$RECORDS" ] || { echo "$RECORDS/: no records yet; tables and figures come with those of PARTS=first"; exit 0; }
folders=()
for end in "" _epochs_3 _epochs_10{,_margin_1,_margin_2,_margin_10}; do
    [ ! -d "$RECORDS$end" ] || folders+=("$RECORDS$end")
done
{
    echo "Trained on 992 of the paper's 3,053 training documents, which are no random third of them (docs/data.md), so Ign" \
        "F1 ignores the facts of these 992 documents only."
    echo
    python report.py --table all --format markdown "$RECORDS"
    echo
    python report.py --table runs --format markdown "${folders[@]}"
} | tee "$RECORDS/tables.md.tmp"
mv "$RECORDS/tables.md.tmp" "$RECORDS/tables.md"
for figure in epochs patterns; do
    python report.py --figure "$figure" "$RECORDS" --output "$RECORDS"
done
lengths=()
for folder in "$RECORDS" "$RECORDS"_epochs_{3,10} results/documents_400 results/documents_400_epochs_30; do
    for loss in hingeabl_released atl; do
        [ ! -d "$folder/bert_$loss" ] || lengths+=("$folder/bert_$loss")
    done
done
python report.py --figure length "${lengths[@]}" --output "$RECORDS"
