#!/usr/bin/env bash
# Set-up, then the linter, the type checker and the tests, in parallel.
#     bash scripts/test.sh [arguments of pytest]          the short suite
#     bash scripts/test.sh --all [arguments of pytest]    everything: fuzzing, many kills, full disks, a browser, real data
# Tests on real documents find them through REDOCRED_DIR, CDR_DIR, BIORED_DIR, DWIE_DIR and FIXTURES_DIR; without these,
# all others still run.
# TEST_PROCESSES sets how many tests run at once (default: the number of cores, 4 at most).
set -euo pipefail
EXTRAS=yes
source "$(dirname "$0")/setup.sh"
WHICH=(-m "not slow")
if [ "${1:-}" = --all ]; then
    WHICH=()
    export KILLS=${KILLS:-3}
    shift
fi
python scripts/tools/fetch.py encoder
ruff check .
ruff format --check .
mypy
cores=$(python -c 'import os; print(min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()))')
export OMP_NUM_THREADS=1 # each test has a core
python -m pytest -ra -n "${TEST_PROCESSES:-$cores}" --dist worksteal ${WHICH[@]+"${WHICH[@]}"} "$@"
