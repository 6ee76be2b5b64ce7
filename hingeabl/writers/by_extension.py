"""The output format by the file's ending."""

from __future__ import annotations

from hingeabl.writers.annotated import Brat, SpansLines, SpansList
from hingeabl.writers.json_csv_cypher import Csv, Cypher, JsonLines, JsonList
from hingeabl.writers.networks import GraphMl, Picture, Png
from hingeabl.writers.rdf import NTriples, Turtle
from hingeabl.writers.writer import Writer

ANNOTATED: dict[str, type[Writer]] = {  # formats that hold the documents too
    ".spans.json": SpansList,
    ".spans.jsonl": SpansLines,
    ".spans.json.gz": SpansList,
    ".spans.jsonl.gz": SpansLines,
    ".brat.zip": Brat,
}
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
    **ANNOTATED,
}


def form_of(name: str) -> type[Writer]:
    """The format of an output by its ending; a JSON list for an unknown ending."""
    endings = [ending for ending in FORMS if name.lower().endswith(ending)]
    return FORMS[max(endings, key=len)] if endings else JsonList
