#!/usr/bin/env bash
# Trains the detector of mentions and sentences in models/docred_mentions/, which reads plain text.
#     bash scripts/train_mentions.sh --data FOLDER TRAIN.json [TRAIN.json ...]
# FOLDER holds dev_revised.json and test_revised.json of Re-DocRED; training files need entities, but no labels. The epoch
# is chosen by dev F1. An interrupted training goes on with the same command. It writes runs/mentions/detector.
set -euo pipefail
[ "${1:-}" = --data ] && [ $# -ge 3 ] || { echo "usage: bash scripts/train_mentions.sh --data FOLDER TRAIN.json ..." >&2; exit 2; }
absolute() { case $1 in /*) echo "$1" ;; *) echo "$PWD/$1" ;; esac; }
DATA=$(absolute "$2")
TRAIN=()
for path in "${@:3}"; do TRAIN+=("$(absolute "$path")"); done
source "$(dirname "$0")/setup.sh"
python scripts/tools/fetch.py encoder

exec python scripts/tools/train_mentions.py \
    --train "${TRAIN[@]}" \
    --dev "$DATA/dev_revised.json" \
    --test "$DATA/test_revised.json" \
    --encoder dataset/encoders/all-MiniLM-L6-v2 \
    --epochs 6 \
    --batch_size 8 \
    --learning_rate 1e-4 \
    --head_learning_rate 1e-3 \
    --warmup_ratio 0.06 \
    --no_case 0.1 \
    --seed 1 \
    --output_dir runs/mentions
