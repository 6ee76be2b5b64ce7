"""Predict a second time, on the evidence that a run predicted, and fuse both (DREEAM's inference-stage fusion).

    python scripts/fuse_evidence.py --load_path runs/dreeam/seed_* --output_dir runs/dreeam_fused

The threshold of the fused scores is fitted on dev, for each run. Writes result_dev.json, result.json and scores.json
into a folder for each seed, and summary.json.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hingeabl.start import start

start(__name__)  # first: it tells in one line which package is missing

from hingeabl.errors import run_command_line
from hingeabl.training.fusion import fuse_runs


def main(arguments: list[str] | None = None) -> None:
    """Predict twice and fuse; `arguments` default to the command line's."""
    parser = argparse.ArgumentParser(description="Predict on the predicted evidence too, and fuse both passes.")
    parser.add_argument("--load_path", required=True, nargs="+", help="finished runs with an --evidence_weight")
    parser.add_argument("--output_dir", required=True, help="folder for predictions and scores")
    parser.add_argument("--data_dir", help="folder of the three files; default: the run's")
    parser.add_argument("--device", help="default: CUDA where there is one")
    fuse_runs(parser.parse_args(arguments))


if __name__ == "__main__":
    run_command_line(main)
