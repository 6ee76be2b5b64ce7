# Sourced by the sweeps behind size.sh: COUNT trainings, one for each of SCRIPTS, LOSSES and SEEDS, and
# run_of_list NUMBER [arguments of train.py] for one of them, from 0. What it prints goes to the end of a file in
# $RUNS/logs, whose last line is its exit code.
SCRIPTS=${SCRIPTS:-bert}                   # bert, cdr, roberta_atlop, roberta_docunet, roberta_kd_docre
LOSSES=${LOSSES:-atl balanced_softmax afl aml sat mean_sat hingeabl hingeabl_released}
SEEDS=${SEEDS:-1 5 42 66 233}

LIST=()
for script in $SCRIPTS; do
    for loss in $LOSSES; do
        for seed in $SEEDS; do LIST+=("$script $loss $seed"); done
    done
done
COUNT=${#LIST[@]}

source scripts/tools/refuse.sh
refuse_options 'set LOSSES="atl afl", SEEDS="1 5", SCRIPTS=bert or RUNS=runs/mine before the command' \
    --se --los --o -- "$@"

run_of_list() {
    local script loss seed log status=0 run
    if [ "$1" -ge "$COUNT" ]; then
        echo "error: training $1: there are $COUNT, numbered from 0; submit --array=0-$((COUNT - 1))" >&2
        return 2
    fi
    read -r script loss seed <<<"${LIST[$1]}"
    mkdir -p "$RUNS/logs"
    log=$RUNS/logs/${script}_${loss}_seed_$seed.txt
    case $script in roberta_*) run=(roberta.sh "${script#roberta_}") ;; *) run=("$script.sh") ;; esac
    echo "training $(($1 + 1)) of $COUNT: $log"
    TQDM_MININTERVAL=60 bash "scripts/run_${run[0]}" "${run[@]:1}" "$loss" --seeds "$seed" "${@:2}" >>"$log" 2>&1 &
    training=$!
    [ -z "${sweep_stopped:-}" ] || kill -TERM "$training" # by sweep.sh, just now
    wait "$training" || status=$?
    while kill -0 "$training" 2>/dev/null; do # a trapped signal ended the wait
        status=0
        wait "$training" || status=$?
    done
    echo "exit code $status" >>"$log"
    if [ "$status" != 0 ]; then echo "exit code $status: $log: $(tail -n 2 "$log" | head -n 1 | tr '\r' '\n' | tail -n 1)"; fi
    return "$status"
}
