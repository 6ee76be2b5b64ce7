"""Documents in DocRED's schema and the relation inventory: read, and every field checked."""

from __future__ import annotations

import contextlib
import gc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hingeabl.errors import UserError
from hingeabl.files import META, read_json

MARKED_TYPES = {"ORG": 1, "LOC": 3, "TIME": 5, "PER": 7, "MISC": 9, "NUM": 11}  # DocuNet's: [unused1] opens an ORG ...
CLOSING = 50  # ... and [unused51] closes it
DEFAULT_REL2ID = META / "rel2id.json"
RELATION_NAMES = META / "relation_names.json"  # Wikidata's property -> its English name
Document = dict[str, Any]


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
        wrong = f"class {repeated[0]} appears twice" if repeated else f"class {gap} is missing"
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
            f"{where}.sent_id: {sentence!r} is not a sentence of this document, which has {len(lengths)}; fix it"
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
            raise UserError(
                f"{where}.{field}: {index!r} is not an entity of a document that has {entities}; correct it"
            )
    relation = label.get("r")
    if not isinstance(relation, str):
        raise UserError(f"{where}.r: must be a string, the relation's name")
    if rel2id is not None and not rel2id.get(relation):  # class 0 is no label either
        raise UserError(
            f"{where}.r: {relation!r} is not a relation of the rel2id file; add it there or remove the label"
        )
    evidence = label.get("evidence", [])
    if not isinstance(evidence, list) or not all(type(item) is int and 0 <= item < len(lengths) for item in evidence):
        raise UserError(f"{where}.evidence: {evidence!r} must be a list of sentence numbers under {len(lengths)}")


@contextlib.contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """For reading a corpus: it makes a million objects, none of them garbage, which Python would walk again and again.

    What is there at the end stays out of later walks too.
    """
    running = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if running:
            gc.enable()
