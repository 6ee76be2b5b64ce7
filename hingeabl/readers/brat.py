"""brat's standoff files: a text, NAME.txt, and beside it its annotations, NAME.ann.

Each T line is an entity of its own unless a line `* Equiv` or a relation `Coref` joins it with others; other R lines
are labels. Attributes, normalizations and notes are not read; events are counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from hingeabl.data.schema import Document, MadeTitle
from hingeabl.errors import UserError
from hingeabl.files import cannot_read
from hingeabl.readers.align import Mention, align, differ, warn
from hingeabl.readers.lines import read_all, read_lines

SPANS = re.compile(r"(\S+) (\d{1,9} \d{1,9}(?:;\d{1,9} \d{1,9})*)")
RELATION = re.compile(r"(\S+) [^\s:]+:(\S+) [^\s:]+:(\S+)\s*")
COREFERENCE = ("coref", "coreference")
NOT_READ = "AMN#"  # attributes (M is their older letter), normalizations, notes


def read_brat(file: BinaryIO, name: str) -> Iterator[Document]:
    """The document of a .ann or .txt file, the other being read from beside it; the title is their common name. At the
    end, one line on stderr tells what was counted. Raises UserError with file, line and remedy."""
    path = Path(name)
    if path.suffix not in (".ann", ".txt"):
        raise UserError(f"{name}: brat has two files, NAME.ann and NAME.txt; pass the path of one of them")
    annotations, words = path.with_suffix(".ann"), path.with_suffix(".txt")
    other = words if path.suffix == ".ann" else annotations
    try:
        with other.open("rb") as beside:
            lines, text = (file, beside) if other == words else (beside, file)
            document_text = read_all(text, str(words))
            found = list(read_lines(lines, str(annotations)))
    except FileNotFoundError:
        raise UserError(f"{name}: {other.name} is not beside it; brat's format has both files") from None
    except OSError as error:
        raise cannot_read(other, error) from None
    if not document_text.strip():
        raise UserError(f"{words}: is empty; it must hold the text of {annotations.name}")
    counts: Counter[str] = Counter()
    yield _document(found, document_text, MadeTitle(path.stem), str(annotations), counts)
    warn(name, counts)


def _document(lines: Iterable[str], text: str, title: str, name: str, counts: Counter[str]) -> Document:
    """The document of a text and its annotations."""
    mentions: dict[str, Mention] = {}
    events: set[str] = set()
    joined: list[tuple[str, list[str]]] = []  # the place and the mentions of each Equiv or coreference
    relations: list[tuple[str, str, list[str]]] = []  # the place, the relation, its two mentions
    for number, line in enumerate(lines, 1):
        where, fields = f"{name}: line {number}", line.split("\t")
        kind, value = line[:1], fields[1] if len(fields) > 1 else ""
        if kind == "T":
            if fields[0] in mentions:
                raise UserError(f"{where}: {fields[0]} is there twice; rename one")
            mentions[fields[0]] = _mention(fields, text, where, f"line {number}", counts)
        elif kind == "R":
            match = RELATION.fullmatch(value)
            if not match:
                raise UserError(f"{where}: {line[:60]!r} is not a relation: R1, tab, TYPE Arg1:T1 Arg2:T2; correct it")
            if match[1].lower() in COREFERENCE:
                joined.append((where, [match[2], match[3]]))
            else:
                relations.append((where, match[1], [match[2], match[3]]))
        elif kind == "*" and value.startswith("Equiv "):
            joined.append((where, value.split()[1:]))
        elif kind in ("E", "*") and value:
            events.add(fields[0])
        elif line.strip() and not (kind in NOT_READ and value):
            raise UserError(f"{where}: {line[:60]!r} is no annotation of brat's; correct or remove it")
        counts["skipped"] += kind in ("E", "*") and not value.startswith("Equiv ")
    kept = [relation for relation in relations if not events & set(relation[2])]
    counts["lost"] += len(relations) - len(kept)
    for where, names in [*joined, *((where, names) for where, _, names in kept)]:
        if missing := next((found for found in names if found not in mentions), None):
            raise UserError(f"{where}: {missing} is not a mention (a T line) of the file; add or correct it")
    entities = _entities(list(mentions), [names for _, names in joined])
    number_of = {found: number for number, names in enumerate(entities) for found in names}
    labels = [{"h": number_of[head], "t": number_of[tail], "r": kind} for _, kind, (head, tail) in kept]
    return align(title, text, [[mentions[found] for found in names] for names in entities], name, counts, labels)


def _mention(fields: list[str], text: str, where: str, place: str, counts: Counter[str]) -> Mention:
    """The mention of a T line."""
    match = SPANS.fullmatch(fields[1]) if len(fields) > 1 else None
    if not match:
        line = "\t".join(fields)[:60]
        raise UserError(f"{where}: {line!r} is not a mention: T1, tab, TYPE START END, tab, text; correct it")
    spans = [[int(number) for number in span.split(" ")] for span in match[2].split(";")]
    counts["gaps"] += len(spans) > 1
    if len(fields) > 2:
        counts["differ"] += differ(" ".join(text[start:end] for start, end in spans), fields[2])
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
