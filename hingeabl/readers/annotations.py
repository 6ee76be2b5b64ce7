"""Annotated spans and relations between them -> a document: for brat's files and the exports of annotation tools."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from hingeabl.data.schema import Document
from hingeabl.errors import UserError
from hingeabl.readers.align import align
from hingeabl.readers.offsets import AnnotatedMention, Counts, to_characters

COREFERENCE = ("coref", "coreference")


class Relation(NamedTuple):
    """A relation between two mentions, given by their keys; `where` starts messages."""

    where: str
    type: str
    head: str
    tail: str


def document_of(
    title: str,
    text: str,
    mentions: dict[str, AnnotatedMention],
    relations: list[Relation],
    where: str,
    counts: Counts,
    mark: bool = False,
) -> Document:
    """The document: each mention is an entity of its own unless a relation in COREFERENCE joins it with others; other
    relations are labels, except those of an entity with itself. `mark` and errors are as in to_characters and align."""
    joins = [relation for relation in relations if _joins(relation)]
    entities = joined(list(mentions), joins)
    number_of = {key: number for number, keys in enumerate(entities) for key in keys}
    all_labels = [
        {"h": number_of[relation.head], "t": number_of[relation.tail], "r": relation.type}
        for relation in relations
        if not _joins(relation)
    ]
    labels = [label for label in all_labels if label["h"] != label["t"]]
    counts["selves"] += len(all_labels) - len(labels)
    aligned, _ = to_characters(text, [[mentions[key] for key in keys] for keys in entities], where, counts, mark)
    return align(title, text, aligned, where, counts, labels)


def check_ends(relations: list[Relation], mentions: dict[str, AnnotatedMention], described: str) -> None:
    """Raise UserError for a relation whose mention does not exist; `described` says what mentions are in this
    format."""
    for relation in relations:
        for key in (relation.head, relation.tail):
            if key not in mentions:
                raise UserError(
                    f"{relation.where}: {key} is not a mention ({described}) of the file; add or correct it"
                )


def _joins(relation: Relation) -> bool:
    return relation.type.lower() in COREFERENCE


def joined(keys: list[str], joins: list[Relation]) -> list[list[str]]:
    """The mentions of each entity, in the order of its first one: those that are joined directly or through others."""
    group = {key: [key] for key in keys}
    for join in joins:
        kept, moved = group[join.head], group[join.tail]
        if kept is not moved:
            kept += moved
            group.update(dict.fromkeys(moved, kept))
    order = {key: number for number, key in enumerate(keys)}
    unique = {id(members): sorted(members, key=order.__getitem__) for members in group.values()}
    return list(unique.values())


def objects_of(value: dict[str, Any], field: str, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects in a list that may be missing, with their locations. Raises UserError, starting with `where`."""
    for number, item in enumerate(list_of(value, field, where)):
        if not isinstance(item, dict):
            raise UserError(f"{where}: {field}[{number}]: is not an object; correct it")
        yield f"{field}[{number}]", item


def list_of(value: dict[str, Any], field: str, where: str) -> list[Any]:
    """The list in a field, [] if it is missing. Raises UserError, starting with `where`, for anything else."""
    found = value.get(field)
    if found is not None and not isinstance(found, list):
        raise UserError(f"{where}: {field}: must be a list; correct it")
    return found or []
