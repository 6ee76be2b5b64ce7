#!/usr/bin/env bash
# A table of the paper: trains what is missing, with five seeds, and prints the table beside the paper's figures.
#     bash scripts/table.sh NUMBER [more arguments of report.py]      (1 to 7)
# Three more are not the paper's: 3_later, table 3 with losses that it lacks; precision and thresholds, on the same runs.
# Finished runs are not repeated. SIZE=sample does the same in miniature, on the sample corpus.
set -euo pipefail
NUMBER=${1:-}
case $NUMBER in
[1-7] | 3_later | precision | thresholds) ;;
*) echo "error: table ${NUMBER:-is missing}: choose one of 1 to 7, 3_later, precision, thresholds" >&2; exit 2 ;;
esac
source "$(dirname "$0")/setup.sh"
source scripts/tools/size.sh
LOSSES="atl balanced_softmax afl aml sat mean_sat hingeabl hingeabl_released"

case $NUMBER in
1)
    bash scripts/run_bert.sh atl
    PATHS=("$RUNS/bert_atl")
    ;;
2) # each module with its authors' loss, and with HingeABL
    for cell in atlop:atl docunet:balanced_softmax kd_docre:afl; do
        bash scripts/run_roberta.sh "${cell%:*}" "${cell#*:}"
        bash scripts/run_roberta.sh "${cell%:*}" hingeabl_released
    done
    PATHS=("$RUNS"/roberta_*)
    ;;
3 | 4 | 7 | 3_later | precision | thresholds)
    case $NUMBER in 3_later | precision | thresholds) LOSSES="$LOSSES atgl ncrl pmtl amtl pn_risk" ;; esac
    PATHS=()
    for loss in $LOSSES; do
        bash scripts/run_bert.sh "$loss"
        PATHS+=("$RUNS/bert_$loss")
    done
    ;;
5 | 6) PATHS=("${DATA_FILES[@]}") ;;
esac

python report.py --table "$NUMBER" "${PATHS[@]}" "${@:2}"
