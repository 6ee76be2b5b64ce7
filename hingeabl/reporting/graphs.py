"""Predictions as a file: the interface of all forms, and JSON, CSV and Cypher, which are written as they come.

In a graph the entities of each document are the nodes, whether they have a relation or not, and the predictions the
edges. The other forms are in graph_files.py.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Sequence
from typing import IO, Any, NamedTuple

from hingeabl.data.schema import Document

Entry = dict[str, Any]  # a prediction: {title, h_idx, t_idx, r, relation, score, threshold, margin}


class Entity(NamedTuple):
    """An entity of a document.

    id        "PLACE/TITLE#NUMBER", of no other entity of a file, even if titles are there twice
    place     of the document in the input, from 0
    document  its title
    number    of the entity in the document, from 0
    name      the longest name of a mention, "" where there is no mention
    mentions  the mentions' names, each once
    types     the mentions' types, each once
    """

    id: str
    place: int
    document: str
    number: int
    name: str
    mentions: list[str]
    types: list[str]


def entities_of(document: Document, place: int) -> list[Entity]:
    """The entities of a checked document, `place` being its place in the input."""
    title, found = document["title"], []
    for number, mentions in enumerate(document["vertexSet"]):
        names = list(dict.fromkeys(mention["name"] for mention in mentions))
        types = dict.fromkeys(kind for mention in mentions if isinstance(kind := mention.get("type"), str))
        name = max(names, key=len, default="")
        found.append(Entity(f"{place}/{title}#{number}", place, title, number, name, names, list(types)))
    return found


def edge_properties(entry: Entry) -> Entry:
    """What an edge holds: {r, relation, score, threshold, margin, document}."""
    return {field: entry[field] for field in ("r", "relation", "score", "threshold", "margin")} | {
        "document": entry["title"]
    }


class Writer:
    """One form of predictions: `begin`, then `add` for each group of documents, then `end`. A form defines what it does
    with an entity and a relation."""

    def __init__(self, output: IO[Any]) -> None:
        self.output = output
        self.documents = 0

    def add(self, documents: Sequence[Document], entries: Sequence[Sequence[Entry]]) -> None:
        """Write checked documents; `entries` holds the predictions of each."""
        for document, found in zip(documents, entries, strict=True):
            entities = entities_of(document, self.documents)
            for entity in entities:
                self.entity(entity)
            for entry in found:
                self.relation(entities[entry["h_idx"]], entities[entry["t_idx"]], entry)
            self.documents += 1

    def begin(self) -> None:
        """Write what stands before all documents."""

    def entity(self, entity: Entity) -> None:
        """Write or keep an entity."""

    def relation(self, head: Entity, tail: Entity, entry: Entry) -> None:
        """Write or keep a prediction."""

    def end(self) -> None:
        """Write what stands after all documents."""


class JsonList(Writer):
    """The predictions, as a list."""

    first, between, last, none = "[\n", ",\n", "\n]\n", "[]\n"

    def begin(self) -> None:
        """Nothing is written yet: what stands before the first prediction depends on whether there is one."""
        self.count = 0

    def relation(self, head: Entity, tail: Entity, entry: Entry) -> None:
        """Write a prediction as it is."""
        self.output.write((self.between if self.count else self.first) + json.dumps(entry, ensure_ascii=False))
        self.count += 1

    def end(self) -> None:
        """Close the list, or the last line."""
        self.output.write(self.last if self.count else self.none)


class JsonLines(JsonList):
    """The predictions, one a line."""

    first, between, last, none = "", "\n", "\n", ""


class Csv(Writer):
    """The predictions with the names of their entities, one a line, as in RFC 4180."""

    def begin(self) -> None:
        """Write the header."""
        self.rows = csv.writer(self.output)
        self.rows.writerow("title h_idx head t_idx tail r relation score threshold margin".split())

    def relation(self, head: Entity, tail: Entity, entry: Entry) -> None:
        """Write a row."""
        scores = [entry[field] for field in ("score", "threshold", "margin")]
        pair = [entry["h_idx"], head.name, entry["t_idx"], tail.name]
        self.rows.writerow([entry["title"], *pair, entry["r"], entry["relation"], *scores])


def escaped(text: str, special: dict[str, str], other: Callable[[int], str]) -> str:
    """Text with its `special` characters replaced, and all that are not printable by what `other` makes of their code
    points."""

    def replaced(match: re.Match[str]) -> str:
        character = match[0]
        if character in special:
            return special[character]
        return character if character.isprintable() else other(ord(character))

    return re.sub(r"[^\w ]", replaced, text)


def utf16_escape(code: int) -> str:
    r"""A character as \uXXXX; as it is beyond these."""
    return f"\\u{code:04X}" if code < 0x10000 else chr(code)


CYPHER_SPECIAL = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def cypher(value: Any) -> str:
    """A string, number, list or map as a Cypher literal, on one line."""
    if isinstance(value, str):
        return f"'{escaped(value, CYPHER_SPECIAL, utf16_escape)}'"
    if isinstance(value, list):
        return f"[{', '.join(map(cypher, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {cypher(item)}' for key, item in value.items())}}}"
    return repr(value)


def cypher_name(name: str) -> str:
    """A name in backticks, "_" for an empty one, which Cypher does not have."""
    return f"`{escaped(name or '_', {'`': '``', chr(92): utf16_escape(92)}, utf16_escape)}`"


class Cypher(Writer):
    """Statements that make the graph, one a line; run again, they change nothing."""

    def entity(self, entity: Entity) -> None:
        """Write a statement that makes a node."""
        properties = entity._asdict()
        key = cypher({"id": properties.pop("id")})
        self.output.write(f"MERGE (n:Entity {key}) SET n += {cypher(properties)};\n")

    def relation(self, head: Entity, tail: Entity, entry: Entry) -> None:
        """Write a statement that makes an edge."""
        ends = f"(h:Entity {cypher({'id': head.id})}), (t:Entity {cypher({'id': tail.id})})"
        edge = f"(h)-[e:{cypher_name(entry['r'])}]->(t)"
        self.output.write(f"MATCH {ends} MERGE {edge} SET e += {cypher(edge_properties(entry))};\n")
