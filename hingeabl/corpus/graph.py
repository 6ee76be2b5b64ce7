"""One graph out of a corpus: entities of the same name and type are one node, and each triple counts its documents.

The rule. A name is normalised: Unicode's form NFC, small letters, white space as one space, no full stop or apostrophe,
no "the" at its beginning. Entities with the same normalised name and the same first type are one, whichever document
they are in. Not joined are entities without a name, and persons of one word ("Smith") unless `persons` is set: each
stays an entity of its document.

A triple's confidences within a document count once, by the highest. Over documents they combine as if these were
independent: 1 - (1 - p1) (1 - p2) ... DuckDB does the grouping, with a bound on its memory; the rest goes to the disk.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hingeabl.corpus.sources import INSTALL
from hingeabl.errors import UserError, first_line

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
    WHERE coalesce(pred.confidence, 1) >= $confidence
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
        any_value(all_names.names) AS names, count(DISTINCT (file, document)) AS documents
    FROM entities JOIN all_names ON all_names.node = entities.node GROUP BY entities.node;
"""


def need_duckdb() -> Any:
    """The module duckdb. Raises UserError if it is not installed."""
    try:
        import duckdb
    except ImportError:
        raise UserError(f"duckdb is not installed, which groups the triples; {INSTALL}") from None
    return duckdb


def parts_of(corpus: str) -> tuple[str, list[str]]:
    """DuckDB's reader and the files of a folder that predict_corpus.py wrote. Raises UserError if there are none."""
    for ending, reader in (("jsonl", "read_json"), ("parquet", "read_parquet")):
        paths = sorted(str(path) for path in Path(corpus).glob(f"parts/part-*.{ending}"))
        if paths:
            return reader, paths
    raise UserError(f"--input {corpus}: has no parts; name a folder that scripts/predict_corpus.py wrote")


@contextlib.contextmanager
def joined_graph(
    corpus: str, persons: bool = False, documents: int = 1, confidence: float = 0.0, memory: str = MEMORY
) -> Iterator[Any]:
    """A connection of DuckDB with two tables of a corpus: triples (head, r, tail, relation, documents, highest,
    combined, places) and nodes (id, type, name, names, documents), those at an end of a triple.

    `persons` joins persons of one word too; triples of fewer than `documents` documents, and predictions with less than
    `confidence`, are left out. Raises UserError for a folder that is no corpus, or that cannot be read.
    """
    duckdb = need_duckdb()
    reader, files = parts_of(corpus)
    with tempfile.TemporaryDirectory() as scratch, duckdb.connect(str(Path(scratch) / "graph.duckdb")) as connection:
        connection.execute(f"SET memory_limit='{memory}'; SET preserve_insertion_order=false")
        connection.execute("SET temp_directory=?", [scratch])
        reader_options = {"columns": COLUMNS, "format": "newline_delimited"} if reader == "read_json" else {}
        try:
            connection.register("part", getattr(connection, reader)(files, **reader_options))
            for statement in filter(str.strip, SQL.split(";")):
                options = {"persons": persons, "documents": documents, "confidence": confidence}
                connection.execute(statement, {key: value for key, value in options.items() if f"${key}" in statement})
        except duckdb.Error as error:
            raise UserError(f"--input {corpus}: cannot be joined ({first_line(error)}); are its parts whole?") from None
        yield connection
