"""Publish a finished run on the model hub, or write the same files to a folder: weights, settings, tokenizer, card.

    python scripts/publish.py runs/bert/seed_66 --repo owner/name --private
    python scripts/publish.py runs/bert/seed_66 --folder out

docs/use.md says what is published, and how it is loaded.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hingeabl.start import start

start(__name__)  # first: it tells in one line which package is missing

from hingeabl.errors import UserError, run_command_line
from hingeabl.reporting.publishing import CompressionOptions, publish, write_folder


def main(arguments: list[str] | None = None) -> None:
    """Publish; `arguments` default to the command line's."""
    parser = argparse.ArgumentParser(description="Publish a finished run on the model hub.")
    parser.add_argument("run", help="a finished run's seed folder; the other seeds beside it give the spread")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--repo", metavar="OWNER/NAME", help="the model on the hub; made if it is not there")
    target.add_argument("--folder", metavar="OUT", help="only write the files, to a new folder; no network")
    parser.add_argument("--private", action="store_true", help="with --repo: only you may see it")
    parser.add_argument("--compress", action="store_true", help="matrices in 8 bits: a quarter of the size")
    parser.add_argument(
        "--scored",
        metavar="FOLDER",
        help="with --compress, and needed with --repo: what train.py --load_path wrote of it",
    )
    parser.add_argument("--shift", type=float, default=0.0, help="with --compress: added to the threshold for good")
    parser.add_argument("--license", help="its name on the hub, such as mit; default: other, unspecified")
    args = parser.parse_args(arguments)
    if (args.scored or args.shift) and not args.compress:
        raise UserError("--scored, --shift: go with --compress; a run that is not compressed has its own scores")
    if not math.isfinite(args.shift):
        raise UserError(f"--shift {args.shift}: pass a finite number")
    compression = CompressionOptions(args.scored, args.shift) if args.compress else None
    if args.folder is not None:
        if args.private:
            raise UserError("--private: is of the hub; leave it out, or pass --repo")
        write_folder(args.run, args.folder, args.license, compression)
        print(f"written: {args.folder}")
    else:
        print(f"published: {publish(args.run, args.repo, args.private, args.license, compression)}")


if __name__ == "__main__":
    run_command_line(main)
