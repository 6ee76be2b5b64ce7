"""Time and peak memory of scripts/corpus_graph.py on invented triples, for each form of output.

python scripts/benchmark/corpus_graph_memory.py 1000000
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EACH = 20  # triples and entities of a document
NAMES = 200_000


def write_corpus(folder: Path, triples: int) -> None:
    """Parts of 500 documents. Few names are in many documents, many in few."""
    chosen = random.Random(1)
    (folder / "parts").mkdir()
    for first in range(0, triples // EACH, 500):
        with (folder / "parts" / f"part-{first // 500:06d}.jsonl").open("w") as file:
            for number in range(first, min(first + 500, triples // EACH)):
                file.write(json.dumps(document(number, chosen)) + "\n")


def document(number: int, chosen: random.Random) -> dict[str, object]:
    """A row of predict_corpus.py's output."""
    entities = []
    for entity in range(EACH):
        name = f"Some name {int(NAMES * chosen.random() ** 4)}"
        entities.append({"id": f"{number:016x}#{entity}", "name": name, "mentions": [name, name[5:]], "types": ["ORG"]})
    predictions = []
    for head in range(EACH):
        scores = {"score": 9.1, "threshold": 7.5, "margin": 1.6, "confidence": chosen.random()}
        pair = {"h_idx": head, "t_idx": (head + 1 + int(3 * chosen.random())) % EACH}
        predictions.append(pair | {"r": f"P{int(20 * chosen.random())}", "relation": "some relation"} | scores)
    row = {"file": f"articles/{number % 100}.jsonl", "document": number, "title": f"The title of document {number}"}
    return row | {"entities": entities, "predictions": predictions}


def main() -> None:
    """Print a line for each form."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_corpus(folder, int(sys.argv[1]))
        for output in ("csv", "graph.ttl", "graph.graphml"):
            start = time.perf_counter()
            program = [sys.executable, str(ROOT / "scripts" / "corpus_graph.py"), "--input", name]
            done = subprocess.run(
                [*program, "--output", str(folder / output)], check=True, capture_output=True, text=True
            )
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024  # of the largest so far
            print(f"{time.perf_counter() - start:.0f} s, at most {peak:.0f} MB: {done.stdout.strip()}", flush=True)


if __name__ == "__main__":
    main()
