"""The documents of documents_400.sh: 400 to train, 100 for dev, 500 as test, from two official files of Re-DocRED.

    python scripts/studies/make_documents_400.py FOLDER       (with dev_revised.json and test_revised.json)

Writes dataset/documents_400/: train.json and dev.json, the first 400 and the last 100 documents of dev_revised.json,
and test.json, those of test_revised.json.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts/tools")]

from fetch import CHECKSUMS, has_checksum

from hingeabl.errors import UserError, run_command_line
from hingeabl.files import make_folder, read_json, write_json

TRAIN, DEV = 400, 100


def main() -> None:
    """Write the three files. Raises UserError if a file is missing or is not the official one."""
    if len(sys.argv) != 2:
        raise UserError(
            "usage: python scripts/studies/make_documents_400.py FOLDER, with dev_revised.json and test_revised.json"
        )
    contents = {}
    for name in ("dev_revised.json", "test_revised.json"):
        path = Path(sys.argv[1]) / name
        contents[name] = read_json(path)
        if not has_checksum(path, CHECKSUMS[name]):
            raise UserError(f"{path}: is not the official Re-DocRED file (other checksum); download it again")
    folder = make_folder(ROOT / "dataset" / "documents_400")
    documents = contents["dev_revised.json"]
    splits = {"train": documents[:TRAIN], "dev": documents[-DEV:], "test": contents["test_revised.json"]}
    for split, split_documents in splits.items():
        write_json(folder / f"{split}.json", split_documents, indent=0)
    print(f"the study's documents: {folder.relative_to(ROOT)}/")


if __name__ == "__main__":
    run_command_line(main)
