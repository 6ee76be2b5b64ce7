"""brat's standoff files: a text, NAME.txt, and beside it its annotations, NAME.ann.

Each T line is an entity of its own unless a line `* Equiv` or a relation `Coref` joins it with others; other R lines
are labels. Attributes, normalizations and notes are not read; events are counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

from hingeabl.data.schema import Document, GeneratedTitle
from hingeabl.errors import UserError
from hingeabl.files import cannot_read
from hingeabl.readers.annotations import Relation, check_ends, document_of
from hingeabl.readers.decoding import opens_with_mark, read_all, read_lines
from hingeabl.readers.formats import other_file_of
from hingeabl.readers.offsets import AnnotatedMention, Counts

SPANS = re.compile(r"(\S+) (\d{1,9} \d{1,9}(?:;\d{1,9} \d{1,9})*)")
RELATION = re.compile(r"(\S+) [^\s:]+:(\S+) [^\s:]+:(\S+)\s*")
NOT_READ = "AMN#"  # attributes (M is their older letter), normalizations, notes


def read_brat(file: BinaryIO, name: str, counts: Counts) -> Iterator[Document]:
    """The document of a .ann or .txt file; the other file is read from beside it, and their common name is the title.
    Raises UserError with file, line and remedy."""
    path = Path(name)
    if path.suffix.lower() not in (".ann", ".txt"):
        raise UserError(f"{name}: brat has two files, NAME.ann and NAME.txt; pass the path of one of them")
    other_path = other_file_of(path)
    annotations, words = (path, other_path) if path.suffix.lower() == ".ann" else (other_path, path)
    try:
        with other_path.open("rb") as beside:
            lines, text = (file, beside) if other_path == words else (beside, file)
            document_text = read_all(text, str(words))
            annotation_lines = list(read_lines(lines, str(annotations)))
        mark = opens_with_mark(words)
    except FileNotFoundError:
        raise UserError(f"{name}: {other_path.name} is not beside it; brat's format has both files") from None
    except OSError as error:
        raise cannot_read(other_path, error) from None
    if not document_text.strip():
        raise UserError(f"{words}: is empty; it must hold the text of {annotations.name}")
    mentions, relations = _annotations(annotation_lines, str(annotations), counts)
    yield document_of(GeneratedTitle(path.stem), document_text, mentions, relations, str(annotations), counts, mark)


def _annotations(lines: Iterable[str], name: str, counts: Counts) -> tuple[dict[str, AnnotatedMention], list[Relation]]:
    """The mentions and relations in the lines; each `* Equiv` becomes relations that join its mentions."""
    mentions: dict[str, AnnotatedMention] = {}
    events: set[str] = set()
    relations: list[Relation] = []
    for number, line in enumerate(lines, 1):
        where, fields = f"{name}: line {number}", line.split("\t")
        line_type, value = line[:1], fields[1] if len(fields) > 1 else ""
        if line_type == "T":
            if fields[0] in mentions:
                raise UserError(f"{where}: {fields[0]} is there twice; rename one")
            mentions[fields[0]] = _mention(fields, where, f"line {number}")
        elif line_type == "R":
            match = RELATION.fullmatch(value)
            if not match:
                raise UserError(f"{where}: {line[:60]!r} is not a relation: R1, tab, TYPE Arg1:T1 Arg2:T2; correct it")
            relations.append(Relation(where, match[1], match[2], match[3]))
        elif line_type == "*" and value.startswith("Equiv "):
            same = value.split()[1:]
            relations += [Relation(where, "coref", first, other) for first, other in pairwise(same)]
        elif line_type in ("E", "*") and value:
            events.add(fields[0])
        elif line.strip() and not (line_type in NOT_READ and value):
            raise UserError(f"{where}: {line[:60]!r} is no annotation of brat's; correct or remove it")
        counts["skipped"] += line_type in ("E", "*") and not value.startswith("Equiv ")
    kept = [relation for relation in relations if not events & {relation.head, relation.tail}]
    counts["lost"] += len(relations) - len(kept)
    check_ends(kept, mentions, "a T line")
    return mentions, kept


def _mention(fields: list[str], where: str, location: str) -> AnnotatedMention:
    """The mention in a T line."""
    match = SPANS.fullmatch(fields[1]) if len(fields) > 1 else None
    if not match:
        line = "\t".join(fields)[:60]
        raise UserError(f"{where}: {line!r} is not a mention: T1, tab, TYPE START END, tab, text; correct it")
    spans = [(int(start), int(end)) for start, end in (span.split(" ") for span in match[2].split(";"))]
    stated_text = fields[2] if len(fields) > 2 else None
    start, end = min(start for start, _ in spans), max(end for _, end in spans)
    return AnnotatedMention(start, end, match[1], location, stated_text, tuple(spans))
