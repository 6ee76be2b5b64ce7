"""brat's standoff files: a text, NAME.txt, and beside it its annotations, NAME.ann.

Each T line is an entity of its own unless a line `* Equiv` or a relation `Coref` joins it with others; other R lines
are labels.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from hingeabl.data.schema import Document
from hingeabl.errors import UserError
from hingeabl.files import cannot_read
from hingeabl.readers.align import Mention, align, warn
from hingeabl.readers.lines import read_all

SPANS = re.compile(r"(\S+) (\d+ \d+(?:;\d+ \d+)*)")
RELATION = re.compile(r"(\S+) [^\s:]+:(\S+) [^\s:]+:(\S+)\s*")
COREFERENCE = ("coref", "coreference")


def read_brat(file: BinaryIO, name: str) -> Iterator[Document]:
    """The document of a .ann or .txt file, the other being read from beside it; the title is their common name. At the
    end, one line on stderr tells what was counted. Raises UserError with file, line and remedy."""
    path = Path(name)
    if path.suffix not in (".ann", ".txt"):
        raise UserError(f"{name}: brat has two files, NAME.ann and NAME.txt; pass the path of one of them")
    other = path.with_suffix(".txt" if path.suffix == ".ann" else ".ann")
    try:
        with other.open("rb") as beside:
            found = read_all(file, name), read_all(beside, str(other))
    except FileNotFoundError:
        raise UserError(f"{name}: {other.name} is not beside it; brat's format has both files") from None
    except OSError as error:
        raise cannot_read(other, error) from None
    annotations, text = found if path.suffix == ".ann" else found[::-1]
    counts: Counter[str] = Counter()
    yield _document(annotations, text, path.stem, str(path.with_suffix(".ann")), counts)
    warn(name, counts)


def _document(annotations: str, text: str, title: str, name: str, counts: Counter[str]) -> Document:
    """The document of a text and its annotations."""
    mentions: dict[str, Mention] = {}
    joined: list[tuple[str, list[str]]] = []  # the place and the mentions of each Equiv or coreference
    relations: list[tuple[str, str, list[str]]] = []  # the place, the relation, its two mentions
    for number, line in enumerate(annotations.split("\n"), 1):
        place, fields = f"line {number}", line.removesuffix("\r").split("\t")
        kind, value = fields[0][:1], fields[1] if len(fields) > 1 else ""
        if kind == "T":
            if fields[0] in mentions:
                raise UserError(f"{name}: {place}: {fields[0]} is there twice; rename one")
            mentions[fields[0]] = _mention(fields, text, place, name, counts)
        elif kind == "*" and value.lower().startswith("equiv "):
            joined.append((place, value.split()[1:]))
        elif kind == "R":
            match = RELATION.fullmatch(value)
            if not match:
                raise UserError(f"{name}: {place}: {line[:60]!r} is not a relation: R1, tab, TYPE Arg1:T1 Arg2:T2")
            if match[1].lower() in COREFERENCE:
                joined.append((place, [match[2], match[3]]))
            else:
                relations.append((place, match[1], [match[2], match[3]]))
    for place, names in [*joined, *((place, names) for place, _, names in relations)]:
        if missing := next((found for found in names if found not in mentions), None):
            raise UserError(f"{name}: {place}: {missing} is not a mention (a T line) of the file; add or correct it")
    entities = _entities(list(mentions), [names for _, names in joined])
    number_of = {found: number for number, names in enumerate(entities) for found in names}
    labels = [{"h": number_of[head], "t": number_of[tail], "r": kind} for _, kind, (head, tail) in relations]
    return align(title, text, [[mentions[found] for found in names] for names in entities], name, counts, labels)


def _mention(fields: list[str], text: str, place: str, name: str, counts: Counter[str]) -> Mention:
    """The mention of a T line."""
    match = SPANS.fullmatch(fields[1]) if len(fields) > 1 else None
    if not match:
        line = "\t".join(fields)[:60]
        raise UserError(f"{name}: {place}: {line!r} is not a mention: T1, tab, TYPE START END, tab, text")
    spans = [[int(number) for number in span.split(" ")] for span in match[2].split(";")]
    counts["gaps"] += len(spans) > 1
    if len(fields) > 2:
        written = " ".join(text[start:end] for start, end in spans)
        counts["differ"] += " ".join(written.split()) != " ".join(fields[2].split())
    return Mention(min(start for start, _ in spans), max(end for _, end in spans), match[1], place)


def _entities(names: list[str], joined: list[list[str]]) -> list[list[str]]:
    """The mentions of each entity, in the order of its first one: those that are joined, directly or through others."""
    group = {name: [name] for name in names}
    for members in joined:
        for other in members[1:]:
            kept, moved = group[members[0]], group[other]
            if kept is not moved:
                kept += moved
                group.update(dict.fromkeys(moved, kept))
    order = {name: number for number, name in enumerate(names)}
    unique = {id(members): sorted(members, key=order.__getitem__) for members in group.values()}
    return list(unique.values())
