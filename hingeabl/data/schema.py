"""DocRED's schema: checks of one document, each with a one-line message that names the field and the remedy."""

from __future__ import annotations

import difflib
from typing import Any

from hingeabl.errors import UserError
from hingeabl.files import name_in_utf8

MARKED_TYPES = {"ORG": 1, "LOC": 3, "TIME": 5, "PER": 7, "MISC": 9, "NUM": 11}  # DocuNet's: [unused1] opens an ORG ...
CLOSING = 50  # ... and [unused51] closes it
Document = dict[str, Any]


class GeneratedTitle(str):
    """The title that a reader gives to a document without one, made from its position in the file or the file's
    name."""

    def __new__(cls, title: str) -> GeneratedTitle:
        """The title as it can be written to a file."""
        return super().__new__(cls, name_in_utf8(title))


OTHER_NAMES = {  # what other programs and data sets call the fields
    "title": ("doc_id", "docid", "id", "doc_key", "name"),
    "sents": ("sentences", "sent", "tokens", "text", "words"),
    "vertexSet": ("vertices", "vertex", "entities", "entity", "mentions", "ner", "clusters"),
    "pairs": ("candidates", "candidate_pairs", "hts", "entity_pairs", "pair"),
    "labels": ("relations", "relation", "facts", "triples", "rels"),
    "name": ("mention", "text", "surface", "form"),
    "sent_id": ("sentence", "sentid", "sid", "sent", "sentence_id", "sent_idx"),
    "pos": ("position", "span", "offset", "offsets", "range", "token_span"),
    "type": ("ner", "label", "entity_type", "ner_type"),
    "h": ("head", "h_idx", "head_id", "subject", "subj", "source"),
    "t": ("tail", "t_idx", "tail_id", "object", "obj", "target"),
    "r": ("relation", "rel", "relation_id", "predicate", "label", "relation_type", "type"),
    "evidence": ("evi", "evidence_sentences", "supporting", "evidence_id"),
}


FIELD_TYPES: dict[str, Any] = {
    "title": str,
    "sents": list,
    "vertexSet": list,
    "labels": (list, dict),
    "name": str,
    "pairs": list,
}
FIELD_TYPES |= {"sent_id": int, "pos": list, "h": int, "t": int, "r": str, "evidence": list}


def misnamed(value: dict[str, Any], field: str, schema_keys: tuple[str, ...]) -> str | None:
    """The key under which an object has a field, with a value of the field's type, by another name; None if there is
    none. It may differ in case, by a typo of a letter or two, or be in OTHER_NAMES. `schema_keys` are the schema's own
    keys."""
    for key in value:
        if key in schema_keys or not isinstance(key, str) or not isinstance(value[key], FIELD_TYPES.get(field, object)):
            continue
        if field == "pairs" and not (value[key] and all(map(is_pair, value[key]))):
            continue
        normalized = key.lower().replace("-", "_")
        is_similar = len(field) > 2 and difflib.SequenceMatcher(None, normalized, field.lower()).ratio() >= 0.75
        if normalized == field.lower() or normalized in OTHER_NAMES[field] or is_similar:
            return key
    return None


DOCUMENT_FIELDS = ("title", "sents", "vertexSet", "pairs", "labels")
MENTION_FIELDS = ("name", "sent_id", "pos", "type")
LABEL_FIELDS = ("h", "t", "r", "evidence")


def missing(value: dict[str, Any], field: str, schema_keys: tuple[str, ...]) -> str:
    """What is wrong with a required field that is absent: "is missing", and which key is there instead."""
    other = misnamed(value, field, schema_keys)
    return f"is missing; it has {other!r} instead: did you mean {field!r}? Rename it" if other else "is missing"


def refuse_misnamed(value: dict[str, Any], field: str, schema_keys: tuple[str, ...], where: str) -> None:
    """Raise UserError if an optional field is absent but a similar key is there."""
    if field not in value and (other := misnamed(value, field, schema_keys)):
        raise UserError(f"{where}: has {other!r}; did you mean {field!r}? Rename it, or remove it")


def check_document(document: Any, where: str, rel2id: dict[str, int] | None = None, labels: bool = True) -> None:
    """Raise UserError, starting with `where`, at the first field that DocRED's schema does not allow. With labels=False
    the labels are not checked."""
    if not isinstance(document, dict):
        raise UserError(f"{where}: is not an object with title, sents and vertexSet")
    if document and not {"title", "sents", "vertexSet"} & document.keys():
        documents_key = next((key for key in document if _holds_documents(document[key])), None)
        inner = f"; take the list under {documents_key!r} alone" if documents_key is not None else ""
        raise UserError(
            f"{where}: is not a document: it has {', '.join(map(repr, list(document)[:5]))}, but none of title, sents, "
            f"vertexSet{inner}; pass a file in DocRED's schema (docs/data.md)"
        )
    for field, expected, described in (("title", str, "string"), ("sents", list, "list"), ("vertexSet", list, "list")):
        if not isinstance(document.get(field), expected):
            problem = "has the wrong type" if field in document else missing(document, field, DOCUMENT_FIELDS)
            raise UserError(f"{where}: {field}: {problem}; it must be a {described}")
        if field == "title":
            where = f"{where} ({document['title']!r})"
    for number, sentence in enumerate(document["sents"]):
        if not isinstance(sentence, list) or not all(isinstance(token, str) for token in sentence):
            hint = "; split it into tokens first" if isinstance(sentence, str) else ""
            raise UserError(f"{where}: sents[{number}]: must be a list of strings, the sentence's tokens{hint}")
    lengths = [len(sentence) for sentence in document["sents"]]
    for entity, mentions in enumerate(document["vertexSet"]):
        if not isinstance(mentions, list):
            raise UserError(f"{where}: vertexSet[{entity}]: must be a list of mentions; put a single one into [ ]")
        for number, mention in enumerate(mentions):
            _check_mention(mention, lengths, f"{where}: vertexSet[{entity}][{number}]")
    refuse_misnamed(document, "pairs", DOCUMENT_FIELDS, where)
    if "pairs" in document:
        _check_pairs(document["pairs"], len(document["vertexSet"]), where)
    if not labels:
        return
    refuse_misnamed(document, "labels", DOCUMENT_FIELDS, where)
    if "labels" in document:
        _check_labels(document, lengths, rel2id, where)


def _holds_documents(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and isinstance(value[0], dict)
        and not {"sents", "vertexSet"}.isdisjoint(value[0])
    )


def check_types(document: Document, where: str) -> None:
    """Raise UserError, starting with `where`, at the first mention whose type has no marker."""
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
    for field in ("name", "sent_id", "pos"):
        if field not in mention:
            raise UserError(f"{where}.{field}: {missing(mention, field, MENTION_FIELDS)}; every mention needs it")
    if not isinstance(mention["name"], str):
        raise UserError(f"{where}.name: must be a string, the mention's text")
    sentence, span = mention["sent_id"], mention["pos"]
    if type(sentence) is not int or not 0 <= sentence < len(lengths):
        raise UserError(
            f"{where}.sent_id: {sentence!r} is not a sentence of this document, which has {len(lengths)}; fix it"
        )
    if not is_pair(span):
        raise UserError(f"{where}.pos: {span!r} is not [start, end] in tokens; correct it")
    if not 0 <= span[0] < span[1] <= lengths[sentence]:
        problem = "is empty" if span[0] == span[1] else f"lies outside sentence {sentence}"
        problem = "ends before it starts" if span[0] > span[1] else problem
        raise UserError(
            f"{where}.pos: {span} {problem}, which has {lengths[sentence]} tokens; it must be [start, end) in tokens "
            "of the sentence, not in characters or tokens of the document; correct it"
        )


def is_pair(value: Any) -> bool:
    """Whether a value read from JSON is a list of two whole numbers."""
    return isinstance(value, list) and len(value) == 2 and all(type(index) is int for index in value)


def _check_pairs(pairs: Any, entities: int, where: str) -> None:
    if not isinstance(pairs, list):
        raise UserError(f"{where}: pairs: must be a list of [h, t]; leave the field out to score every pair")
    seen: dict[tuple[int, int], int] = {}
    for number, pair in enumerate(pairs):
        at = f"{where}: pairs[{number}]"
        if not is_pair(pair):
            raise UserError(f"{at}: {pair!r} is not [h, t], the numbers of two entities; correct it")
        head, tail = pair
        for index in pair:
            if not 0 <= index < entities:
                raise UserError(f"{at}: {index} is not an entity of a document that has {entities}; correct it")
        if head == tail:
            raise UserError(f"{at}: {pair} is an entity with itself; remove it")
        if (head, tail) in seen:
            raise UserError(f"{at}: {pair} is there already, as pairs[{seen[head, tail]}]; remove one")
        seen[head, tail] = number


def _check_labels(document: Document, lengths: list[int], rel2id: dict[str, int] | None, where: str) -> None:
    labels = document["labels"]
    if isinstance(labels, dict) and labels and all(isinstance(column, list) for column in labels.values()):
        raise UserError(
            f"{where}: labels: is one list per field ({', '.join(map(str, labels))}), as the hub's data sets have it; "
            "write a list of {h, t, r, evidence}, one object per label"
        )
    if not isinstance(labels, list):
        raise UserError(f"{where}: labels: must be a list; leave the field out where there are none")
    for number, label in enumerate(labels):
        _check_label(label, len(document["vertexSet"]), lengths, rel2id, f"{where}: labels[{number}]")
    if "pairs" in document:
        pairs = {tuple(pair) for pair in document["pairs"]}
        for number, label in enumerate(labels):
            if label["h"] != label["t"] and (label["h"], label["t"]) not in pairs:
                raise UserError(
                    f"{where}: labels[{number}]: [{label['h']}, {label['t']}] is not one of this document's pairs; add "
                    "it to pairs or remove the label"
                )


def _check_label(label: Any, entities: int, lengths: list[int], rel2id: dict[str, int] | None, where: str) -> None:
    if not isinstance(label, dict):
        raise UserError(f"{where}: is not an object with h, t and r")
    for field in ("h", "t"):
        index = label.get(field)
        if field not in label:
            raise UserError(f"{where}.{field}: {missing(label, field, LABEL_FIELDS)}; it is an entity's number, from 0")
        if type(index) is not int or not 0 <= index < entities:
            raise UserError(
                f"{where}.{field}: {index!r} is not an entity of a document that has {entities}; correct it"
            )
    relation = label.get("r")
    if not isinstance(relation, str):
        problem = "must be a string" if "r" in label else missing(label, "r", LABEL_FIELDS)
        raise UserError(f"{where}.r: {problem}; it is the relation's name in the rel2id file")
    if rel2id is not None and not rel2id.get(relation):  # class 0 is no label either
        if relation in rel2id:
            problem = "is class 0 of the rel2id file, which means no relation; remove the label"
        else:
            problem = "is not a relation of the rel2id file; add it there or remove the label"
        raise UserError(f"{where}.r: {relation!r} {problem}")
    refuse_misnamed(label, "evidence", LABEL_FIELDS, where)
    evidence = label.get("evidence", [])
    if not isinstance(evidence, list) or not all(type(item) is int and 0 <= item < len(lengths) for item in evidence):
        raise UserError(f"{where}.evidence: {evidence!r} must be a list of sentence numbers under {len(lengths)}")
