"""Train the detector of mentions and sentences; scripts/train_mentions.sh calls this.

python scripts/tools/train_mentions.py --train TRAIN.json [TRAIN.json ...] --dev DEV.json --output_dir FOLDER
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hingeabl.errors import run_command_line
from hingeabl.training.mentions import MentionSettings, train_mentions


def main() -> None:
    """Read the options and train."""
    parser = argparse.ArgumentParser(description="Train the detector of mentions and sentences on documents' mentions.")
    parser.add_argument("--train", required=True, nargs="+", metavar="FILE", help="documents in DocRED's schema")
    parser.add_argument("--dev", required=True, metavar="FILE", help="its F1 of typed mentions picks the epoch")
    parser.add_argument("--test", metavar="FILE", help="scored at the end")
    parser.add_argument("--output_dir", required=True, type=Path, metavar="FOLDER", help="checkpoint and detector")
    for field in dataclasses.fields(MentionSettings):
        parser.add_argument(f"--{field.name}", default=field.default, type=type(field.default))
    args = parser.parse_args()
    settings = MentionSettings(
        **{field.name: getattr(args, field.name) for field in dataclasses.fields(MentionSettings)}
    )
    train_mentions(args.train, args.dev, args.output_dir, settings, args.test)


if __name__ == "__main__":
    run_command_line(main)
