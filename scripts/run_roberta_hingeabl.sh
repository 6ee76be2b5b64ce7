#!/usr/bin/env bash
# ATLOP with HingeABL on RoBERTa-large, as in the paper's Table 2.
#     bash scripts/run_roberta_hingeabl.sh [more arguments of train.py]
exec bash "$(dirname "$0")/run_atlop_roberta.sh" hingeabl_released --margin 5 "$@"
