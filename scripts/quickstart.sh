#!/usr/bin/env bash
# The paper's experiment in miniature: a sample corpus, a six-layer encoder, two seeds, a few minutes on two cores.
#     bash scripts/quickstart.sh [more arguments of train.py]
set -euo pipefail
source "$(dirname "$0")/setup.sh"
python scripts/fetch.py encoder
python scripts/make_sample.py dataset/sample

# The sample is small: the new layers' rate is ten times the paper's, batches and head are smaller.
python train.py \
    --data_dir dataset/sample \
    --train_file train.json \
    --dev_file dev.json \
    --test_file test.json \
    --model_name_or_path dataset/encoders/all-MiniLM-L6-v2 \
    --emb_size 256 \
    --loss_type hingeabl_released \
    --learning_rate 5e-5 \
    --classifier_lr 1e-3 \
    --train_batch_size 1 \
    --num_train_epochs 8 \
    --seeds 1 5 \
    --output_dir runs/quickstart \
    "$@"

cat <<'END'

This was a sample: invented documents told in templates, to show that everything works. Its scores say nothing about
relation extraction. The paper's experiment, on Re-DocRED with BERT-base and five seeds, wants a GPU:
    bash scripts/run_bert_hingeabl.sh
END
