#!/usr/bin/env bash
# The paper's Table 2: ATLOP, DocuNet and KD-DocRE, each with its authors' loss and with HingeABL, five seeds each.
# Finished runs are not repeated. SIZE=sample runs the same in miniature.
#     bash scripts/table2.sh [more arguments of train.py]
set -euo pipefail
cd "$(dirname "$0")"
bash run_atlop_roberta.sh atl "$@"
bash run_atlop_roberta.sh hingeabl_released --margin 5 "$@"
bash run_docunet_roberta.sh balanced_softmax "$@"
bash run_docunet_roberta.sh hingeabl_released --margin 5 "$@"
bash run_kd_docre_roberta.sh afl "$@"
bash run_kd_docre_roberta.sh hingeabl_released --margin 5 "$@"
