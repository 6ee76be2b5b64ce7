# Sourced: refuse_options REMEDY START... -- ARGUMENT... ends with an error at an argument that begins with a START.
refuse_options() {
    local remedy=$1 starts=() start
    shift
    while [ "$1" != -- ]; do starts+=("$1") && shift; done
    for given in "$@"; do
        for start in "${starts[@]}"; do # also where it is cut short
            case $given in "$start"*) echo "error: ${given%%=*}: is not taken here; $remedy" >&2 && exit 2 ;; esac
        done
    done
}
