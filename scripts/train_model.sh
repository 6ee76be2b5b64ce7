#!/usr/bin/env bash
# Trains the model of models/redocred_minilm/ and makes that folder: ATLOP on a small encoder with HingeABL and evidence.
#     bash scripts/train_model.sh --data FOLDER TRAIN.json [TRAIN.json ...] [-- more arguments of train.py]
# FOLDER holds dev_revised.json and test_revised.json of Re-DocRED; the training files are joined. The epoch is chosen by
# dev F1. An interrupted training goes on with the same command. The folder is made anew in runs/model/redocred_minilm.
set -euo pipefail
[ "${1:-}" = --data ] && [ $# -ge 3 ] || { echo "usage: bash scripts/train_model.sh --data FOLDER TRAIN.json ..." >&2; exit 2; }
absolute() { case $1 in /*) echo "$1" ;; *) echo "$PWD/$1" ;; esac; }
DATA=$(absolute "$2")
shift 2
TRAIN=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do TRAIN+=("$(absolute "$1")"); shift; done
source "$(dirname "$0")/setup.sh"
source scripts/tools/refuse.sh
refuse_options "the model is that of seed 1, in runs/model" --o --se -- "$@"
python scripts/tools/fetch.py encoder
RUN=runs/model/seed_1
FILES=(--data_dir "$DATA" --train_file "$PWD/runs/model/train.json" --dev_file dev_revised.json --test_file test_revised.json)

mkdir -p runs/model
python - runs/model/train.json "${TRAIN[@]}" <<'END'
import json, sys
from hingeabl.errors import run_command_line
from hingeabl.files import atomic_write
from hingeabl.readers.documents import load_documents, read_documents

def join() -> None:
    for path in sys.argv[2:]:
        load_documents(path)  # which checks them
    documents = [document for path in sys.argv[2:] for document in read_documents(path)]
    documents.sort(key=lambda document: document["title"])
    with atomic_write(sys.argv[1]) as file:
        json.dump(documents, file, ensure_ascii=False)

run_command_line(join)
END

python train.py \
    "${FILES[@]}" \
    --model_name_or_path dataset/encoders/all-MiniLM-L6-v2 \
    --loss_type hingeabl_released \
    --evidence_weight 0.1 \
    --learning_rate 5e-5 \
    --classifier_lr 1e-4 \
    --train_batch_size 4 \
    --test_batch_size 32 \
    --num_train_epochs 30 \
    --warmup_ratio 0.06 \
    --seeds 1 \
    --output_dir runs/model \
    "${@:2}"

# The published weights have 8 bits and the threshold that is best on dev; the card has the scores that these have.
rm -rf runs/model/compressed runs/model/scored runs/model/redocred_minilm
SMALL=(--compress --license mit --shift "$(python -c 'import json, sys; print(json.load(open(sys.argv[1]))["best_shift"])' "$RUN/confidence.json")")
python scripts/publish.py "$RUN" --folder runs/model/compressed "${SMALL[@]}"
python train.py --load_path runs/model/compressed "${FILES[@]}" --output_dir runs/model/scored
python scripts/publish.py "$RUN" --folder runs/model/redocred_minilm "${SMALL[@]}" --scored runs/model/scored
card=runs/model/redocred_minilm/README.md
sed 's#owner/name#models/redocred_minilm#' $card >$card.tmp
mv $card.tmp $card
