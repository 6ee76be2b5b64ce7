#!/usr/bin/env bash
# Kills one training twenty times at random moments, and two while a checkpoint or the best weights are being written;
# scores, log and weights must equal those of a training that was left alone. The tests do the same with three kills.
#     bash scripts/kill_twenty.sh
set -euo pipefail
source "$(dirname "$0")/setup.sh"
python scripts/fetch.py encoder
KILLS=20 python -m pytest -q -rA tests/test_resume.py -k kill
