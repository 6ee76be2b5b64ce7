"""The model in models/redocred_minilm: its files, that every program takes it by default, and what its card claims."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from hingeabl.core.evaluation import score_predictions
from hingeabl.data.relations import load_rel2id
from hingeabl.prediction.predictor import Predictor
from hingeabl.readers.documents import load_documents
from hingeabl.training.fitted import calibration_error
from hingeabl.training.hub import SHIPPED
from hingeabl.training.settings import parse_args
from predict import main

EXAMPLE = ROOT / "docs/example.spans.json"


@pytest.fixture(scope="module")
def shipped():
    return Predictor()


def test_the_folder_is_small_and_holds_no_pickle():
    files = [path for path in SHIPPED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 30 * 2**20
    assert {path.suffix for path in files} <= {".json", ".md", ".txt", ".safetensors"}
    for path in files:
        if path.suffix in (".json", ".md"):
            assert not {"/work", "/root", "/home", "/tmp"} & set(path.read_text(encoding="utf-8").split('"'))


def test_it_knows_the_96_relations_its_confidence_and_types(shipped):
    assert shipped.run.rel2id == load_rel2id() and shipped.run.unfinished is None
    assert shipped.confidence is not None and shipped.types is not None


def test_without_load_path_predict_py_finds_real_relations(tmp_path):
    output = tmp_path / "found.csv"
    main(["--input", str(EXAMPLE), "--min_confidence", "0.75", "--output", str(output), "--device", "cpu"])
    with output.open(newline="", encoding="utf-8") as file:
        found = {(row["head"], row["relation"], row["tail"]) for row in csv.DictReader(file)}
    assert {("Marie Curie", "place of birth", "Warsaw"), ("Warsaw", "country", "Poland")} <= found
    assert ("Marie Curie", "educated at", "University of Paris") in found


def test_load_path_without_a_value_is_the_shipped_model(tmp_path):
    assert parse_args(["--load_path", "--data_dir", str(tmp_path)]).load_path == str(SHIPPED)


@pytest.mark.slow
def test_the_cards_test_scores_and_calibration_are_those_on_redocred():
    if "REDOCRED_DIR" not in os.environ:
        pytest.skip("REDOCRED_DIR is not set: the folder of Re-DocRED's files")
    from hingeabl.core.evaluation import prepare_gold, train_facts

    documents = load_documents(Path(os.environ["REDOCRED_DIR"]) / "test_revised.json", load_rel2id())
    found = Predictor.from_run(types="any").predict([{k: v for k, v in d.items() if k != "labels"} for d in documents])
    scores = score_predictions(found.entries, prepare_gold(documents, train_facts([])))
    card = json.loads((SHIPPED / "scores.json").read_text())["test"]
    for name in ("f1", "precision", "recall", "evidence_f1"):
        assert scores[name] == pytest.approx(card[name], abs=0.002)  # digits depend on the processor
    assert scores["f1"] > 0.625
    gold = {(d["title"], label["h"], label["t"], label["r"]) for d in documents for label in d["labels"]}
    right = np.array([(e["title"], e["h_idx"], e["t_idx"], e["r"]) in gold for e in found.entries])
    confidence = np.array([entry["confidence"] for entry in found.entries])
    assert calibration_error(confidence, right) < 0.05
    sure = confidence >= 0.8
    assert right[sure].mean() > 0.8 and abs(right[sure].mean() - confidence[sure].mean()) < 0.05


@pytest.mark.slow
def test_relations_of_the_last_paragraph_of_a_long_text_are_found_and_nothing_is_cut(shipped, capsys):
    last = "Marie Curie was born in Warsaw. Warsaw is the capital of Poland."
    alone = {(one.head.name, one.relation, one.tail.name) for one in shipped(last)}
    found = {(one.head.name, one.relation, one.tail.name) for one in shipped("It rains on the hills. " * 600 + last)}
    assert ("Warsaw", "country", "Poland") in alone & found
    assert "cut" not in capsys.readouterr().err
