#!/usr/bin/env bash
# Set-up, then the linter and the tests. Arguments go to pytest.
# Tests that compare with real data or released programs find them through REDOCRED_DIR and FIXTURES_DIR, or skip.
#     bash scripts/test.sh
set -euo pipefail
source "$(dirname "$0")/setup.sh"
python scripts/fetch.py encoder
ruff check .
ruff format --check .
python -m pytest -ra "$@"
