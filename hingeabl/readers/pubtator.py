"""PubTator's files: title and abstract of articles, mentions with identifiers, relations between identifiers.

Documents are separated by empty lines. Their text is the title, a line end, and the abstract.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from hingeabl.data.schema import Document
from hingeabl.errors import UserError
from hingeabl.readers.align import align
from hingeabl.readers.decoding import read_lines
from hingeabl.readers.offsets import AnnotatedMention, Counts, to_characters

TEXT = re.compile(r"([^|\t]+)\|([ta])\|(.*)")
OFFSET = re.compile(r"\d{1,9}")
NO_IDENTIFIER = ("", "-", "-1", "None")  # -1 as in CDR


class Line(NamedTuple):
    """A non-empty line, and its number from 1."""

    number: int
    text: str


def read_pubtator(file: BinaryIO, name: str, counts: Counts) -> Iterator[Document]:
    """Documents in DocRED's schema, as they are read: the article's number is the title, the mentions of an identifier
    are an entity, a relation is a label. A mention with several identifiers belongs to each of these entities; one
    without any is an entity of its own. Raises UserError with file, document, line and remedy."""
    lines = (Line(number, text) for number, text in enumerate(read_lines(file, name), 1))
    any_document = False
    for filled, block in itertools.groupby(lines, lambda line: bool(line.text.strip())):
        if filled:
            any_document = True
            yield _document(list(block), name, counts)
    if not any_document:
        raise UserError(f"{name}: is empty; it must hold documents in PubTator's format")


def _document(block: list[Line], name: str, counts: Counts) -> Document:
    """A document from its lines."""
    if "\r" in block[0].text:
        raise UserError(f"{name}: line {block[0].number}: its line ends are \\r alone; save the file with \\n")
    opening = TEXT.fullmatch(block[0].text)
    if not opening or opening[2] != "t":
        raise UserError(
            f"{name}: line {block[0].number}: {block[0].text[:60]!r} does not open a document; its first line must be "
            "number|t|title, and an empty line must stand before it"
        )
    article, title = opening[1], opening[3]
    second = TEXT.fullmatch(block[1].text) if len(block) > 1 else None
    abstract = second[3] if second and (second[1], second[2]) == (article, "a") else None
    text = f"{title}\n{abstract or ''}"
    where = f"{name}: document {article!r}"
    entities: dict[str, list[AnnotatedMention]] = {}
    relations: list[tuple[str, str, str]] = []
    for number, line in block[1 if abstract is None else 2 :]:
        location, fields = f"line {number}", line.split("\t")
        if fields[0] != article:
            raise UserError(
                f"{where}: {location}: {line[:60]!r} is of another document; put an empty line between them"
            )
        if len(fields) >= 5 and OFFSET.fullmatch(fields[1]) and OFFSET.fullmatch(fields[2]):
            mention = AnnotatedMention(int(fields[1]), int(fields[2]), fields[4] or None, location, fields[3])
            for identifier in _identifiers(fields[5:]) or [f"\t{location}"]:
                entities.setdefault(identifier, []).append(mention)
        elif len(fields) >= 4 and fields[1] and not fields[1].isdecimal():
            relations.append((fields[1], fields[2], fields[3]))
        else:
            raise UserError(
                f"{where}: {location}: {line[:60]!r} is neither a mention (number, start, end, text, type, identifier) "
                "nor a relation (number, type, identifier, identifier), with tabs between; correct or remove it"
            )
    number_of = {identifier: number for number, identifier in enumerate(entities)}
    labels = [
        {"h": number_of[head], "t": number_of[tail], "r": relation}
        for relation, head, tail in relations
        if head in number_of and tail in number_of
    ]
    counts["lost"] += len(relations) - len(labels)
    aligned, _ = to_characters(text, list(entities.values()), where, counts)
    return align(article, text, aligned, where, counts, labels, breaks=[len(title)])


def _identifiers(fields: list[str]) -> list[str]:
    """The identifiers of a mention, each once, from the fields after its type.

    `,` and `;` separate them, and so does `|` if there is a last field with the part of the text for each, as in CDR. A
    variant's description by tmVar, which contains `;`, is one identifier.
    """
    if not fields or fields[0].startswith("tmVar:"):
        return fields[:1]
    identifiers = re.split(r"[,;|]" if len(fields) > 1 else r"[,;]", fields[0])
    return [name for name in dict.fromkeys(map(str.strip, identifiers)) if name not in NO_IDENTIFIER]
