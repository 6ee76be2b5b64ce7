"""Check the documents of documents_992.sh by their SHA-256: 992 training documents, the official dev and test files.

python scripts/studies/check_documents_992.py FOLDER     (with train_part.json, dev_revised.json and test_revised.json)
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts/tools")]

from fetch import CHECKSUMS, has_checksum

from hingeabl.data.checksums import DOCUMENTS_992
from hingeabl.errors import UserError, run_command_line

PART = {"train_part.json": DOCUMENTS_992["train"]}
DOCUMENTS_992_CHECKSUMS = PART | {name: CHECKSUMS[name] for name in ("dev_revised.json", "test_revised.json")}


def main() -> None:
    """Raise UserError unless the folder holds the three files."""
    if len(sys.argv) != 2:
        raise UserError(
            f"usage: python scripts/studies/check_documents_992.py FOLDER, with {', '.join(DOCUMENTS_992_CHECKSUMS)}"
        )
    for name, checksum in DOCUMENTS_992_CHECKSUMS.items():
        path = Path(sys.argv[1]) / name
        if not path.is_file():
            raise UserError(
                f"{path}: no such file; docs/data.md#a-third-of-the-training-documents says where it comes from"
            )
        if not has_checksum(path, checksum):
            raise UserError(f"{path}: is not the file of the study (other checksum); replace it")
    print(f"the study's documents: {sys.argv[1]}/")


if __name__ == "__main__":
    run_command_line(main)
