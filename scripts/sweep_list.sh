# Sourced by the sweeps, behind size.sh: COUNT trainings, and run_of_list NUMBER [arguments of train.py] to run one of
# them, from 0. Its output goes to the end of log.txt in the training's folder.
LOSSES=${LOSSES:-atl balanced_softmax afl aml sat mean_sat hingeabl hingeabl_released}
SEEDS=${SEEDS:-1 5 42 66 233}
BACKBONES=${BACKBONES:-atlop}

LIST=()
for backbone in $BACKBONES; do
    for loss in $LOSSES; do
        for seed in $SEEDS; do LIST+=("$backbone $loss $seed"); done
    done
done
COUNT=${#LIST[@]}

run_of_list() {
    local backbone loss seed folder status=0
    read -r backbone loss seed <<<"${LIST[$1]}"
    folder=$RUNS/sweep/${backbone}_$loss
    mkdir -p "$folder/seed_$seed"
    # a batch and rates as in scripts/run_*.sh of each module, on BERT-base
    local -A settings=(
        [atlop]="--train_batch_size 4"
        [docunet]="--train_batch_size 2 --gradient_accumulation_steps 2 --learning_rate 3e-5 --module_lr 4e-4"
        [kd_docre]="--train_batch_size 4 --learning_rate 3e-5 --module_lr 3e-5 --emb_size 1024 --keep_last_batch"
    )
    echo "$backbone $loss seed $seed: $folder/seed_$seed/log.txt"
    # shellcheck disable=SC2086
    python train.py --backbone "$backbone" --loss_type "$loss" ${settings[$backbone]} --output_dir "$folder" \
        "${SIZE_ARGS[@]}" --seeds "$seed" "${@:2}" >>"$folder/seed_$seed/log.txt" 2>&1 || status=$?
    [ "$status" = 0 ] || echo "exit $status: $folder/seed_$seed/log.txt"
    return "$status"
}
