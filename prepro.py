"""From DocRED's files to features: validation, entity markers, word pieces, label rows.

    python prepro.py FILE... prints the statistics of each file.

A document in DocRED's schema is {title, sents, vertexSet, labels}: `sents` holds lists of tokens,
`vertexSet[i]` the mentions of entity i as {name, sent_id, pos: [start, end)}, and `labels` (missing
in a test set without gold) the facts {h, t, r, evidence}.
"""

from __future__ import annotations

import hingeabl  # noqa: F401  first: it tells in one line which package is missing

# isort: split
import argparse
import functools
import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from hingeabl.data.cache import Encoded, load_pieces, pieces_path, save_pieces
from hingeabl.data.documents import (
    CLOSING,
    DEFAULT_REL2ID,
    MARKED_TYPES,
    Document,
    garbage_collection_paused,
    load_documents,
    load_rel2id,
)
from hingeabl.errors import UserError, run_command_line

ENTITY_MARKERS = ("asterisk", "typed")

Feature = dict[str, Any]


def read_docred(
    path: str | Path,
    tokenizer: Any,
    rel2id: dict[str, int],
    max_seq_length: int = 1024,
    cache_dir: str | Path | None = None,
    entity_marker: str = "asterisk",
) -> list[Feature]:
    """Read a file in DocRED's schema into features; see load_documents and featurize. With `cache_dir`, its word pieces
    are kept there."""
    with garbage_collection_paused():
        documents = load_documents(path, rel2id, typed=entity_marker == "typed")
        settings = (max_seq_length, entity_marker)
        cache_file = pieces_path(Path(cache_dir), Path(path), tokenizer, *settings) if cache_dir else None
        return featurize(documents, tokenizer, rel2id, *settings, cache_file)


def featurize(
    documents: list[Document],
    tokenizer: Any,
    rel2id: dict[str, int],
    max_seq_length: int = 1024,
    entity_marker: str = "asterisk",
    cache_file: Path | None = None,
) -> list[Feature]:
    """Checked documents -> one dict each (ATLOP's features):

    title       str
    input_ids   list of int: [CLS], word pieces cut at max_seq_length - 2, [SEP]
    entity_pos  per entity, per mention: [start, end] in word pieces, counted without [CLS]; `start` is
                the mention's opening marker, `end` the piece after its closing one; mentions past the cut stay
    hts         [[h, t], ...], every ordered pair h != t, row by row
    labels      uint8 array [pairs, classes], 1 for each relation of the pair, in column 0 for no relation;
                absent without labels

    The first two come from `cache_file` if they are there (see cache.py), else they are written to it.
    """
    encoded = load_pieces(cache_file, documents) if cache_file else None
    if encoded is None:
        encoded = encode_documents(documents, tokenizer, max_seq_length, entity_marker)
        if cache_file:
            save_pieces(cache_file, encoded)
    features = []
    for document, (input_ids, entity_pos) in zip(documents, encoded, strict=True):
        entities = len(document["vertexSet"])
        feature = {
            "title": document["title"],
            "input_ids": input_ids,
            "entity_pos": entity_pos,
            "hts": all_pairs(entities),
        }
        if "labels" in document:
            feature["labels"] = label_rows(document["labels"], entities, rel2id)
        features.append(feature)
    return features


def encode_documents(
    documents: list[Document], tokenizer: Any, max_seq_length: int, entity_marker: str
) -> list[Encoded]:
    """input_ids and entity_pos of each document.

    Each token is split into word pieces on its own (with a byte-level tokenizer without a leading space). Raises
    UserError for a tokenizer without the two special tokens or without the markers.
    """
    if None in (tokenizer.cls_token_id, tokenizer.sep_token_id):
        raise UserError(
            f"tokenizer {tokenizer.name_or_path}: has no [CLS] or [SEP]; use a BERT- or RoBERTa-type encoder, its "
            "vocabulary files beside its config.json"
        )
    markers = marker_pieces(tokenizer, entity_marker)
    tokens = {token for document in documents for sentence in document["sents"] for token in sentence}
    pieces_of = word_pieces(tokens, tokenizer)
    encoded = []
    for document in tqdm(documents, desc="word pieces", unit="doc", leave=False, disable=len(documents) < 2):
        pieces, entity_pos = mark_entities(document, pieces_of, markers)
        encoded.append(([tokenizer.cls_token_id, *pieces[: max_seq_length - 2], tokenizer.sep_token_id], entity_pos))
    return encoded


def marker_pieces(tokenizer: Any, entity_marker: str) -> Callable[[dict[str, Any]], tuple[int, int]]:
    """A function from a mention to the pieces before and after it: `*` twice (ATLOP), or by the mention's type, from
    the unused part of BERT's vocabulary (DocuNet). Raises UserError for a vocabulary without them."""

    def piece(text: str) -> int:
        number = tokenizer.convert_tokens_to_ids(text)
        if number is None or number == tokenizer.unk_token_id:
            raise UserError(
                f"tokenizer {tokenizer.name_or_path}: has no {text!r}, which --entity_marker {entity_marker} takes; "
                "use another marker or a BERT- or RoBERTa-type encoder, its vocabulary files beside its config.json"
            )
        return number

    if entity_marker == "asterisk":
        both = piece("*"), piece("*")
        return lambda mention: both
    pieces = {
        name: (piece(f"[unused{number}]"), piece(f"[unused{number + CLOSING}]"))
        for name, number in MARKED_TYPES.items()
    }
    return lambda mention: pieces[mention["type"]]


def word_pieces(tokens: set[str], tokenizer: Any) -> dict[str, list[int]]:
    """Word-piece ids of each distinct token, split on its own, in one batched call."""
    ordered = sorted(tokens)
    if not ordered:
        return {}
    encoded = tokenizer(
        ordered, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False, verbose=False
    )
    return dict(zip(ordered, encoded["input_ids"], strict=True))


def mark_entities(
    document: Document, pieces_of: dict[str, list[int]], markers: Callable[[dict[str, Any]], tuple[int, int]]
) -> tuple[list[int], list[list[list[int]]]]:
    """Word pieces of a document with markers around its mentions, and each mention's [start, end].

    A token that starts (ends) several mentions gets one opening (closing) marker, that of the first, entity by entity.
    """
    starts: dict[tuple[int, int], int] = {}
    ends: dict[tuple[int, int], int] = {}
    for mention in itertools.chain.from_iterable(document["vertexSet"]):
        opening, closing = markers(mention)
        starts.setdefault((mention["sent_id"], mention["pos"][0]), opening)
        ends.setdefault((mention["sent_id"], mention["pos"][1] - 1), closing)
    pieces: list[int] = []
    place_of: list[list[int]] = []  # place_of[sentence][token]: where the token, or its marker, begins
    for number, sentence in enumerate(document["sents"]):
        places = []
        for position, token in enumerate(sentence):
            places.append(len(pieces))
            if (number, position) in starts:
                pieces.append(starts[number, position])
            pieces.extend(pieces_of[token])
            if (number, position) in ends:
                pieces.append(ends[number, position])
        places.append(len(pieces))
        place_of.append(places)
    entity_pos = [
        [[place_of[mention["sent_id"]][place] for place in mention["pos"]] for mention in entity]
        for entity in document["vertexSet"]
    ]
    return pieces, entity_pos


@functools.cache
def all_pairs(entities: int) -> list[list[int]]:
    """Every ordered pair [h, t] with h != t, row by row. Documents with as many entities share the list."""
    return [list(pair) for pair in itertools.permutations(range(entities), 2)]


def label_rows(labels: list[dict[str, Any]], entities: int, rel2id: dict[str, int]) -> np.ndarray:
    """uint8 [pairs, classes] in the order of hts: multi-hot relations, or class 0 where there is none."""
    rows = np.zeros((entities, entities, len(rel2id)), dtype=np.uint8)
    for label in labels:
        rows[label["h"], label["t"], rel2id[label["r"]]] = 1
    rows[:, :, 0] = ~rows.any(axis=2)
    return rows[~np.eye(entities, dtype=bool)]


def statistics(documents: list[Document]) -> dict[str, float]:
    """The figures of the paper's Tables 5 and 6 for one list of documents; pairs are ordered, h != t."""
    count = len(documents)
    relations_of = Counter(
        (index, label["h"], label["t"], label["r"])
        for index, document in enumerate(documents)
        for label in document.get("labels", [])
    )
    per_pair = Counter(key[:3] for key in relations_of)
    entities = [len(document["vertexSet"]) for document in documents]
    pairs = sum(number * (number - 1) for number in entities)

    def average(total: int) -> float:
        return total / count if count else 0.0

    return {
        "documents": count,
        "ordered pairs": pairs,
        "pairs with a relation": len(per_pair),
        "NA %": 100 * (1 - len(per_pair) / pairs) if pairs else 0.0,
        "words / doc": average(sum(len(sentence) for document in documents for sentence in document["sents"])),
        "entities / doc": average(sum(entities)),
        "triples / doc": average(sum(len(document.get("labels", [])) for document in documents)),
        "sentences / doc": average(sum(len(document["sents"]) for document in documents)),
        "relations seen": len({key[3] for key in relations_of}),
        "most relations on one pair": max(per_pair.values(), default=0),
    }


def main() -> None:
    """Print each file's statistics, one column per file."""
    parser = argparse.ArgumentParser(description="Print the statistics of files in DocRED's schema.")
    parser.add_argument("files", nargs="+", metavar="FILE", help="a JSON file in DocRED's schema")
    parser.add_argument("--rel2id", default=DEFAULT_REL2ID, help="relation inventory (default: meta/rel2id.json)")
    args = parser.parse_args()
    rel2id = load_rel2id(args.rel2id)
    columns = [statistics(load_documents(path, rel2id)) for path in args.files]
    names = [Path(path).name for path in args.files]
    widths = [max(len(name), 12) for name in names]
    print("".ljust(26), *(name.rjust(width) for name, width in zip(names, widths, strict=True)), sep="  ")
    for figure in columns[0]:
        cells = [f"{column[figure]:,.3f}" if column[figure] % 1 else f"{column[figure]:,.0f}" for column in columns]
        print(figure.ljust(26), *(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)), sep="  ")


if __name__ == "__main__":
    run_command_line(main)
