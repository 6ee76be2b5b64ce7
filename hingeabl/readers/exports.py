"""The exports of two annotation tools: doccano's JSONL, with or without relations, and Label Studio's JSON.

Each annotated span is an entity of its own unless a relation named coref or coreference joins it with others; other
relations are labels.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

from hingeabl.data.schema import Document, GeneratedTitle
from hingeabl.data.stream import read_objects
from hingeabl.errors import UserError
from hingeabl.readers.annotations import Relation, check_ends, document_of, list_of, objects_of
from hingeabl.readers.offsets import AnnotatedMention, Counts


def read_doccano(file: BinaryIO, name: str, counts: Counts) -> Iterator[Document]:
    """The documents in doccano's JSONL, {id, text, entities, relations} or {id, text, label: [[start, end, type]]},
    with their ids as titles. Raises UserError with file, document, field and remedy."""
    for number, value in enumerate(read_objects(file, name)):
        where = f"{name}: document {number}"
        text = _text(value, where)
        mentions: dict[str, AnnotatedMention] = {}
        for location, entity in objects_of(value, "entities", where):
            span = [entity.get(field) for field in ("start_offset", "end_offset", "label")]
            _add(mentions, entity.get("id"), _mention(span, None, location, where), where)
        for location, span in _triples(value, where):
            _add(mentions, location, _mention(span, None, location, where), where)
        relations = [
            _relation(relation.get("type"), relation.get("from_id"), relation.get("to_id"), f"{where}: {location}")
            for location, relation in objects_of(value, "relations", where)
        ]
        check_ends(relations, mentions, "the id of one of entities")
        yield document_of(_title(value, number), text, mentions, relations, where, counts)


def read_label_studio(file: BinaryIO, name: str, counts: Counts) -> Iterator[Document]:
    """The documents in Label Studio's JSON, [{id, data, annotations: [{result}]}], with their ids as titles. Of several
    annotations of a text, the one marked as ground truth, or else the first, is read. Raises UserError with file,
    document, field and remedy."""
    for number, task in enumerate(read_objects(file, name)):
        where = f"{name}: document {number}"
        if not isinstance(task.get("data"), dict):
            raise UserError(f"{where}: data: is missing; JSON-MIN has no relations, so export the project as JSON")
        mentions: dict[str, AnnotatedMention] = {}
        relations: list[Relation] = []
        for location, item in objects_of(_annotation(task, where, counts), "result", where):
            if item.get("type") == "relation":
                relations += _both_ways(item, f"{where}: {location}", counts)
            elif item.get("type") in ("hypertextlabels", "paragraphlabels"):
                raise UserError(
                    f"{where}: {location}: is of {item['type']}; spans of plain text (Text, Labels) are read"
                )
            elif isinstance(value := item.get("value"), dict) and isinstance(value.get("labels"), list):
                span = [value.get("start"), value.get("end"), next(iter(value["labels"]), None)]
                counts["types"] += max(len(value["labels"]) - 1, 0)
                _add(mentions, item.get("id"), _mention(span, value.get("text"), location, where), where)
            else:
                counts["skipped"] += 1
        check_ends(relations, mentions, "the id of a labelled span")
        yield document_of(_title(task, number), _text_of_task(task["data"], where), mentions, relations, where, counts)


def _annotation(task: dict[str, Any], where: str, counts: Counts) -> dict[str, Any]:
    """The annotation of a task that is read, {} if there is none."""
    field = "annotations" if "annotations" in task else "completions"
    annotations = [
        annotation for _, annotation in objects_of(task, field, where) if not annotation.get("was_cancelled")
    ]
    if not annotations:
        counts["empty"] += 1
        return {}
    counts["second"] += len(annotations) - 1
    return next((annotation for annotation in annotations if annotation.get("ground_truth")), annotations[0])


def _text_of_task(data: dict[str, Any], where: str) -> str:
    """The text of a task: `text`, or the only string."""
    texts = [value for value in data.values() if isinstance(value, str)]
    if isinstance(data.get("text"), str):
        return data["text"]
    if len(texts) != 1:
        raise UserError(f"{where}: data: has no text, but {', '.join(map(repr, data)) or 'nothing'}; rename the text's")
    return texts[0]


def _both_ways(item: dict[str, Any], where: str, counts: Counts) -> list[Relation]:
    """A Label Studio relation as one or two, by its direction: right, left or bi. One without a label is counted."""
    labels = list_of(item, "labels", where)
    counts["skipped"] += not labels
    ends = [(item.get("from_id"), item.get("to_id"))]
    if item.get("direction") in ("left", "bi"):
        back = (item.get("to_id"), item.get("from_id"))
        ends = [back] if item["direction"] == "left" else [*ends, back]
    return [_relation(label, head, tail, where) for label in labels for head, tail in ends]


def _relation(relation_type: Any, head: Any, tail: Any, where: str) -> Relation:
    if not isinstance(relation_type, str) or not relation_type:
        raise UserError(f"{where}: its type is {relation_type!r}, and must be the relation's name; correct it")
    return Relation(where, relation_type, str(head), str(tail))


def _triples(value: dict[str, Any], where: str) -> Iterator[tuple[str, list[Any]]]:
    """The spans [start, end, type] in doccano's other layout, with their locations."""
    for field in ("label", "labels"):
        for number, span in enumerate(list_of(value, field, where)):
            if not isinstance(span, list) or len(span) != 3:
                raise UserError(f"{where}: {field}[{number}]: {span!r} is not [start, end, type]; correct it")
            yield f"{field}[{number}]", span


def _mention(span: list[Any], text: Any, location: str, where: str) -> AnnotatedMention:
    start, end, label = span
    if not (type(start) is int and type(end) is int):
        raise UserError(f"{where}: {location}: {start!r} to {end!r} are no offsets in the text; correct them")
    entity_type, stated_text = (value if isinstance(value, str) else None for value in (label, text))
    return AnnotatedMention(start, end, entity_type, location, stated_text)


def _add(mentions: dict[str, AnnotatedMention], key: Any, mention: AnnotatedMention, where: str) -> None:
    if mentions.setdefault(str(key), mention) is not mention:
        raise UserError(f"{where}: {mention.location}: its id {key!r} is there twice; change one")


def _text(value: dict[str, Any], where: str) -> str:
    if not isinstance(value.get("text"), str):
        raise UserError(f"{where}: text: must be a string; correct it")
    return value["text"]


def _title(value: dict[str, Any], number: int) -> str:
    """A document's title: its id, or its number."""
    return str(value["id"]) if "id" in value else GeneratedTitle(f"document {number}")
