"""Make tests/data: numbers that the tests compare with, so that a clone has them without real documents.

    REDOCRED_DIR=... FIXTURES_DIR=... python tests/helpers/make_data.py

sample_documents.json stays as it is where it is there. Two modules' scores come from this program itself, so it first
shows that it, and the plain computation, give the released programs' numbers on their seven real documents, prints how
far they are apart, and stops where that is 1e-5 or more.
"""

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts/tools"), str(ROOT / "scripts/benchmark")]

from baseline import Baseline, plain_features, plain_scores
from make_sample import make_sample
from model_scores import DATA, STEP, drawn_model, largest_differences, released_model, released_scores, score

from hingeabl.data.relations import load_rel2id
from model import DocREModel
from prepro import read_docred

MINILM = ROOT / "dataset" / "encoders" / "all-MiniLM-L6-v2"
TITLES = ["Sample dev 13", "Sample test 4", "Sample dev 0", "Sample dev 3", "Sample dev 1", "Sample test 17"]
TRAIN = ["Sample dev 0", "Sample dev 1"]  # whose facts evaluation.json takes for known from training


def write_lines(path, entries):
    """A JSON list, one line an entry."""
    path.write_text("[\n" + ",\n".join(json.dumps(entry) for entry in entries) + "\n]\n")


def plain_atlop(model, features):
    """Scores [pairs, classes] of each document by itself, by the plain computation."""
    plain = Baseline(model, str(MINILM))
    with torch.no_grad():
        return [plain([feature]) for feature in features]


def compare_with_released(redocred, released, tokenizer, rel2id):
    """Print how far released programs' numbers on real documents are from ours at most; stop where that is too far."""
    features = read_docred(redocred / "dev_revised.json", tokenizer, rel2id)
    for backbone in ("atlop", "docunet", "kd_docre"):
        model = released_model(backbone, MINILM, released)
        documents = released_scores(backbone, released, features)
        found = dict(zip(("alone", "batched"), largest_differences(model, documents), strict=True))
        if backbone == "atlop":
            plain = plain_atlop(model, [feature for feature, _ in documents])
            found["plain"] = max(
                (scores - expected).abs().max().item() for scores, (_, expected) in zip(plain, documents, strict=True)
            )
        largest = max(expected.abs().max().item() for _, expected in documents)
        print(f"{backbone}: {found}, largest score {largest:.3f}, {len(documents)} documents")
        if not all(difference < 1e-5 for difference in found.values()):
            sys.exit(f"{backbone}: too far from the released program; nothing more was written")
    folder = released / "evaluation"
    files = redocred / "dev_revised.json", redocred / "test_revised.json"
    plain = plain_scores(json.loads((folder / "predictions.json").read_text()), *files)
    expected = json.loads((folder / "expected.json").read_text())
    difference = max(abs(plain[name] - expected[name]) for name in plain.keys() & expected.keys())
    print(f"evaluation: {difference}, {len(plain.keys() & expected.keys())} figures")
    if difference > 1e-9:
        sys.exit("evaluation: too far from the official evaluator; nothing more was written")


def make_predictions(documents):
    """Over half of the gold triples and as many wrong ones; some twice, some with evidence, some of no document."""
    gold = [
        {"title": d["title"], "h_idx": x["h"], "t_idx": x["t"], "r": x["r"], "evidence": x["evidence"]}
        for d in documents
        for x in d["labels"]
    ]
    plain = [{name: value for name, value in entry.items() if name != "evidence"} for entry in gold]
    found = plain[::4] + gold[1::4] + [{**entry, "evidence": [0, *entry["evidence"]]} for entry in gold[2::8]]
    found += [{**entry, "h_idx": entry["t_idx"], "t_idx": entry["h_idx"]} for entry in gold[::3]]
    found += [{**entry, "r": "P17" if entry["r"] != "P17" else "P19"} for entry in plain[1::5]]
    found += [{**entry, "title": "No such document"} for entry in gold[:4]]
    return found + plain[1:30:4] + gold[:20:8] + found[-2:]  # once more, with and without evidence


def main():
    """Write all of tests/data but its README."""
    redocred, released = (Path(os.environ[name]) for name in ("REDOCRED_DIR", "FIXTURES_DIR"))
    tokenizer, rel2id = AutoTokenizer.from_pretrained(MINILM), load_rel2id()
    DATA.mkdir(exist_ok=True)
    for name in ("losses.safetensors", "losses.json"):
        shutil.copyfile(released / name, DATA / name)
    compare_with_released(redocred, released, tokenizer, rel2id)

    path = DATA / "sample_documents.json"
    if not path.exists():
        corpus = {document["title"]: document for documents in make_sample().values() for document in documents}
        write_lines(path, [corpus[title] for title in TITLES])
    documents = json.loads(path.read_text())
    features = plain_features(path, tokenizer, rel2id)
    fields = ("title", "input_ids", "entity_pos")
    write_lines(DATA / "features.json", [{field: feature[field] for field in fields} for feature in features])

    stored = {}
    for backbone in DocREModel.backbones:
        model = drawn_model(backbone, MINILM)
        found = plain_atlop(model, features) if backbone == "atlop" else [score(model, [f]) for f in features]
        for feature, scores in zip(features, found, strict=True):
            stored[f"{backbone}/{feature['title']}"] = scores[::STEP].contiguous()
    save_file(stored, DATA / "logits.safetensors", {"pairs": f"every {STEP}th of each document, in order"})

    predictions = make_predictions(documents)
    with tempfile.TemporaryDirectory() as folder:
        train = Path(folder) / "train.json"
        train.write_text(json.dumps([document for document in documents if document["title"] in TRAIN]))
        expected = plain_scores(predictions, path, train)
    lines = [json.dumps({"train": TRAIN})[1:-1], json.dumps({"expected": expected})[1:-1]]
    rows = ",\n".join(json.dumps(entry) for entry in predictions)
    (DATA / "evaluation.json").write_text("{" + ",\n".join(lines) + ',\n"predictions": [\n' + rows + "\n]}\n")


if __name__ == "__main__":
    main()
