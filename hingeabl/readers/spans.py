"""Documents as JSON with text and mentions at character offsets, in the file layouts of data/stream.py.

A document is {title, text, sents, entities, labels}: `entities[i]` is {type, id, mentions}, a mention {start, end,
type, text} or [start, end], `sents` holds the tokens of each sentence as [start, end]. Only text and entities are
needed. With `repeats`, equal mentions and labels stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

from hingeabl.data.schema import Document, GeneratedTitle, is_pair, refuse_misnamed
from hingeabl.data.stream import read_objects
from hingeabl.errors import UserError
from hingeabl.readers.align import align
from hingeabl.readers.offsets import AnnotatedMention, Counts, Scale, Span, characters_of, to_characters

REQUIRED = (("text", str, "string"), ("entities", list, "list of objects with mentions"))
OPTIONAL = (
    ("title", str, "string"),
    ("sents", list, "list of sentences"),
    ("pairs", list, "list"),
    ("labels", list, "list"),
    ("repeats", bool, "true or false"),
)
FIELDS = tuple(field for field, _, _ in (*REQUIRED, *OPTIONAL))


ENTITY_FIELDS = ("id", "name", "type", "mentions")
MENTION_FIELDS = ("start", "end", "type", "text", "name")
TEXT_FIELDS = ("text", "name")  # the fields of a mention that may state its text


def read_spans(file: BinaryIO, name: str, counts: Counts, labels: bool = True) -> Iterator[Document]:
    """Documents in DocRED's schema, as they are read. Labels are dropped unless `labels`; their h, t and r are not
    checked here. Raises UserError with file, document, field and remedy."""
    for number, value in enumerate(read_objects(file, name)):
        if not labels:
            value.pop("labels", None)
        yield from_spans(value, f"{name}: document {number}", GeneratedTitle(f"document {number}"), counts)


def from_spans(value: dict[str, Any], where: str, title: str, counts: Counts) -> Document:
    """One document in DocRED's schema; `title` is for one without. Raises UserError, starting with `where`."""
    for field, field_type, described in (*REQUIRED, *OPTIONAL):
        if field not in value and (field, field_type, described) in OPTIONAL:
            continue
        if not isinstance(value.get(field), field_type):
            problem = "has the wrong type" if field in value else f"is missing{_instead(value)}"
            raise UserError(f"{where}: {field}: {problem}; it must be a {described}")
    for field in ("title", "pairs", "labels"):
        refuse_misnamed(value, field, FIELDS, where)
    if "title" in value:
        title = value["title"]
        where = f"{where} ({title!r})"
    entities = [_mentions(entity, f"entities[{number}]", where) for number, entity in enumerate(value["entities"])]
    placed, scale = to_characters(value["text"], entities, where, counts)
    sents = _sents(value["sents"], scale, where) if "sents" in value else None
    labels = _labels(value["labels"], sents, where) if "labels" in value else None
    repeats = value.get("repeats", False)
    document = align(title, value["text"], placed, where, counts, labels, sents, repeats=repeats)
    return document | {"pairs": value["pairs"]} if "pairs" in value else document


def _instead(value: dict[str, Any]) -> str:
    """The key that other tools use instead of entities, for a message."""
    if value.keys() <= {"text", "title"}:
        return "; a text alone is read with --format text"
    key = next((field for field in ("spans", "annotations", "mentions") if isinstance(value.get(field), list)), None)
    example = 'write each of them as an entity, {"mentions": [[start, end]], "type": ...}'
    return f"; it has {key!r} instead: {example}" if key else ""


def _mentions(entity: Any, location: str, where: str) -> list[AnnotatedMention]:
    if not isinstance(entity, dict) or not isinstance(entity.get("mentions"), list):
        example = '{"mentions": [[0, 4]], "type": "PER"}'
        raise UserError(f"{where}: {location}: is not an object with a list of mentions, such as {example}; correct it")
    refuse_misnamed(entity, "type", ENTITY_FIELDS, f"{where}: {location}")
    return [
        _mention(mention, entity.get("type"), f"{location}.mentions[{number}]", where)
        for number, mention in enumerate(entity["mentions"])
    ]


def _mention(mention: Any, entity_type: Any, location: str, where: str) -> AnnotatedMention:
    span: Any = mention
    stated_text = None
    if isinstance(mention, dict):
        stated_text = next((mention[field] for field in TEXT_FIELDS if mention.get(field) is not None), None)
        refuse_misnamed(mention, "type", MENTION_FIELDS, f"{where}: {location}")
        span = [mention.get("start"), mention.get("end")]
        entity_type = entity_type if mention.get("type") is None else mention["type"]
    if not is_pair(span):
        raise UserError(
            f"{where}: {location}: {mention!r} is not {{start, end}} or [start, end] in characters of the text; "
            "correct it"
        )
    if entity_type is not None and not isinstance(entity_type, str):
        raise UserError(f"{where}: {location}: type {entity_type!r} is not a string; correct it or leave it out")
    if stated_text is not None and not isinstance(stated_text, str):
        raise UserError(f"{where}: {location}: text {stated_text!r} is not a string; correct it or leave it out")
    return AnnotatedMention(span[0], span[1], entity_type, location, stated_text)


def _sents(sents: list[Any], scale: Scale, where: str) -> list[list[Span]]:
    """The tokens of each sentence, checked, in characters."""
    last = scale[0]
    for number, sentence in enumerate(sents):
        if not isinstance(sentence, list):
            raise UserError(f"{where}: sents[{number}]: must be a list of tokens, each [start, end]; correct it")
        for token, span in enumerate(sentence):
            if not is_pair(span) or not last <= span[0] <= span[1] <= scale[-1]:
                raise UserError(
                    f"{where}: sents[{number}][{token}]: {span!r} is not [start, end] in characters of the text, after "
                    "the token before; correct it, or leave sents out"
                )
            last = span[1]
    return [[characters_of(scale, *span) for span in sentence] for sentence in sents]


def _labels(labels: list[Any], sents: list[list[Span]] | None, where: str) -> list[Any]:
    """Labels whose evidence, if any, is checked."""
    for number, label in enumerate(labels):
        label_where = f"{where}: labels[{number}]"
        if not isinstance(label, dict):
            raise UserError(f"{label_where}: is not an object with h, t and r; correct it")
        evidence = label.get("evidence", [])
        if evidence and sents is None:
            raise UserError(
                f"{label_where}.evidence: numbers sentences, but there are no sents; add sents or leave it out"
            )
        if not isinstance(evidence, list) or not all(
            type(item) is int and 0 <= item < len(sents or ()) for item in evidence
        ):
            raise UserError(f"{label_where}.evidence: {evidence!r} must be a list of numbers of sents; correct it")
    return labels
