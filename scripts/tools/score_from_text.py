"""Score mentions, entities and relations that are found in raw text, against documents with gold entities and labels.

python scripts/tools/score_from_text.py --data dev_revised.json test_revised.json --output scores.json
python scripts/tools/score_from_text.py --data test_revised.json --text_model en_core_web_sm
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hingeabl.errors import UserError, run_command_line
from hingeabl.files import sha256_of_file, write_json
from hingeabl.outputs import check_outputs
from hingeabl.prediction.choices import add_prediction_options, prediction_options
from hingeabl.prediction.from_text import INPUT_MODES, score_from_text
from hingeabl.prediction.predictor import Predictor
from hingeabl.readers.documents import load_documents


def main() -> None:
    """Print a table for each file."""
    parser = argparse.ArgumentParser(description="Score what is found in raw text against gold documents.")
    parser.add_argument(
        "--data", required=True, nargs="+", metavar="FILE", help="labelled documents in DocRED's schema"
    )
    parser.add_argument("--output", metavar="FILE", help="also write the scores as JSON")
    add_prediction_options(parser)
    args = parser.parse_args()
    if args.output:
        check_outputs({"--output": (args.output, (".json",))}, {f"--data {path}": path for path in args.data})
    predictor = Predictor.from_run(args.load_path, precision=args.precision, **prediction_options(args))
    record, names = {}, [Path(path).name for path in args.data]
    for path in args.data:
        documents = load_documents(path, typed=True)
        if not any(document.get("labels") for document in documents):
            raise UserError(f"{path}: no document has labels; name a file of labelled documents")
        scores = score_from_text(documents, predictor)
        name = Path(path).name if names.count(Path(path).name) == 1 else path
        record[name] = {"sha256": sha256_of_file(path), "scores": scores}
        print(f"\n{Path(path).name}: F1 (precision, recall) in percent\n")
        print(f"{'':16}" + "".join(f"{way:>26}" for way in INPUT_MODES))
        for name in scores[INPUT_MODES[0]]:
            cells = (scores[way][name] for way in INPUT_MODES)
            shown = (f"{rates['f1']:.2f} ({rates['precision']:.2f}, {rates['recall']:.2f})" for rates in cells)
            print(f"{name:16}" + "".join(f"{cell:>26}" for cell in shown))
    if args.output:
        write_json(args.output, {"text_model": args.text_model or "models/docred_mentions", "files": record})


if __name__ == "__main__":
    run_command_line(main)
