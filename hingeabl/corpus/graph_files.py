"""The graph of a corpus as Turtle, GraphML, or CSV for neo4j-admin, written row by row: memory does not hold it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any
from xml.sax.saxutils import escape

from hingeabl.files import atomic_write_text, fsync_and_rename, make_folder
from hingeabl.writers.networks import NOT_XML
from hingeabl.writers.rdf import SKOS, TERMS, WIKIDATA, iri_of_relation, urn

ROWS = 5000  # fetched at once
NODE = ("id", "type", "name", "names", "documents")
TRIPLE = ("head", "r", "tail", "relation", "documents", "highest", "combined", "places")
ONE_LINE = r"regexp_replace({}, '\s+', ' ', 'g')"  # white space of a column as one space: a row of CSV is one line
TABLES = {
    "nodes.csv": f"""
        SELECT id AS "id:ID", concat_ws(chr(9), 'Entity', nullif(type, '')) AS ":LABEL",
            {ONE_LINE.format("name")} AS name,
            array_to_string(list_transform(names, lambda alias: {ONE_LINE.format("alias")}), chr(9))
                AS "names:string[]",
            documents AS "documents:int"
        FROM nodes ORDER BY id""",
    "relations.csv": f"""
        SELECT head AS ":START_ID", tail AS ":END_ID", r AS ":TYPE", relation, documents AS "documents:int",
            highest AS "highest:double", combined AS "combined:double",
            array_to_string(list_transform(places, lambda src: {ONE_LINE.format("src.file || ' ' || src.document")}),
                chr(9)) AS "places:string[]"
        FROM triples ORDER BY head, r, tail""",
}
Row = dict[str, Any]


def rows_of(graph: Any, table: str, columns: tuple[str, ...]) -> Iterator[Row]:
    """The rows of a table of joined_graph's connection, by the names of its columns, in their order."""
    result = graph.execute(f"SELECT {', '.join(columns)} FROM {table} ORDER BY {', '.join(columns[:3])}")
    while rows := result.fetchmany(ROWS):
        yield from (dict(zip(columns, row, strict=True)) for row in rows)


def write_csv(graph: Any, output: str) -> None:
    """nodes.csv and relations.csv in a folder. Raises UserError if they cannot be written."""
    folder = make_folder(output)
    for name, query in TABLES.items():
        temporary = folder / f"{name}.tmp"
        graph.execute(f"COPY ({query}) TO '{str(temporary).replace(chr(39), 2 * chr(39))}' (FORMAT csv, HEADER)")
        fsync_and_rename(temporary, folder / name)


def literal(text: str) -> str:
    """A string of Turtle, whose escapes are JSON's."""
    return json.dumps(text, ensure_ascii=False)


def iri_of_node(node: str) -> str:
    """The IRI of a node: by type and name if it was joined, else as in predict.py's output."""
    parts = ["joined", *node.split(":", 1)] if ":" in node else ["entity", *node.split("#")]
    return f"<{urn(*parts)}>"


def turtle_of_node(row: Row) -> str:
    """A node's classes, names and number of documents."""
    classes = ", ".join(["term:Entity", *([f"<{urn('type', row['type'])}>"] if row["type"] else [])])
    others = "".join(f" ; skos:altLabel {literal(name)}" for name in row["names"] if name != row["name"])
    label = f"rdfs:label {literal(row['name'])}{others} ; term:documents {row['documents']}"
    return f"{iri_of_node(row['id'])} a {classes} ; {label} .\n"


def turtle_of_triple(row: Row) -> str:
    """A triple, and the statement about it with its support."""
    head, relation, tail = iri_of_node(row["head"]), f"<{iri_of_relation(row['r'])}>", iri_of_node(row["tail"])
    key = hashlib.sha256(json.dumps([row["head"], row["r"], row["tail"]]).encode()).hexdigest()[:16]
    properties = [f"rdf:subject {head}", f"rdf:predicate {relation}", f"rdf:object {tail}"]
    properties += [f"term:relation {literal(row['relation'])}", f"term:documents {row['documents']}"]
    for name in ("highest", "combined"):
        if row[name] is not None:
            properties.append(f"term:{name} {Decimal(repr(row[name])):f}")
    for source in row["places"]:
        about = f"term:file {literal(source['file'])} ; term:number {source['document']}"
        properties.append(f"term:document [ {about} ; term:title {literal(source['title'])} ]")
    return f"{head} {relation} {tail} .\n<{urn('support', key)}> a rdf:Statement ; {' ; '.join(properties)} .\n"


def write_turtle(graph: Any, output: str) -> None:
    """RDF. Raises UserError if it cannot be written."""
    prefixes = {"wdt": WIKIDATA, "term": TERMS, "skos": SKOS}
    prefixes |= {"rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#", "rdfs": "http://www.w3.org/2000/01/rdf-schema#"}
    with atomic_write_text(output) as file:
        file.writelines(f"@prefix {prefix}: <{iri}> .\n" for prefix, iri in prefixes.items())
        file.writelines(map(turtle_of_node, rows_of(graph, "nodes", NODE)))
        file.writelines(map(turtle_of_triple, rows_of(graph, "triples", TRIPLE)))


def xml_of(value: Any) -> str:
    """A value as GraphML can hold it: it has no lists, so these are JSON texts."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return escape(NOT_XML.sub("\ufffd", text), {'"': "&quot;", "\r": "&#13;"})


def graphml_of(row: Row, opening: str, closing: str) -> str:
    """A node or an edge."""
    data = "".join(f'<data key="{name}">{xml_of(value)}</data>' for name, value in row.items() if value is not None)
    return f"{opening}{data}{closing}\n"


def write_graphml(graph: Any, output: str) -> None:
    """GraphML. Raises UserError if it cannot be written."""
    attribute_types = {"documents": "long", "highest": "double", "combined": "double"}
    with atomic_write_text(output) as file:
        file.write('<?xml version="1.0" encoding="utf-8"?>\n<graphml xmlns="http://graphml.graphdrawing.org/xmlns">\n')
        for name in dict.fromkeys((*NODE[1:], "r", *TRIPLE[3:])):
            attribute_type = attribute_types.get(name, "string")
            file.write(f'<key id="{name}" for="all" attr.name="{name}" attr.type="{attribute_type}"/>\n')
        file.write('<graph edgedefault="directed">\n')
        for row in rows_of(graph, "nodes", NODE):
            file.write(graphml_of(row, f'<node id="{xml_of(row.pop("id"))}">', "</node>"))
        for row in rows_of(graph, "triples", TRIPLE):
            ends = f'source="{xml_of(row.pop("head"))}" target="{xml_of(row.pop("tail"))}"'
            file.write(graphml_of(row, f"<edge {ends}>", "</edge>"))
        file.write("</graph>\n</graphml>\n")


WRITERS: dict[str, Callable[[Any, str], None]] = {
    ".ttl": write_turtle,
    ".ttl.gz": write_turtle,
    ".graphml": write_graphml,
    ".graphml.gz": write_graphml,
    "": write_csv,
}


def writer_of(output: str) -> Callable[[Any, str], None]:
    """The writer for an output, by its name's ending; a folder of CSV if it has none."""
    return next(write for ending, write in WRITERS.items() if output.lower().endswith(ending))
