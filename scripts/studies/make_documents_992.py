"""The documents of documents_992.sh, from the official files of Re-DocRED.

    python scripts/studies/make_documents_992.py dataset/redocred     (with train_revised.json and dev and test files)

Writes dataset/documents_992/: train_part.json, the 992 training documents whose titles meta/documents_992.json knows,
by the beginnings of their SHA-256, and the dev and test files as they are.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts/tools")]

from check_documents_992 import PART
from fetch import CHECKSUMS, has_checksum

from hingeabl.errors import UserError, run_command_line
from hingeabl.files import atomic_write, make_folder, read_json


def title_hash(title: str) -> str:
    """The first twelve digits of a title's SHA-256."""
    return hashlib.sha256(title.encode()).hexdigest()[:12]


def part_of(documents: list[dict[str, Any]]) -> str:
    """The text of train_part.json: the study's documents among these, sorted by title."""
    hashes = set(read_json(ROOT / "meta" / "documents_992.json"))
    chosen = sorted((d for d in documents if title_hash(d["title"]) in hashes), key=lambda d: d["title"])
    return json.dumps(chosen, separators=(",", ":"), ensure_ascii=False)


def main() -> None:
    """Write the three files. Raises UserError if a file is missing or not the official one."""
    if len(sys.argv) != 2:
        raise UserError(f"usage: python scripts/studies/make_documents_992.py FOLDER, with {', '.join(CHECKSUMS)}")
    source, folder = Path(sys.argv[1]), ROOT / "dataset" / "documents_992"
    for name, checksum in CHECKSUMS.items():
        if not (source / name).is_file():
            raise UserError(
                f"{source / name}: no such file; python scripts/tools/fetch.py redocred puts it into dataset/redocred/"
            )
        if not has_checksum(source / name, checksum):
            raise UserError(f"{source / name}: is not the official Re-DocRED file (other checksum); download it again")
    text = part_of(read_json(source / "train_revised.json"))
    [(name, checksum)] = PART.items()
    if hashlib.sha256(text.encode()).hexdigest() != checksum:
        raise UserError(f"{source}/train_revised.json: the study's documents in it differ from those that were used")
    make_folder(folder)
    with atomic_write(folder / name) as file:
        file.write(text)
    for name in ("dev_revised.json", "test_revised.json"):
        if (source / name).resolve() != (folder / name).resolve():
            with atomic_write(folder / name, "wb") as file:
                file.write((source / name).read_bytes())
    print(f"the study's documents: {folder.relative_to(ROOT)}/")


if __name__ == "__main__":
    run_command_line(main)
