"""Corpora for the tests: what is read of a file or folder, and the part that a worker makes of it."""

import json

from hingeabl.corpus.sources import find_sources, read_sources
from hingeabl.corpus.worker import part_of

SPANS = {"title": "Spans", "text": "Ada met Bo.", "entities": [{"mentions": [[0, 3]]}, {"mentions": [[8, 10]]}]}


def lines(documents):
    return "".join(json.dumps(document) + "\n" for document in documents)


def read(path):
    return list(read_sources(find_sources(str(path))))


def part(predictor, raws, form="jsonl"):
    """The part of these documents, and its rows."""
    found = part_of(predictor, "part 0", raws, form)
    return found, [json.loads(line) for line in found.data.splitlines()] if form == "jsonl" else None
