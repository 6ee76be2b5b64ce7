# Sourced behind setup.sh by the scripts that run at several sizes. SIZE=full is the default; SIZE=sample is the same in
# miniature, on the sample corpus with the small encoder at the rates of quickstart.sh, to see it work;
# SIZE=documents_400 and SIZE=documents_992 are those of the studies of these names, the latter's documents in the folder
# DOCUMENTS_992. Fetches what is needed, and sets RUNS, the folder of the runs, DATA_FILES, and SIZE_ARGS, what train.py
# gets besides the experiment's own settings.
case ${SIZE:-full} in
full)
    python scripts/tools/fetch.py redocred
    RUNS=runs
    DATA_FILES=(dataset/redocred/{train,dev,test}_revised.json)
    SIZE_ARGS=(--seeds 1 5 42 66 233)
    ;;
sample)
    python scripts/tools/fetch.py encoder
    python scripts/tools/make_sample.py dataset/sample
    RUNS=runs/sample
    DATA_FILES=(dataset/sample/{train,dev,test}.json)
    SIZE_ARGS=(
        --data_dir dataset/sample --train_file train.json --dev_file dev.json --test_file test.json
        --model_name_or_path dataset/encoders/all-MiniLM-L6-v2 --emb_size 128
        --learning_rate 5e-5 --classifier_lr 1e-3 --train_batch_size 1 --gradient_accumulation_steps 1
        --num_train_epochs 3 --seeds 1 5
    )
    ;;
documents_400)
    if [ ! -f dataset/documents_400/test.json ]; then
        echo "error: dataset/documents_400/: is missing; see scripts/studies/make_documents_400.py" >&2
        exit 2
    fi
    python scripts/tools/fetch.py encoder
    RUNS=runs/documents_400
    DATA_FILES=(dataset/documents_400/{train,dev,test}.json)
    SIZE_ARGS=(
        --data_dir dataset/documents_400 --train_file train.json --dev_file dev.json --test_file test.json
        --model_name_or_path dataset/encoders/all-MiniLM-L6-v2 --num_train_epochs 10 --seeds 1 5 42
    )
    ;;
documents_992)
    DOCUMENTS_992=${DOCUMENTS_992:-dataset/documents_992}
    python scripts/studies/check_documents_992.py "$DOCUMENTS_992"
    python scripts/tools/fetch.py encoder
    RUNS=runs/documents_992
    DATA_FILES=("$DOCUMENTS_992"/{train_part,dev_revised,test_revised}.json)
    SIZE_ARGS=(
        --data_dir "$DOCUMENTS_992" --train_file train_part.json --dev_file dev_revised.json --test_file test_revised.json
        --model_name_or_path dataset/encoders/all-MiniLM-L6-v2 --seeds 1 5 42
    )
    ;;
*)
    echo "error: SIZE=$SIZE: choose full, documents_992, documents_400 or sample" >&2
    exit 2
    ;;
esac
