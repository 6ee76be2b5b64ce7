"""Predictions as RDF, written by rdflib document by document: Turtle and N-Triples."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from typing import IO, Any
from urllib.parse import quote

from hingeabl.data.schema import Document
from hingeabl.writers.writer import Entry, OutputEntity, Writer, edge_properties

WIKIDATA = "http://www.wikidata.org/prop/direct/"  # the IRI of property P19 is WIKIDATA + "P19"
TERMS = "urn:hingeabl:term:"
SKOS = "http://www.w3.org/2004/02/skos/core#"


def urn(*parts: object) -> str:
    """The IRI of one of our own resources."""
    return f"urn:hingeabl:{':'.join(quote(str(part), safe='') for part in parts)}"


def iri_of_relation(relation: str) -> str:
    """The Wikidata IRI of a Wikidata property, our own IRI for another relation."""
    return WIKIDATA + relation if re.fullmatch("P[0-9]+", relation) else urn("relation", relation)


class Turtle(Writer):
    """RDF: each entity, each relation as a triple, and a statement about that triple with its scores."""

    package = "rdflib"
    form = "turtle"

    def __init__(self, output: IO[Any]) -> None:
        super().__init__(output)
        self.graph = self.new_graph()

    def new_graph(self) -> Any:
        """An empty rdflib.Graph with our prefixes."""
        graph = self.module.Graph()
        for prefix, iri in (("wdt", WIKIDATA), ("term", TERMS), ("skos", SKOS)):
            graph.bind(prefix, iri)
        return graph

    def add(self, documents: Sequence[Document], entries: Sequence[Sequence[Entry]]) -> None:
        """Write checked documents; `entries` holds the predictions of each."""
        super().add(documents, entries)
        self.output.write(self.graph.serialize(format=self.form))
        self.graph = self.new_graph()

    def triple(self, subject: str, predicate: str, value: Any) -> None:
        """Keep a triple; `value` is a node of rdflib, or an IRI."""
        iri = self.module.URIRef
        self.graph.add((iri(subject), iri(predicate), iri(value) if type(value) is str else value))

    def entity(self, entity: OutputEntity) -> None:
        """Keep an entity's types, names and document."""
        rdf, rdfs, literal = self.module.RDF, self.module.RDFS, self.module.Literal
        subject = iri_of_entity(entity)
        for entity_type in (TERMS + "Entity", *(urn("type", entity_type) for entity_type in entity.types)):
            self.triple(subject, rdf.type, entity_type)
        self.triple(subject, rdfs.label, literal(entity.name))
        self.triple(subject, TERMS + "document", literal(entity.document))
        for name in entity.mentions:
            if name != entity.name:
                self.triple(subject, SKOS + "altLabel", literal(name))

    def relation(self, head: OutputEntity, tail: OutputEntity, entry: Entry) -> None:
        """Keep a relation's triple and the statement about it. Numbers are decimals with all their digits."""
        rdf, literal = self.module.RDF, self.module.Literal
        triple = iri_of_entity(head), iri_of_relation(entry["r"]), iri_of_entity(tail)
        self.triple(*triple)
        statement = urn("statement", *head.id.split("#"), tail.number, entry["r"])
        self.triple(statement, rdf.type, rdf.Statement)
        for part, value in zip((rdf.subject, rdf.predicate, rdf.object), triple, strict=True):
            self.triple(statement, part, value)
        for name, value in edge_properties(entry).items():
            exact = Decimal(repr(value)) if isinstance(value, float) else value
            self.triple(statement, TERMS + name, literal(exact))


class NTriples(Turtle):
    """The same triples, one a line."""

    form = "nt"


def iri_of_entity(entity: OutputEntity) -> str:
    """The IRI of an entity: its document's key, and its number there."""
    return urn("entity", *entity.id.split("#"))
