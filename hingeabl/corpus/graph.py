"""One graph out of a corpus: entities of the same name and type are one node, and each triple counts its documents. It
is written as Turtle, GraphML, or CSV for neo4j-admin, row by row: memory does not hold it.

The rule. A name is normalised: Unicode's form NFC, small letters, white space as one space, no full stop or apostrophe,
no "the" at its beginning. Entities with the same normalised name and the same first type are one, whichever document
they are in. Not joined are entities without a name, and persons of one word ("Smith") unless `persons` is set: each
stays an entity of its document.

A triple's confidences within a document count once, by the highest. Over documents they combine as if these were
independent: 1 - (1 - p1) (1 - p2) ... A relation between two entities of a document that are one node is left out.
DuckDB does the grouping, with a bound on its memory; the rest goes to the disk.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from hingeabl.corpus.folder import FINISHED
from hingeabl.corpus.sources import INSTALL
from hingeabl.errors import UserError, first_line, need, print_warning
from hingeabl.files import atomic_write_text, fsync_and_rename, make_folder
from hingeabl.writers.networks import NOT_XML
from hingeabl.writers.rdf import SKOS, TERMS, WIKIDATA, iri_of_relation, urn

MEMORY = "800MB"  # of DuckDB
COLUMNS = {
    "file": "VARCHAR",
    "document": "BIGINT",
    "title": "VARCHAR",
    "entities": "STRUCT(id VARCHAR, name VARCHAR, mentions VARCHAR[], types VARCHAR[])[]",
    "predictions": "STRUCT(h_idx INTEGER, t_idx INTEGER, r VARCHAR, relation VARCHAR, confidence DOUBLE)[]",
}
PLAIN = r"trim(regexp_replace(regexp_replace(lower(nfc_normalize(name)), '[.''’]', '', 'g'), '\s+', ' ', 'g'))"
NORMAL = f"regexp_replace({PLAIN}, '^the ', '')"
SQL = f"""
CREATE TABLE document_entities AS
    WITH numbered AS (
        SELECT file, document, unnest(entities) AS entity, generate_subscripts(entities, 1) - 1 AS number FROM part
    ), named AS (
        SELECT file, document, number, entity.id AS id, entity.name AS name,
            coalesce(entity.types[1], '') AS type, entity.mentions AS mentions FROM numbered
    ), normalised AS (SELECT *, {NORMAL} AS normal_name FROM named)
    SELECT file, document, number, name, type, mentions,
        CASE WHEN normal_name = '' OR (type = 'PER' AND NOT contains(normal_name, ' ') AND NOT $persons) THEN id
             ELSE type || ':' || normal_name END AS node
    FROM normalised;
CREATE TABLE document_triples AS
    WITH rows AS (SELECT file, document, title, unnest(predictions) AS pred FROM part)
    SELECT head.node AS head, pred.r AS r, tail.node AS tail, any_value(pred.relation) AS relation,
        rows.file, rows.document, any_value(rows.title) AS title, max(pred.confidence) AS confidence
    FROM rows
    JOIN document_entities AS head
        ON head.file = rows.file AND head.document = rows.document AND head.number = pred.h_idx
    JOIN document_entities AS tail
        ON tail.file = rows.file AND tail.document = rows.document AND tail.number = pred.t_idx
    WHERE coalesce(pred.confidence, 1) >= $confidence AND head.node <> tail.node
    GROUP BY head.node, pred.r, tail.node, rows.file, rows.document;
CREATE TABLE triples AS
    SELECT head, r, tail, any_value(relation) AS relation, count(*) AS documents, max(confidence) AS highest,
        round(1 - product(1 - confidence), 6) AS combined,
        list(struct_pack(file := file, document := document, title := title) ORDER BY file, document) AS places
    FROM document_triples GROUP BY head, r, tail HAVING count(*) >= $documents;
CREATE TABLE nodes AS
    WITH ends AS (SELECT head AS id FROM triples UNION SELECT tail FROM triples),
    entities AS (SELECT * FROM document_entities SEMI JOIN ends ON node = ends.id),
    names AS (SELECT DISTINCT node, unnest(mentions) AS name FROM entities),
    all_names AS (SELECT node, list(name ORDER BY name) AS names FROM names GROUP BY node)
    SELECT entities.node AS id, any_value(type) AS type, mode(name ORDER BY name) AS name,
        coalesce(any_value(all_names.names), []) AS names, count(DISTINCT (file, document)) AS documents
    FROM entities LEFT JOIN all_names ON all_names.node = entities.node GROUP BY entities.node;
"""
WITHOUT_CONFIDENCE = "SELECT bool_and(pred.confidence IS NULL) FROM (SELECT unnest(predictions) AS pred FROM part)"
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


def parts_of(corpus: str) -> tuple[str, list[str]]:
    """DuckDB's reader and the files of a folder that predict_corpus.py wrote, with a warning if there will be more.
    Raises UserError if there are none."""
    for ending, reader in (("jsonl", "read_json"), ("parquet", "read_parquet")):
        paths = sorted(str(path) for path in Path(corpus).glob(f"parts/part-*.{ending}"))
        if paths:
            if not (Path(corpus) / FINISHED).exists():
                print_warning(
                    f"--input {corpus}: is not finished, and the graph is of {len(paths):,} parts; for the rest, run "
                    "predict_corpus.py again"
                )
            return reader, paths
    raise UserError(f"--input {corpus}: has no parts; name a folder that scripts/predict_corpus.py wrote")


@contextlib.contextmanager
def joined_graph(
    corpus: str, persons: bool = False, documents: int = 1, confidence: float = 0.0, memory: str = MEMORY
) -> Iterator[Any]:
    """A connection of DuckDB with two tables of a corpus: triples (head, r, tail, relation, documents, highest,
    combined, places) and nodes (id, type, name, names, documents), those at an end of a triple.

    `persons` joins persons of one word too; triples of fewer than `documents` documents, and predictions with less than
    `confidence`, are left out. Raises UserError for a folder that is no corpus, that cannot be read, or whose
    predictions have no confidence if one is asked for.
    """
    duckdb = need("duckdb", f"duckdb is not installed, which groups the triples; {INSTALL}")
    reader, files = parts_of(corpus)
    with tempfile.TemporaryDirectory() as scratch, duckdb.connect(str(Path(scratch) / "graph.duckdb")) as connection:
        connection.execute(f"SET memory_limit='{memory}'; SET preserve_insertion_order=false")
        connection.execute("SET temp_directory=?", [scratch])
        reader_options = {"columns": COLUMNS, "format": "newline_delimited"} if reader == "read_json" else {}
        try:
            connection.register("part", getattr(connection, reader)(files, **reader_options))
            if confidence and connection.execute(WITHOUT_CONFIDENCE).fetchall() == [(True,)]:
                raise UserError(
                    f"--input {corpus}: its predictions have no confidence, as their model has none; leave out "
                    "--min_confidence"
                )
            for statement in filter(str.strip, SQL.split(";")):
                options = {"persons": persons, "documents": documents, "confidence": confidence}
                connection.execute(statement, {key: value for key, value in options.items() if f"${key}" in statement})
        except duckdb.Error as error:
            raise UserError(f"--input {corpus}: cannot be joined ({first_line(error)}); are its parts whole?") from None
        yield connection


def rows_of(graph: Any, table: str, columns: tuple[str, ...]) -> Iterator[Row]:
    """The rows of a table of joined_graph's connection, by the names of its columns, in their order."""
    from duckdb import Error

    try:
        result = graph.execute(f"SELECT {', '.join(columns)} FROM {table} ORDER BY {', '.join(columns[:3])}")
        while rows := result.fetchmany(ROWS):
            yield from (dict(zip(columns, row, strict=True)) for row in rows)
    except Error as error:
        raise UserError(f"the graph cannot be sorted ({first_line(error)}); is the disk full?") from None


def write_csv(graph: Any, output: str) -> None:
    """nodes.csv and relations.csv in a folder. Raises UserError if they cannot be written."""
    from duckdb import Error

    folder = make_folder(output)
    temporary = {name: folder / f"{name}.tmp" for name in TABLES}
    for name, query in TABLES.items():
        try:
            quoted = str(temporary[name]).replace("'", "''")
            graph.execute(f"COPY ({query}) TO '{quoted}' (FORMAT csv, HEADER)")
        except Error as error:
            for path in temporary.values():
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
            raise UserError(
                f"{temporary[name]}: cannot be written ({first_line(error)}); make room, or name another"
            ) from None
    for name, path in temporary.items():  # once both are written
        fsync_and_rename(path, folder / name)


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
