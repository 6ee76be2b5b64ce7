#!/usr/bin/env bash
# The paper's Table 2: ATLOP, DocuNet and KD-DocRE, each with its authors' loss and with HingeABL.
#     bash scripts/table2.sh [more arguments of report.py]
exec bash "$(dirname "$0")/table.sh" 2 "$@"
