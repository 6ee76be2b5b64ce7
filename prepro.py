"""From DocRED's files to features: validation, entity markers, word pieces, label rows.

    python prepro.py FILE... prints the statistics of each file.

A document in DocRED's schema is {title, sents, vertexSet, labels}: `sents` holds lists of tokens,
`vertexSet[i]` the mentions of entity i as {name, sent_id, pos: [start, end)}, and `labels` (missing
in a test set without gold) the facts {h, t, r, evidence}.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import packages  # noqa: F401
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from cache import Encoded, load_pieces, pieces_path, save_pieces
from utils import UserError, garbage_collection_paused, read_json, run_command_line

ENTITY_MARKERS = ("asterisk", "typed")
MARKED_TYPES = {"ORG": 1, "LOC": 3, "TIME": 5, "PER": 7, "MISC": 9, "NUM": 11}  # DocuNet's: [unused1] opens an ORG ...
CLOSING = 50  # ... and [unused51] closes it
DEFAULT_REL2ID = Path(__file__).parent / "meta" / "rel2id.json"
RELATION_NAMES = Path(__file__).parent / "meta" / "relation_names.json"  # Wikidata's property -> its English name

Document = dict[str, Any]
Feature = dict[str, Any]


def load_rel2id(path: str | Path = DEFAULT_REL2ID) -> dict[str, int]:
    """Read {relation: class}; class 0 is "no relation" and doubles as the threshold class.

    Raises UserError unless the classes are 0, 1, ... without gap or repetition.
    """
    rel2id = read_json(path)
    if not isinstance(rel2id, dict) or not all(type(index) is int for index in rel2id.values()):
        raise UserError(f"{path}: must map each relation to its class number, like meta/rel2id.json")
    found = sorted(rel2id.values())
    if not found or found[0] != 0:
        raise UserError(f'{path}: class 0 is missing; add the no-relation class, "Na": 0')
    if len(found) < 2:
        raise UserError(f"{path}: names no relation; add those of the dataset, numbered from 1")
    if found != list(range(len(found))):
        repeated = [index for index, count in Counter(found).items() if count > 1]
        gap = next((index for index in range(len(found)) if index not in set(found)), None)
        wrong = f"class {repeated[0]} stands there twice" if repeated else f"class {gap} is missing"
        raise UserError(f"{path}: {wrong}; number the relations 0 to {len(found) - 1} without gaps")
    return rel2id


def load_documents(
    path: str | Path, rel2id: dict[str, int] | None = None, unique_titles: bool = False, typed: bool = False
) -> list[Document]:
    """Read and check one file in DocRED's schema; returns its documents as they stand there.

    Labels must name relations of `rel2id` where it is given. `unique_titles` is for files that are scored, where the
    title tells documents apart; `typed` for typed entity markers, which need each mention's type. A label with h = t is
    dropped, and the number of those is printed. Raises UserError with file, document, field and remedy.
    """
    documents = read_json(path)
    if not isinstance(documents, list):
        raise UserError(f"{path}: must hold a list of documents, like DocRED's files")
    seen: dict[str, int] = {}
    self_labels = 0
    for index, document in enumerate(documents):
        check_document(document, f"{path}: document {index}", rel2id)
        title = document["title"]
        if typed:
            check_types(document, f"{path}: document {index} ({title!r})")
        if unique_titles and title in seen:
            raise UserError(
                f"{path}: documents {seen[title]} and {index}: both have the title {title!r}, "
                "and a file that is scored needs distinct ones; rename or remove one"
            )
        seen[title] = index
        if "labels" in document:
            kept = [label for label in document["labels"] if label["h"] != label["t"]]
            self_labels += len(document["labels"]) - len(kept)
            document["labels"] = kept
    if self_labels:
        print(f"{path}: dropped {self_labels} labels whose head and tail are the same entity")
    return documents


def check_document(document: Any, where: str, rel2id: dict[str, int] | None = None) -> None:
    """Raise UserError, opening with `where`, at the first field that DocRED's schema does not allow."""
    if not isinstance(document, dict):
        raise UserError(f"{where}: is not an object with title, sents and vertexSet")
    for field, kind, described in (("title", str, "string"), ("sents", list, "list"), ("vertexSet", list, "list")):
        if not isinstance(document.get(field), kind):
            problem = "has the wrong type" if field in document else "is missing"
            raise UserError(f"{where}: {field}: {problem}; it must be a {described}")
        if field == "title":
            where = f"{where} ({document['title']!r})"
    for number, sentence in enumerate(document["sents"]):
        if not isinstance(sentence, list) or not all(isinstance(token, str) for token in sentence):
            raise UserError(f"{where}: sents[{number}]: must be a list of strings, the sentence's tokens")
    lengths = [len(sentence) for sentence in document["sents"]]
    for entity, mentions in enumerate(document["vertexSet"]):
        if not isinstance(mentions, list) or not mentions:
            raise UserError(f"{where}: vertexSet[{entity}]: has no mentions; remove the entity or add one")
        for number, mention in enumerate(mentions):
            _check_mention(mention, lengths, f"{where}: vertexSet[{entity}][{number}]")
    if "labels" in document:
        if not isinstance(document["labels"], list):
            raise UserError(f"{where}: labels: must be a list; leave the field out where there are none")
        for number, label in enumerate(document["labels"]):
            _check_label(label, len(document["vertexSet"]), lengths, rel2id, f"{where}: labels[{number}]")


def check_types(document: Document, where: str) -> None:
    """Raise UserError, opening with `where`, at the first mention whose type no marker is for."""
    for entity, mentions in enumerate(document["vertexSet"]):
        for number, mention in enumerate(mentions):
            entity_type = mention.get("type")
            if not isinstance(entity_type, str) or entity_type not in MARKED_TYPES:
                raise UserError(
                    f"{where}: vertexSet[{entity}][{number}].type: {entity_type!r} is none of "
                    f"{', '.join(MARKED_TYPES)}; correct it, or train with --entity_marker asterisk"
                )


def _check_mention(mention: Any, lengths: list[int], where: str) -> None:
    if not isinstance(mention, dict):
        raise UserError(f"{where}: is not an object with name, sent_id and pos")
    if not isinstance(mention.get("name"), str):
        raise UserError(f"{where}.name: must be a string, the mention's text")
    sentence, span = mention.get("sent_id"), mention.get("pos")
    if type(sentence) is not int or not 0 <= sentence < len(lengths):
        raise UserError(
            f"{where}.sent_id: {sentence!r} is no sentence of this document, which has {len(lengths)}; fix it"
        )
    if not (isinstance(span, list) and len(span) == 2 and all(type(place) is int for place in span)):
        raise UserError(f"{where}.pos: {span!r} is not [start, end] in tokens; correct it")
    if not 0 <= span[0] < span[1] <= lengths[sentence]:
        problem = "is empty" if span[0] >= span[1] else f"lies outside sentence {sentence}"
        raise UserError(f"{where}.pos: {span} {problem}, which has {lengths[sentence]} tokens; correct it")


def _check_label(label: Any, entities: int, lengths: list[int], rel2id: dict[str, int] | None, where: str) -> None:
    if not isinstance(label, dict):
        raise UserError(f"{where}: is not an object with h, t and r")
    for field in ("h", "t"):
        index = label.get(field)
        if type(index) is not int or not 0 <= index < entities:
            raise UserError(f"{where}.{field}: {index!r} is no entity of a document that has {entities}; correct it")
    relation = label.get("r")
    if not isinstance(relation, str):
        raise UserError(f"{where}.r: must be a string, the relation's name")
    if rel2id is not None and not rel2id.get(relation):  # class 0 is no label either
        raise UserError(f"{where}.r: {relation!r} is no relation of the rel2id file; add it there or remove the label")
    evidence = label.get("evidence", [])
    if not isinstance(evidence, list) or not all(type(item) is int and 0 <= item < len(lengths) for item in evidence):
        raise UserError(f"{where}.evidence: {evidence!r} must be a list of sentence numbers under {len(lengths)}")


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
    """A function from a mention to the pieces before and behind it: `*` twice (ATLOP), or by the mention's type, from
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
    """Print each file's statistics, one column a file."""
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
