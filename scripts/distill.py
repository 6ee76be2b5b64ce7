"""Write what a teacher says of a distantly labelled file, for a student to match: its scores (KD-DocRE), or its
attention over word pieces (DREEAM).

    python scripts/distill.py --load_path runs/teacher/seed_66 --data_file train_distant.json --output_dir scores
    python train.py --train_file train_distant.json --teacher_scores scores ...

scripts/run_kd_docre_distill.sh and scripts/run_dreeam.sh have the whole procedures.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hingeabl.start import start

start(__name__)  # first: it tells in one line which package is missing

from hingeabl.errors import run_command_line
from hingeabl.training.distillation import distill


def main(arguments: list[str] | None = None) -> None:
    """Write what a teacher says; `arguments` default to the command line's."""
    parser = argparse.ArgumentParser(description="Write what a teacher says of a distantly labelled file.")
    parser.add_argument("--load_path", required=True, help="the teacher: a finished run's seed folder, or its hub name")
    parser.add_argument("--data_file", required=True, help="file in DocRED's schema")
    parser.add_argument("--output_dir", required=True, help="folder for the scores, or the attention")
    parser.add_argument("--attention", action="store_true", help="its attention over word pieces, not its scores")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), help="default: as in train.py")
    parser.add_argument("--device", help="default: CUDA where there is one")
    distill(parser.parse_args(arguments))


if __name__ == "__main__":
    run_command_line(main)
