"""Time and memory that the shipped model takes for one long document, made of many short ones.

python scripts/benchmark/long_documents.py dataset/redocred/test_revised.json 10000
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hingeabl.errors import UserError, run_command_line
from hingeabl.files import read_json
from hingeabl.prediction.predictor import Predictor


def joined(documents: list[dict[str, Any]], words: int) -> dict[str, Any]:
    """One document of so many words or a few more, of as many of these as it takes, each entity its own."""
    sents: list[list[str]] = []
    entities: list[list[dict[str, Any]]] = []
    while sum(map(len, sents)) < words:
        for document in documents:
            before = len(sents)
            sents += document["sents"]
            for mentions in document["vertexSet"]:
                entities.append([mention | {"sent_id": mention["sent_id"] + before} for mention in mentions])
            if sum(map(len, sents)) >= words:
                break
    return {"title": "long", "sents": sents, "vertexSet": entities}


def peak() -> float:
    """The most memory that this process held so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Print a line."""
    if len(sys.argv) != 3 or not sys.argv[2].isdecimal():
        raise UserError("pass a file in DocRED's schema and a number of words")
    documents = read_json(sys.argv[1])
    predictor = Predictor.from_run(device="cpu")
    predictor.predict([documents[0]])  # what a first call loads is not counted
    before, start = peak(), time.perf_counter()
    document = joined(documents, int(sys.argv[2]))
    predictions = predictor.predict([document])
    print(
        f"{sum(map(len, document['sents'])):,} words, {len(document['vertexSet']):,} entities: "
        f"{len(predictions.entries):,} relations, {peak() - before:.0f} MB more, {time.perf_counter() - start:.1f} s"
    )


if __name__ == "__main__":
    run_command_line(main)
