"""PubTator's files: title and abstract of articles, mentions with identifiers, relations between identifiers.

Documents are parted by empty lines. Their text is the title, a line end, and the abstract.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from hingeabl.data.schema import Document
from hingeabl.errors import UserError
from hingeabl.readers.align import Mention, align, warn
from hingeabl.readers.lines import read_lines

TEXT = re.compile(r"([^|\t]+)\|([ta])\|(.*)")
NO_IDENTIFIER = ("", "-", "-1", "None", "none")  # -1 as in CDR


class Line(NamedTuple):
    """A line that is not empty, and its number from 1."""

    number: int
    text: str


def read_pubtator(file: BinaryIO, name: str) -> Iterator[Document]:
    """Documents in DocRED's schema, as they are read: the title is the article's number, the mentions of an identifier
    are an entity, a relation is a label. At the end, one line on stderr tells what was counted. Raises UserError with
    file, document, line and remedy."""
    counts: Counter[str] = Counter()
    lines = (Line(number, text) for number, text in enumerate(read_lines(file, name), 1))
    found = False
    for filled, block in itertools.groupby(lines, lambda line: bool(line.text.strip())):
        if filled:
            found = True
            yield _document(list(block), name, counts)
    if not found:
        raise UserError(f"{name}: is empty; it must hold documents in PubTator's format")
    warn(name, counts)


def _document(block: list[Line], name: str, counts: Counter[str]) -> Document:
    """One document from its lines."""
    opening = TEXT.fullmatch(block[0].text)
    if not opening:
        raise UserError(
            f"{name}: line {block[0].number}: {block[0].text[:60]!r} does not open a document; its first line must be "
            "number|t|title, and an empty line must stand before it"
        )
    article = opening[1]
    where = f"{name}: document {article!r}"
    parts: dict[str, str] = {}
    mentions: list[tuple[Mention, list[str]]] = []
    relations: list[tuple[str, str, str]] = []
    for number, text in block:
        place = f"line {number}"
        if match := TEXT.fullmatch(text):
            if match[1] != article or match[2] in parts:
                raise UserError(f"{where}: {place}: another title or abstract; put an empty line between documents")
            parts[match[2]] = match[3]
            continue
        fields = text.split("\t")
        if fields[0] != article:
            raise UserError(f"{where}: {place}: is of {fields[0]!r}; put an empty line between documents")
        if len(fields) >= 5 and fields[1].isdecimal() and fields[2].isdecimal():
            mentions.append(_mention(fields, place, parts, counts))
        elif len(fields) >= 4 and not fields[1].isdecimal():
            relations.append((fields[1], fields[2], fields[3]))
        else:
            raise UserError(
                f"{where}: {place}: is neither a mention (number, start, end, text, type, identifier) nor a relation "
                "(number, type, identifier, identifier), with tabs between; correct or remove it"
            )
    entities: list[list[Mention]] = []
    number_of: dict[str, int] = {}
    for mention, identifiers in mentions:
        for identifier in identifiers or [f"\n{len(entities)}"]:  # without one, an entity of its own
            index = number_of.setdefault(identifier, len(entities))
            entities += [[]] * (index == len(entities))
            entities[index] = [*entities[index], mention]
    labels = []
    for relation, head, tail in relations:
        if head in number_of and tail in number_of:
            labels.append({"h": number_of[head], "t": number_of[tail], "r": relation})
        else:
            counts["lost"] += 1
    title = parts.get("t", "")
    text = f"{title}\n{parts.get('a', '')}"
    return align(article, text, entities, where, counts, labels, breaks=[len(title)])


def _mention(fields: list[str], place: str, parts: dict[str, str], counts: Counter[str]) -> tuple[Mention, list[str]]:
    """A mention and its identifiers."""
    start, end = int(fields[1]), int(fields[2])
    text = f"{parts.get('t', '')}\n{parts.get('a', '')}"
    counts["differ"] += " ".join(text[start:end].split()) != " ".join(fields[3].split())
    found = re.split(r"[,;]", fields[5]) if len(fields) > 5 else []
    identifiers = [identifier.strip() for identifier in found if identifier.strip() not in NO_IDENTIFIER]
    return Mention(start, end, fields[4] or None, place), list(dict.fromkeys(identifiers))
