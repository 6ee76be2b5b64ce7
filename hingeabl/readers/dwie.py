"""Articles of DWIE's own release (Zaporojets et al. 2021), the files in its folder annos_with_content."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from hingeabl.data.schema import Document
from hingeabl.data.stream import read_objects
from hingeabl.errors import UserError
from hingeabl.readers.align import align
from hingeabl.readers.annotations import objects_of
from hingeabl.readers.offsets import AnnotatedMention, Counts, to_characters

# of a concept's many tags, the one that is its type, written as in LogiRE's conversion
TYPES = [f"type::{name}" for name in "location organization person misc event ethnicity time money role other".split()]


def read_dwie(file: BinaryIO, name: str, counts: Counts) -> Iterator[Document]:
    """The articles {id, content, mentions, concepts, relations} in DocRED's schema, with their ids as titles.

    A concept is an entity. One without mentions is left out, and so are its relations, which are counted. A line end
    ends a sentence. Raises UserError with file, document, field and remedy.
    """
    for number, article in enumerate(read_objects(file, name)):
        where = f"{name}: document {number}"
        for field, remedy in (("id", "correct it"), ("content", "DWIE's dwie_download.py adds it")):
            if not isinstance(article.get(field), str):
                raise UserError(f"{where}: {field}: must be a string; {remedy}")
        mentions = _mentions(article, where)
        number_of = {concept: entity for entity, concept in enumerate(mentions)}
        labels = _labels(article, number_of, where, counts)
        placed, _ = to_characters(article["content"], list(mentions.values()), where, counts)
        line_ends = [match.start() for match in re.finditer("\n", article["content"])]  # behind headline and teaser
        yield align(article["id"], article["content"], placed, where, counts, labels, breaks=line_ends)


def _mentions(article: dict[str, Any], where: str) -> dict[int, list[AnnotatedMention]]:
    """The mentions of each concept that has some, by the concept's number."""
    mentions: dict[int, list[AnnotatedMention]] = {}
    types: dict[int, str | None] = {}
    for location, concept in objects_of(article, "concepts", where):
        number = _number(concept, "concept", location, where)
        tags = concept.get("tags")
        types[number] = next((kind for kind in TYPES if isinstance(tags, list) and kind in tags), None)
        mentions[number] = []
    for location, mention in objects_of(article, "mentions", where):
        start, end, number = (_number(mention, field, location, where) for field in ("begin", "end", "concept"))
        if number not in types:
            raise UserError(f"{where}: {location}.concept: {number} is none of the concepts; correct it")
        text = mention["text"] if isinstance(mention.get("text"), str) else None
        mentions[number].append(AnnotatedMention(start, end, types[number], location, text))
    return {number: found for number, found in mentions.items() if found}


def _labels(article: dict[str, Any], number_of: dict[int, int], where: str, counts: Counts) -> list[dict[str, Any]]:
    """The relations as labels; those of a concept with itself or of one without mentions are counted."""
    labels: list[dict[str, Any]] = []
    for location, relation in objects_of(article, "relations", where):
        head, tail = (_number(relation, field, location, where) for field in ("s", "o"))
        if not isinstance(relation.get("p"), str):
            raise UserError(f"{where}: {location}.p: {relation.get('p')!r} is no relation's name; correct it")
        if not {head, tail} <= number_of.keys():
            counts["lost"] += 1
        elif head == tail:
            counts["selves"] += 1
        else:
            labels.append({"h": number_of[head], "t": number_of[tail], "r": relation["p"]})
    return labels


def _number(item: dict[str, Any], field: str, location: str, where: str) -> int:
    value = item.get(field)
    if type(value) is not int:
        raise UserError(f"{where}: {location}.{field}: {value!r} is no whole number; correct it")
    return value
