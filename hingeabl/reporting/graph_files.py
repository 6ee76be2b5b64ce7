"""More forms of predictions: RDF, GraphML and pictures; and the form that a file's ending tells.

RDF is written as it comes. GraphML and pictures hold the whole graph in memory and need networkx.
"""

from __future__ import annotations

import importlib
import io
import json
import re
import sys
from typing import IO, Any, TextIO, cast
from urllib.parse import quote

from hingeabl.errors import UserError
from hingeabl.reporting.graphs import (
    Csv,
    Cypher,
    Entity,
    Entry,
    JsonLines,
    JsonList,
    Writer,
    edge_properties,
    escaped,
)

PREFIXES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "rdfs": "http://www.w3.org/2000/01/rdf-schema#",
    "skos": "http://www.w3.org/2004/02/skos/core#",
    "wdt": "http://www.wikidata.org/prop/direct/",
    "term": "urn:hingeabl:term:",
}
RDF_SPECIAL = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
LARGEST_PICTURE = 1000  # entities: the layout's time grows with their square, and no one could read more


def urn(*parts: object) -> str:
    """The IRI of something of ours."""
    return f"<urn:hingeabl:{':'.join(quote(str(part), safe='') for part in parts)}>"


def literal(value: str | float) -> str:
    """A string or a number of RDF."""
    if isinstance(value, float):
        return f'"{value!r}"^^<http://www.w3.org/2001/XMLSchema#double>'
    return f'"{escaped(value, RDF_SPECIAL, lambda code: f"{chr(92)}U{code:08X}")}"'


def predicate_of(relation: str) -> str:
    """A relation of Wikidata by its own IRI, another one by ours."""
    return f"wdt:{relation}" if re.fullmatch("P[0-9]+", relation) else urn("relation", relation)


class Turtle(Writer):
    """RDF: each entity, each relation as a triple, and a statement about that triple, which holds its scores."""

    def begin(self) -> None:
        """Write the prefixes."""
        self.output.write("".join(f"@prefix {name}: <{iri}> .\n" for name, iri in PREFIXES.items()))

    def describe(self, subject: str, facts: list[tuple[str, str]]) -> None:
        """Write triples about a subject."""
        lines = " ;\n    ".join(f"{predicate} {value}" for predicate, value in facts)
        self.output.write(f"\n{subject}\n    {lines} .\n")

    def entity(self, entity: Entity) -> None:
        """Write an entity's kinds, names and document."""
        kinds = ["term:Entity", *(urn("type", kind) for kind in entity.types)]
        facts = [("rdf:type", kind) for kind in kinds]
        facts += [("rdfs:label", literal(entity.name)), ("term:document", literal(entity.document))]
        facts += [("skos:altLabel", literal(name)) for name in entity.mentions if name != entity.name]
        self.describe(entity_iri(entity), facts)

    def relation(self, head: Entity, tail: Entity, entry: Entry) -> None:
        """Write a relation's triple and the statement about it."""
        triple = entity_iri(head), predicate_of(entry["r"]), entity_iri(tail)
        self.describe(triple[0], [triple[1:]])
        facts = [("rdf:type", "rdf:Statement")]
        facts += zip(("rdf:subject", "rdf:predicate", "rdf:object"), triple, strict=True)
        facts += [(f"term:{name}", literal(value)) for name, value in edge_properties(entry).items()]
        self.describe(urn(head.place, head.document, head.number, tail.number, entry["r"]), facts)


class NTriples(Turtle):
    """The same triples, one a line."""

    def begin(self) -> None:
        """There is nothing to write: all IRIs are whole."""

    def describe(self, subject: str, facts: list[tuple[str, str]]) -> None:
        """Write triples about a subject."""
        for predicate, value in facts:
            self.output.write(f"{subject} {whole_iri(predicate)} {whole_iri(value)} .\n")


def entity_iri(entity: Entity) -> str:
    """The IRI of an entity: its document's place and title, and its number there."""
    return urn(entity.place, entity.document, entity.number)


def whole_iri(term: str) -> str:
    """A name with a prefix as the IRI that it stands for; any other term as it is."""
    if term[0] in '<"':
        return term
    prefix, _, name = term.partition(":")
    return f"<{PREFIXES[prefix]}{name}>"


class NetworkX(Writer):
    """What holds the whole graph in memory, as networkx.MultiDiGraph: the nodes are the entities' ids."""

    def __init__(self, output: IO[Any]) -> None:
        super().__init__(output)
        self.networkx = need_networkx()
        self.graph = self.networkx.MultiDiGraph()

    def entity(self, entity: Entity) -> None:
        """Keep a node."""
        properties = entity._asdict()
        self.graph.add_node(properties.pop("id"), **properties)

    def relation(self, head: Entity, tail: Entity, entry: Entry) -> None:
        """Keep an edge."""
        self.graph.add_edge(head.id, tail.id, self.graph.number_of_edges(), **edge_properties(entry))


class GraphMl(NetworkX):
    """GraphML. It has no lists, so mentions and types are JSON texts there."""

    def begin(self) -> None:
        """Nothing is replaced yet."""
        self.replaced = 0

    def allowed(self, value: Any) -> Any:
        """A property as GraphML can hold it."""
        text = json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value
        if not isinstance(text, str):
            return text
        text, count = NOT_XML.subn("\ufffd", text)
        self.replaced += count
        return text

    def entity(self, entity: Entity) -> None:
        """Keep a node."""
        super().entity(Entity(*map(self.allowed, entity)))

    def relation(self, head: Entity, tail: Entity, entry: Entry) -> None:
        """Keep an edge."""
        head, tail = (end._replace(id=NOT_XML.sub("\ufffd", end.id)) for end in (head, tail))
        super().relation(head, tail, {field: self.allowed(value) for field, value in entry.items()})

    def end(self) -> None:
        """Write the graph, and warn of characters that XML does not allow."""
        file = io.BytesIO()
        self.networkx.write_graphml_xml(self.graph, file)
        self.output.write(file.getvalue().decode().replace("\r", "&#13;") + "\n")  # else a reader takes it for \n
        if self.replaced:
            print(
                f"WARNING: GraphML: {self.replaced:,} control characters, which XML does not allow, are U+FFFD there",
                file=sys.stderr,
            )


class Picture(NetworkX):
    """A picture of the graph: an entity is a point with its name, an arrow has the names of its relations."""

    form = "svg"

    def add(self, documents: Any, entries: Any) -> None:
        """Keep documents. Raises UserError where they have more entities than a picture can show."""
        super().add(documents, entries)
        if len(self.graph) > LARGEST_PICTURE:
            raise UserError(
                f"--output: a picture shows at most {LARGEST_PICTURE:,} entities, and the documents have more; pass "
                "fewer documents, or name a .graphml file"
            )

    def end(self) -> None:
        """Draw the graph, the same each time."""
        from hingeabl.reporting.drawing import draw_graph  # matplotlib is slow to import

        draw_graph(self.graph, cast(TextIO, self.output).buffer, self.form)


class Png(Picture):
    """The same in pixels."""

    form = "png"


FORMS: dict[str, type[Writer]] = {
    ".json": JsonList,
    ".jsonl": JsonLines,
    ".json.gz": JsonList,
    ".jsonl.gz": JsonLines,
    ".csv": Csv,
    ".graphml": GraphMl,
    ".nt": NTriples,
    ".ttl": Turtle,
    ".cypher": Cypher,
    ".svg": Picture,
    ".png": Png,
}


def form_of(name: str) -> type[Writer]:
    """The form of an output by its ending: a list where that tells nothing."""
    return next((form for ending, form in FORMS.items() if name.lower().endswith(ending)), JsonList)


def check_form(name: str) -> None:
    """Raise UserError where a package that an output's form needs is not installed."""
    if issubclass(form_of(name), NetworkX):
        need_networkx()


def need_networkx() -> Any:
    """The package. Raises UserError where it is not installed."""
    try:
        return importlib.import_module("networkx")
    except ImportError:
        raise UserError(
            "networkx is not installed, which .graphml, .svg and .png need; pip install -r "
            "scripts/requirements-graph.txt, or name a .json file"
        ) from None
