"""Predictions as a file: the interface of all formats. by_extension.py lists them.

In a graph the entities of each document are the nodes, with or without a relation, and the predictions are the edges.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import IO, Any, NamedTuple

from hingeabl.data.schema import Document, GeneratedTitle
from hingeabl.errors import need

KEY_FIELDS = ("name", "sent_id", "pos")
Entry = dict[str, Any]  # a prediction: {title, h_idx, t_idx, r, relation, score, threshold, margin}, and {confidence}


class OutputEntity(NamedTuple):
    """An entity of a document.

    id        "DOCUMENT#NUMBER", DOCUMENT being the document's key_of; unique across files
    place     of the document in the input, from 0
    document  its title
    number    of the entity in the document, from 0
    name      the longest name of a mention, "" if there is no mention
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


def key_of(document: Document) -> str:
    """A key that identifies a checked document in any file: a hash of its sentences, its mentions and its title, unless
    the title was generated."""
    title = None if isinstance(document["title"], GeneratedTitle) else document["title"]
    mentions = [
        [[type_of(mention), *map(mention.get, KEY_FIELDS)] for mention in entity] for entity in document["vertexSet"]
    ]
    return hashlib.sha256(json.dumps([title, document["sents"], mentions]).encode()).hexdigest()[:16]


def type_of(mention: dict[str, Any]) -> str | None:
    """A mention's type, None if it has none."""
    return entity_type if isinstance(entity_type := mention.get("type"), str) else None


def entities_of(document: Document, place: int) -> list[OutputEntity]:
    """The entities of a checked document; `place` is the document's number in the input."""
    key, title, entities = key_of(document), document["title"], []
    for number, mentions in enumerate(document["vertexSet"]):
        names = list(dict.fromkeys(mention["name"] for mention in mentions))
        types = dict.fromkeys(entity_type for mention in mentions if (entity_type := type_of(mention)) is not None)
        name = max(names, key=len, default="")
        entities.append(OutputEntity(f"{key}#{number}", place, title, number, name, names, list(types)))
    return entities


def edge_properties(entry: Entry) -> Entry:
    """The properties of an edge: {r, relation, score, threshold, margin, document}, and confidence if the entry has
    it."""
    fields = ("r", "relation", "score", "threshold", "margin", "confidence")
    return {field: entry[field] for field in fields if field in entry} | {"document": entry["title"]}


class Writer:
    """An output format: within its `with` block, `add` for each group of documents. A format defines how it writes an
    entity and a relation."""

    package = ""  # a package in scripts/requirements/graph.txt that the format needs

    def __init__(self, output: IO[Any]) -> None:
        """Raises UserError if `package` is not installed."""
        self.module = self.need()
        self.output = output
        self.documents = 0

    @classmethod
    def need(cls) -> Any:
        """The module of `package`, None if none is needed. Raises UserError if it is not installed."""
        remedy = "pip install -r scripts/requirements/graph.txt, or name a .json file"
        problem = f"{cls.package} is not installed, which this form of output needs; {remedy}"
        return need(cls.package, problem) if cls.package else None

    def __enter__(self) -> Writer:
        self.begin()
        return self

    def __exit__(self, error_type: object, *_: object) -> None:
        self.drop() if error_type else self.end()

    def add(self, documents: Sequence[Document], entries: Sequence[Sequence[Entry]]) -> None:
        """Write checked documents; `entries` holds the predictions of each."""
        for document, predictions in zip(documents, entries, strict=True):
            entities = entities_of(document, self.documents)
            for entity in entities:
                self.entity(entity)
            for entry in predictions:
                self.relation(entities[entry["h_idx"]], entities[entry["t_idx"]], entry)
            self.documents += 1

    def begin(self) -> None:
        """Write what comes before all documents."""

    def entity(self, entity: OutputEntity) -> None:
        """Write or keep an entity."""

    def relation(self, head: OutputEntity, tail: OutputEntity, entry: Entry) -> None:
        """Write or keep a prediction."""

    def end(self) -> None:
        """Write what comes after all documents."""

    def drop(self) -> None:
        """Called instead of `end` if an error ends the work and the output is discarded."""
