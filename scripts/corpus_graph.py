"""One graph out of the output of scripts/predict_corpus.py: joined entities, and triples with their support.

    python scripts/corpus_graph.py --input found/ --output graph.ttl
    python scripts/corpus_graph.py --input found/ --output for_neo4j/ --min_documents 2

The ending of --output tells its form: .ttl, .graphml, packed with .gz behind it or not; a folder gets nodes.csv and
relations.csv for `neo4j-admin database import full --nodes=nodes.csv --relationships=relations.csv
--array-delimiter=TAB`. hingeabl/corpus/graph.py has the rule by which entities are joined. Needs
scripts/requirements/ray.txt.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from hingeabl.start import start

start(__name__)  # first: it tells in one line which package is missing

from hingeabl.corpus.graph import WRITERS, joined_graph, write_csv, writer_of
from hingeabl.errors import UserError, run_command_line
from hingeabl.outputs import check_outputs
from hingeabl.training.settings import positive_int


def check(output: str, min_confidence: float) -> None:
    """Raise UserError for an output that cannot be written, or a confidence that is no probability."""
    if not 0 <= min_confidence <= 1:
        raise UserError(f"--min_confidence {min_confidence}: is a probability; pass a number from 0 to 1")
    is_folder = output.endswith("/") or (Path(output).is_dir() and writer_of(output) is write_csv)
    if Path(output).suffix and not is_folder:
        check_outputs({"--output": (output, tuple(filter(None, WRITERS)))}, {})
    elif Path(output).is_file():
        raise UserError(f"--output {output}: is a file; name a folder, or a file that ends in .ttl or .graphml")


def main(arguments: list[str] | None = None) -> None:
    """Make the graph; `arguments` default to the command line's."""
    parser = argparse.ArgumentParser(description="Join the predictions of many documents to one graph.")
    parser.add_argument("--input", required=True, help="a folder that scripts/predict_corpus.py wrote")
    parser.add_argument("--output", required=True, help="a .ttl or .graphml file, or a folder for CSV")
    parser.add_argument("--min_documents", type=positive_int, default=1, help="only triples of as many; default: 1")
    parser.add_argument("--min_confidence", type=float, default=0.0, help="only predictions that are as probable")
    parser.add_argument("--join_one_word_persons", action="store_true", help='also "Smith" and "Smith"; default: no')
    args = parser.parse_args(arguments)
    check(args.output, args.min_confidence)
    choices = (args.join_one_word_persons, args.min_documents, args.min_confidence)
    with joined_graph(args.input, *choices) as graph:
        writer_of(args.output)(graph, args.output)
        [(nodes,)] = graph.execute("SELECT count(*) FROM nodes").fetchall()
        [(triples,)] = graph.execute("SELECT count(*) FROM triples").fetchall()
    print(f"{triples:,} triples of {nodes:,} entities: {args.output}")


if __name__ == "__main__":
    run_command_line(main)
