"""What predict.py writes for a file."""

import json

import predict

FIELDS = ["title", "h_idx", "t_idx", "r", "relation", "score", "threshold", "margin", "confidence"]


def predict_file(run, documents, folder, *more):
    """predict.py's output for a file of these documents."""
    (folder / "docs.json").write_text(json.dumps(documents))
    files = ["--input", str(folder / "docs.json"), "--output", str(folder / "found.json")]
    predict.main(["--load_path", str(run), *files, *more])
    return json.loads((folder / "found.json").read_text())
