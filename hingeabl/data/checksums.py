"""Checksums of known data files: SHA-256, or, with 40 digits, the git blob name (the SHA-1 of "blob <size>\\0" and the
content)."""

from __future__ import annotations

import hashlib
from pathlib import Path

REDOCRED = {
    "train": "1ba485adf8e4cb789c441de2f6fe41de95690caa",
    "dev": "051ee1d057204a5d08ef5502beacdadf191245b5eaf0e29ec2c607cf002c016f",
    "test": "ea673b7ef91e16510d7eb88863d3903e47318dc5653ef361266f27ae3b84723c",
}
DOCUMENTS_992 = REDOCRED | {
    "train": "d410fbba044d076488304349fdcc490a7d765b839a2c766b3e8aa5aebeeefa6a"
}  # make_documents_992.py's
DOCUMENTS_400 = {  # make_documents_400.py's
    "train": "8f5cbafcab7c6fc7bf71f90306423fc36cc44eaefb49bcbfb46453083a280209",
    "dev": "d74854f9cccef145f8d7b519541eba103422c5e5562279383a0dc4ca019a7c5e",
    "test": "e0bcd21c03ff53b773927bccc758250dfe4398a9298bc3063f18cca77cbc6b36",
}
SAMPLE = {  # make_sample.py's
    "train": "4a3174e637860c557127e2c1fcace49154bc7b1379fe42ae90f68c1a3f2297f2",
    "dev": "a18189612ad9dcdd95c00d906395a28219872b38a7343169ae694185672670c0",
    "test": "7f3b2a4f10355c2db581ff3b6740f1e865078e812f6ed42120dfcd1a61c4a10e",
}


def has_checksum(path: Path, checksum: str) -> bool:
    """Whether a file has this SHA-256 or git blob name."""
    content = path.read_bytes()
    if len(checksum) == 40:
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest() == checksum
    return hashlib.sha256(content).hexdigest() == checksum
