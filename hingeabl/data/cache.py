"""Word pieces on disk, so that runs with other seeds and losses do not split a file's tokens again.

The name of a cache file is a hash of all that its content depends on; a missing or broken file is made again. It holds
a checksum of its name and the rest, a line end, and the word pieces as JSON.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import ujson

from hingeabl.files import sha256_of_file

VERSION = "4"  # of prepro.py's rules for word pieces and of this file format; files of older versions are ignored

# a document's input_ids, entity_pos, pieces_cut and sentence_ends: see featurize
WordPieces = tuple[list[int], list[list[list[int]]], int, list[int]]


def pieces_path(
    folder: Path, path: Path, tokenizer: Any, max_seq_length: int, entity_marker: str = "asterisk"
) -> Path | None:
    """The path of a data file's word pieces: it depends on the file's content, the tokenizer and the settings.

    None for a tokenizer that cannot be serialized, as there is then nothing to hash.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    state = json.loads(backend.to_str())
    state.update(truncation=None, padding=None)  # these change with every call
    settings = [tokenizer.cls_token_id, tokenizer.sep_token_id, max_seq_length, entity_marker]
    parts = [VERSION, sha256_of_file(path), state, *settings]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
    return folder / f"{path.stem}_{key[:32]}.json"


def save_pieces(path: Path, encoded: list[WordPieces]) -> None:
    """Write documents' word pieces completely or not at all; if that fails, print a note to stderr and go on."""
    text = ujson.dumps(encoded)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(f"{_checksum(path, text)}\n{text}", encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        print(f"note: {path}: the cache cannot be written ({error}); going on without it", file=sys.stderr)


def load_pieces(path: Path) -> list[WordPieces] | None:
    """The word pieces of documents as save_pieces wrote them; None if the file is missing or broken."""
    try:
        checksum, text = path.read_text(encoding="utf-8").split("\n", 1)
    except (OSError, ValueError):  # ValueError: no line end, or no text
        return None
    return ujson.loads(text) if checksum == _checksum(path, text) else None


def _checksum(path: Path, text: str) -> str:
    return hashlib.sha256(os.fsencode(path.name) + b" " + text.encode()).hexdigest()
