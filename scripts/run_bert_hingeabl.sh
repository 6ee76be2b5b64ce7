#!/usr/bin/env bash
# The paper's experiment: HingeABL as the authors' program computes it, BERT-base-cased, Re-DocRED, five seeds.
# (hingeabl is Eq. (10) to the letter; docs/differences.md says how the two differ.)
#     bash scripts/run_bert_hingeabl.sh [more arguments of train.py]
exec bash "$(dirname "$0")/run_bert.sh" hingeabl_released --margin 5 "$@"
