"""Every comparison with real documents and with the released programs' numbers on them: skipped as a whole where these
are not here. What tests/data holds is checked against them too."""

import json
import os
from pathlib import Path

import fetch
import make_documents_400
import numpy as np
import pytest
import torch
from baseline import Baseline, plain_features, plain_scores
from model_scores import (
    BACKBONES,
    CPU,
    DATA,
    half_precision,
    largest_differences,
    released_model,
    released_scores,
    score,
)
from predictions import FIELDS, predict_file
from reports import printed
from test_evaluation import as_predictions

from evaluation import official_evaluate
from hingeabl.readers.documents import load_documents
from hingeabl.training import inference
from hingeabl.training.saved_run import open_run
from hingeabl.training.settings import read_settings
from losses import get_loss
from prepro import featurize, read_docred, statistics

FOLDERS = [os.environ.get(name) for name in ("REDOCRED_DIR", "FIXTURES_DIR")]
if not all(folder and Path(folder).is_dir() for folder in FOLDERS):
    reason = (
        "REDOCRED_DIR or FIXTURES_DIR names no folder: real documents and the released programs' numbers are not here"
    )
    pytest.skip(reason, allow_module_level=True)
REDOCRED, RELEASED = map(Path, FOLDERS)
OFFICIAL = ("dev_revised.json", "test_revised.json")


def read(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def features(minilm_tokenizer, rel2id):
    """Those of all dev documents."""
    return read_docred(REDOCRED / "dev_revised.json", minilm_tokenizer, rel2id)


@pytest.fixture(scope="module")
def seven(tmp_path_factory):
    """A file of the seven documents that the released programs' numbers are of."""
    documents = {document["title"]: document for document in read(REDOCRED / "dev_revised.json")}
    path = tmp_path_factory.mktemp("seven") / "seven.json"
    path.write_text(json.dumps([documents[expected["title"]] for expected in read(RELEASED / "features.json")]))
    return path


def test_features_equal_the_released_programs(features):
    found = {feature["title"]: feature for feature in features}
    expected = read(RELEASED / "features.json")
    assert len(expected) == 7
    for document in expected:
        ours = found[document["title"]]
        assert ours["input_ids"] == document["input_ids"]
        assert ours["entity_pos"] == document["entity_pos"]


def test_plain_features_equal_the_released_programs(seven, minilm_tokenizer, rel2id):
    """So those of tests/data are what the released programs would give."""
    fields = ("title", "input_ids", "entity_pos")
    plain = plain_features(seven, minilm_tokenizer, rel2id)
    expected = read(RELEASED / "features.json")
    assert [{field: entry[field] for field in fields} for entry in plain] == [
        {field: entry[field] for field in fields} for entry in expected
    ]


STATISTICS = {  # the official Re-DocRED splits
    "dev_revised.json": (500, 193232, 13362, 93.08, 203.94, 19.368, 9684, 34.568, 8.22, 95, 4),
    "test_revised.json": (500, 198670, 13627, 93.14, 197.468, 19.558, 9779, 34.896, 7.932, 95, 4),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_statistics_equal_the_official_splits(rel2id, name):
    found = statistics(load_documents(REDOCRED / name, rel2id))
    assert tuple(found.values()) == pytest.approx(STATISTICS[name], abs=0.005)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_scores_equal_the_released_programs_alone_and_batched(backbone, minilm, features):
    documents = released_scores(backbone, RELEASED, features)
    assert len(documents) == 7
    assert max(largest_differences(released_model(backbone, minilm, RELEASED), documents)) < 1e-5


def test_the_plain_computations_scores_equal_the_released_programs(minilm, features):
    documents = released_scores("atlop", RELEASED, features)
    plain = Baseline(released_model("atlop", minilm, RELEASED), str(minilm))
    for feature, expected in documents:
        with torch.no_grad():
            assert (plain([feature]) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_half_precision_scores_are_close_to_the_released_programs_and_not_rounded(
    backbone, precision, minilm, features
):
    documents = released_scores(backbone, RELEASED, features)
    assert len(documents) == 7
    model = released_model(backbone, minilm, RELEASED)
    differences, unrounded = half_precision(model, documents, precision)
    assert (differences < 0.05).all()
    assert (unrounded > 0.5).all()  # rounded scores would tie with the threshold


@pytest.mark.parametrize("pairs", [30, 32, 33, 129])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_scores_of_real_documents_do_not_depend_on_batch_mates(
    seven, minilm, minilm_tokenizer, rel2id, pairs, precision
):
    features = featurize(load_documents(seven), minilm_tokenizer, rel2id)
    features.append(features[0])
    alone = features[3]
    alone["hts"], alone["labels"] = alone["hts"][:pairs], np.asarray(alone["labels"])[:pairs]
    model = released_model("atlop", minilm, RELEASED)
    before = sum(len(feature["hts"]) for feature in features[:3])
    single = score(model, [alone], precision)
    batched = score(model, features, precision)[before : before + pairs]
    assert single.shape == (pairs, 97)
    assert (single - batched).abs().max() < (1e-5 if precision == "fp32" else 0.03 * single.abs().max())


@pytest.fixture(scope="module")
def official():
    """(gold, training documents) of the released programs' evaluation."""
    return [load_documents(REDOCRED / name) for name in OFFICIAL]


def test_every_figure_equals_the_official_evaluator(official):
    expected = read(RELEASED / "evaluation" / "expected.json")
    scores = official_evaluate(read(RELEASED / "evaluation" / "predictions.json"), *official)
    assert {name: scores[name] for name in expected} == pytest.approx(expected, abs=1e-9)


def test_the_plain_figures_equal_the_official_evaluator():
    """So those of tests/data are what it would give; macro F1 is not among its figures."""
    expected = read(RELEASED / "evaluation" / "expected.json")
    plain = plain_scores(read(RELEASED / "evaluation" / "predictions.json"), *(REDOCRED / name for name in OFFICIAL))
    assert plain.keys() - expected.keys() == {"macro_f1"}
    plain.pop("macro_f1")
    assert plain == pytest.approx({name: expected[name] for name in plain}, abs=1e-9)


def test_gold_as_predictions_scores_one_and_no_predictions_zero(official):
    scores = official_evaluate(as_predictions(official[0]), *official)
    for name in ("precision", "recall", "f1", "macro_f1", "f1_freq", "f1_long_tail", "f1_intra", "f1_inter"):
        assert scores[name] == 1, name
    assert scores["ign_f1"] == pytest.approx(1) and scores["macro_ign_f1"] < 1  # some relations are all in train
    assert 0.999 < scores["evidence_f1"] < 1  # the official total of gold sentences starts at 1
    assert set(official_evaluate([], *official).values()) == {0}


@pytest.mark.parametrize("name", ["losses.safetensors", "losses.json"])
def test_the_stored_losses_are_the_released_programs_own(name):
    assert (DATA / name).read_bytes() == (RELEASED / name).read_bytes()


def test_tables_5_and_6_equal_the_papers_where_the_data_is_the_papers(capsys):
    files = [REDOCRED / name for name in OFFICIAL]
    rows = json.loads(printed(capsys, "--table", 6, *files, "--format", "json"))["rows"]
    for row in rows:
        for key in ("documents", "entities", "triples", "sentences"):
            assert round(row[key]["mean"], 1) == row[key]["paper"], (row["name"], key)
    *own, together = json.loads(printed(capsys, "--table", 5, *files, "--format", "json"))["rows"]
    assert [row["name"] for row in own] == ["dev_revised.json", "test_revised.json"]
    assert together["pairs"]["mean"] == pytest.approx((193232 + 198670) / 1000)


@pytest.mark.slow
@pytest.mark.parametrize("name", OFFICIAL)
def test_all_of_redocred_is_predicted_as_evaluation_does(trained, tmp_path, name):
    opened = open_run(trained, CPU)
    features = read_docred(REDOCRED / name, opened.tokenizer, opened.rel2id)
    loss, relations = get_loss(read_settings(trained)["loss_type"]), {i: r for r, i in opened.rel2id.items()}
    budget = opened.settings.test_batch_size * 512
    expected = inference.predict(opened.model, features, loss, relations, CPU, "fp32", 4, budget).entries
    found = predict_file(trained, read(REDOCRED / name), tmp_path)
    assert len(found) > 500 and [{field: entry[field] for field in FIELDS[:4]} for entry in found] == expected


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_files_are_known_by_their_checksums(name):
    assert fetch.has_checksum(REDOCRED / name, fetch.CHECKSUMS[name])


def test_the_small_study_takes_official_documents_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(make_documents_400, "ROOT", tmp_path)
    monkeypatch.setattr(make_documents_400.sys, "argv", ["make_documents_400.py", str(REDOCRED)])
    make_documents_400.main()
    official = read(REDOCRED / "dev_revised.json")
    small = {path.stem: read(path) for path in (tmp_path / "dataset/documents_400").iterdir()}
    assert small["train"] == official[:400] and small["dev"] == official[400:]
    assert small["test"] == read(REDOCRED / "test_revised.json")
