#!/usr/bin/env bash
# Table 3 with five losses that the paper lacks, all trained as in the paper, beside the published figures.
#     bash scripts/table3_later.sh [more arguments of report.py]
exec bash "$(dirname "$0")/table.sh" 3_later "$@"
