"""Files of CDR and GDA as ATLOP's program takes them: one document a line, in DocRED's schema.

A line holds, separated by tabs, the document's number, its text (sentences separated by `|`, tokens by one space), and
17 fields for each pair of entities:

    0       relation: 1:CID:2 or 1:GDA:2, 1:NR:2 for none; not_include for a pair that is not scored
    1       L2R if fields 5 to 9 are the head's and 11 to 15 the tail's, else the other way round
    5, 11   identifier
    7, 13   type
    8, 14   first token of each mention, separated by `:` and counted over the whole document
    9, 15   token after its last one, likewise

The other fields are not read.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from hingeabl.data.schema import Document
from hingeabl.errors import UserError, print_warning

FIELDS = 17
NOT_SCORED = "not_include"
RELATION = re.compile(r"\d+:(\w+):\d+")
NONE = "NR"  # the relation's name of a pair without one
SCORED_LINE = re.compile(r"[^\t\n]+\t[^\t\n]*\t(not_include|\d+:\w+:\d+)\t")
FIRST_LINES = 20  # lines to recognise the format by: a document may have no pairs
NUMBERS = re.compile(r"\d{1,9}(:\d{1,9})*")
SIDES = ((5, 7, 8, 9), (11, 13, 14, 15))  # the fields of a pair's first and second entity

Span = tuple[int, int]  # first token and the one after the last, over the whole document


class Side(NamedTuple):
    """One entity as a pair states it."""

    identifier: str
    type: str
    spans: tuple[Span, ...]


def is_cdr(text: str) -> bool:
    """Whether a text is in CDR's and GDA's format: one of its first lines states a pair."""
    if text.lstrip()[:1] in ("{", "["):
        return False
    return any(SCORED_LINE.match(line) for line in text.lstrip().split("\n", FIRST_LINES)[:FIRST_LINES])


def read_cdr(lines: Iterable[str], name: str) -> Iterator[Document]:
    """Each line's document: its title is its number, `pairs` the pairs to score in the file's order, and `labels` those
    with a relation.

    Entities are numbered as they appear in `pairs`, with the mentions that their first pair states. The mentions of
    pairs that are not scored follow as further entities, one for each identifier, since they get entity markers. As in
    ATLOP's program, a line with the number of an earlier line is left out; at the end one line on stderr counts these.
    Raises UserError, starting with `name`, with line, document, pair, field and remedy.
    """
    seen: set[str] = set()
    repeated = 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        document = _document(line.rstrip(), f"{name}: line {number}")
        if document["title"] in seen:
            repeated += 1
            continue
        seen.add(document["title"])
        yield document
    if repeated:
        print_warning(f"{name}: left out {repeated:,} lines whose document's number is there before")
    if not seen:
        raise UserError(f"{name}: is empty; it must hold CDR's or GDA's documents, one a line")


def _document(line: str, where: str) -> Document:
    fields = line.split("\t")
    title = fields[0]
    where = f"{where} ({title!r})"
    if len(fields) < 2:
        raise UserError(f"{where}: has no tab; it must hold a number, a text and {FIELDS} fields for each pair")
    sents = [sentence.split(" ") for sentence in fields[1].split("|")]
    groups = [fields[index : index + FIELDS] for index in range(2, len(fields), FIELDS)]
    if groups and len(groups[-1]) != FIELDS:
        raise UserError(f"{where}: {_short_group(groups)}; correct the line, or take the original file")
    firsts = list(itertools.accumulate(map(len, sents), initial=0))  # each sentence's first token, and the end
    numbers: dict[str, int] = {}  # of the entities in pairs
    vertices: list[list[dict[str, Any]]] = []
    pairs: dict[tuple[int, int], str] = {}
    all_mentions: dict[tuple[str, str, Span], None] = {}  # the mentions of all pairs, in order
    taken: set[tuple[str, Span]] = set()  # those of entities in `pairs`
    for index, group in enumerate(groups):
        at = f"{where}: pair {index}"
        sides = [_side(group, columns, firsts, at) for columns in SIDES]
        all_mentions |= dict.fromkeys((side.identifier, side.type, span) for side in sides for span in side.spans)
        if group[0] == NOT_SCORED:
            continue
        relation = RELATION.fullmatch(group[0])
        if not relation:
            raise UserError(f"{at}: field 0: {group[0]!r} is no relation like 1:CID:2, nor {NOT_SCORED}; correct it")
        if group[1] not in ("L2R", "R2L"):
            raise UserError(f"{at}: field 1: {group[1]!r} is not L2R or R2L; correct it")
        head, tail = sides if group[1] == "L2R" else reversed(sides)
        if head.identifier == tail.identifier:
            raise UserError(f"{at}: both entities are {head.identifier!r}, but a pair needs two; correct or remove it")
        for side in (head, tail):
            if numbers.setdefault(side.identifier, len(numbers)) == len(vertices):
                vertices.append([_mention(sents, firsts, side.type, span) for span in side.spans])
                taken |= {(side.type, span) for span in side.spans}
        pair = numbers[head.identifier], numbers[tail.identifier]
        if pairs.setdefault(pair, relation[1]) != relation[1]:
            raise UserError(
                f"{at}: {head.identifier!r} and {tail.identifier!r} are {pairs[pair]} already, and {relation[1]} here; "
                "remove one"
            )
    others: dict[str, list[dict[str, Any]]] = {}  # mentions that none of these entities has, one entity an identifier
    for identifier, entity_type, span in all_mentions:
        if (entity_type, span) not in taken:
            others.setdefault(identifier, []).append(_mention(sents, firsts, entity_type, span))
    return {
        "title": title,
        "sents": sents,
        "vertexSet": vertices + list(others.values()),
        "pairs": [list(pair) for pair in pairs],
        "labels": [{"h": h, "t": t, "r": name, "evidence": []} for (h, t), name in pairs.items() if name != NONE],
    }


def _short_group(groups: list[list[str]]) -> str:
    """Which group of fields is the first incomplete one."""
    for index, group in enumerate(groups[1:], 1):
        if not (group[0] == NOT_SCORED or RELATION.fullmatch(group[0])):
            return f"pair {index - 1} has other than {FIELDS} fields, as pair {index} begins with {group[0][:40]!r}"
    return f"pair {len(groups) - 1} has {len(groups[-1])} fields instead of {FIELDS}"


def _side(group: list[str], columns: tuple[int, ...], borders: list[int], where: str) -> Side:
    """A pair's first or second entity, from its fields for identifier, type, starts and ends; `borders` are the first
    token of each sentence, and the text's end."""
    id_column, type_column, starts, ends = columns
    for column in (starts, ends):
        if not NUMBERS.fullmatch(group[column]):
            raise UserError(
                f"{where}: field {column}: {group[column]!r} is no list of token numbers like 4:82; correct it"
            )
    firsts, lasts = ([int(number) for number in group[column].split(":")] for column in (starts, ends))
    if len(firsts) != len(lasts):
        raise UserError(
            f"{where}: fields {starts} and {ends}: {len(firsts)} starts, but {len(lasts)} ends; each mention needs both"
        )
    for start, end in zip(firsts, lasts, strict=True):
        if start >= end:
            raise UserError(
                f"{where}: fields {starts} and {ends}: a mention starts at token {start} and ends before token {end}; "
                "the end must be greater; correct it"
            )
        if end > borders[-1]:
            raise UserError(
                f"{where}: field {ends}: token {end} lies beyond the text, which has {borders[-1]} tokens; correct it"
            )
        if any(start < border < end for border in borders):
            raise UserError(
                f"{where}: fields {starts} and {ends}: the mention of tokens {start} to {end} goes over the end of a "
                "sentence; take out the | between them"
            )
    return Side(group[id_column], group[type_column], tuple(zip(firsts, lasts, strict=True)))


def _mention(sents: list[list[str]], firsts: list[int], entity_type: str, span: Span) -> dict[str, Any]:
    """A mention in DocRED's schema."""
    sentence = next(number for number, end in enumerate(firsts[1:]) if span[0] < end)
    start, end = (token - firsts[sentence] for token in span)
    name = " ".join(sents[sentence][start:end])
    return {"name": name, "sent_id": sentence, "pos": [start, end], "type": entity_type}
