"""Word pieces on disk, so that runs with other seeds and losses do not split a file's tokens again.

The name of a cache file is a hash of all that its content depends on; a missing or broken file is made again. The
format is safetensors, so reading it runs no code.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from hingeabl.files import sha256_of_file

VERSION = "3"  # of prepro.py's rules for word pieces and of this file format; files of older versions are ignored

# a document's input_ids, entity_pos, pieces_cut and sentence_ends: see featurize
WordPieces = tuple[list[int], list[list[list[int]]], int, list[int]]

ARRAYS = ("input_ids", "lengths", "pieces_cut", "entity_pos", "sentence_ends")


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
    return folder / f"{path.stem}_{key[:32]}.safetensors"


def save_pieces(path: Path, encoded: list[WordPieces]) -> None:
    """Write documents' word pieces completely or not at all; if that fails, print a note to stderr and go on."""
    positions = [mention for _, entity_pos, *_ in encoded for entity in entity_pos for mention in entity]
    arrays = {
        "input_ids": np.array([piece for pieces, *_ in encoded for piece in pieces], dtype=np.int32),
        "lengths": np.array([len(pieces) for pieces, *_ in encoded], dtype=np.int32),
        "pieces_cut": np.array([cut for _, _, cut, _ in encoded], dtype=np.int32),
        "entity_pos": np.array(positions, dtype=np.int32).reshape(-1, 2),
        "sentence_ends": np.array([end for *_, ends in encoded for end in ends], dtype=np.int32),
    }
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(save(arrays, metadata={"sha256": _checksum(arrays)}))
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        print(f"note: {path}: the cache cannot be written ({error}); going on without it", file=sys.stderr)


def load_pieces(path: Path, documents: list[dict[str, Any]]) -> list[WordPieces] | None:
    """The word pieces of `documents` as save_pieces wrote them; None if the file is missing or broken."""
    try:
        with safe_open(path, "np") as stored:
            arrays = {name: stored.get_tensor(name) for name in ARRAYS}
            intact = (stored.metadata() or {}).get("sha256") == _checksum(arrays)
    except (OSError, SafetensorError, TypeError):  # TypeError: a dtype that numpy does not have
        return None
    mentions = sum(len(entity) for document in documents for entity in document["vertexSet"])
    sentences = sum(len(document["sents"]) for document in documents)
    shapes = [(arrays["lengths"].sum(),), (len(documents),), (len(documents),), (mentions, 2), (sentences,)]
    if (
        not intact
        or [arrays[name].shape for name in ARRAYS] != shapes
        or any(array.dtype != np.int32 for array in arrays.values())
    ):
        return None
    pieces, positions, ends = (iter(arrays[name].tolist()) for name in ("input_ids", "entity_pos", "sentence_ends"))
    return [
        (
            list(itertools.islice(pieces, length)),
            [list(itertools.islice(positions, len(entity))) for entity in document["vertexSet"]],
            cut,
            list(itertools.islice(ends, len(document["sents"]))),
        )
        for length, cut, document in zip(
            arrays["lengths"].tolist(), arrays["pieces_cut"].tolist(), documents, strict=True
        )
    ]


def _checksum(arrays: dict[str, np.ndarray]) -> str:
    return hashlib.sha256(b"".join(arrays[name].tobytes() for name in sorted(arrays))).hexdigest()
