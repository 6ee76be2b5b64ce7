#!/usr/bin/env bash
# What this machine has and what it lacks: the first thing to send with a bug report. It needs and changes nothing.
#     bash scripts/doctor.sh
CDPATH='' cd -- "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
python=.venv/bin/python
[ -x "$python" ] || python=$(command -v python3 || command -v python) || { echo "error: no Python is installed" >&2; exit 1; }
exec "$python" scripts/tools/doctor.py "$@"
