"""Confidence, learned types and the shift of the threshold: fitted at a training's end, and what the programs do."""

import copy
import dataclasses
import json
import math

import numpy as np
import publish
import pytest
import torch
from scipy.special import expit

import report
from hingeabl.core.losses import get_loss
from hingeabl.data.relations import load_rel2id
from hingeabl.errors import UserError
from hingeabl.prediction.predictor import Predictor
from hingeabl.reporting.publishing import shift_threshold
from hingeabl.training.fitted import (
    CONFIDENCE,
    TYPES,
    Confidence,
    best_shift,
    calibration_error,
    fit_confidence,
    gold_triples,
    joins_learned_types,
    learned_types,
    predicted_triples,
    read_confidence,
    read_types,
    types_help,
)
from predict import main

CITY = {"vertexSet": [[{"type": "PER"}], [{"type": "LOC"}, {"type": "ORG"}], [{}]]}


@pytest.fixture(scope="module")
def documents(sample):
    return json.loads((sample / "test.json").read_text())


def margins_and_rights(count=20_000, slope=0.7, intercept=-1.5):
    draw = np.random.default_rng(1)
    margins = draw.exponential(2.5, count)
    return margins, draw.random(count) < expit(slope * margins + intercept)


def test_the_fit_finds_the_curve_that_the_outcomes_were_drawn_from():
    found = fit_confidence(*margins_and_rights())
    assert found.slope == pytest.approx(0.7, abs=0.03) and found.intercept == pytest.approx(-1.5, abs=0.06)


def test_a_fit_is_finite_where_all_predictions_are_right_or_wrong():
    for right in (True, False):
        found = fit_confidence(np.array([0.5, 1.0, 4.0]), np.full(3, right))
        assert found.of(1.0) == pytest.approx(0.8 if right else 0.2, abs=0.01)  # (3 + 1) / (3 + 2), and 1 / (3 + 2)


def test_the_calibration_error_is_small_for_the_fit_and_large_for_another_curve():
    margins, right = margins_and_rights()
    found = fit_confidence(margins, right)
    fitted = np.array([found.of(margin) for margin in margins])
    assert calibration_error(fitted, right) < 0.015
    assert calibration_error(np.full(4, 0.95), np.array([True, False, True, False])) == pytest.approx(0.45)
    assert calibration_error(np.array([0.0, 1.0]), np.array([False, True])) == 0


def test_confidence_grows_with_the_margin_and_stays_a_probability():
    values = [Confidence(0.7, -1.5).of(margin) for margin in (-5000.0, 0.0, 1.0, 5000.0)]
    assert values == sorted(values) and values[0] == 0 and values[-1] == 1 and values[1] == pytest.approx(expit(-1.5))


def test_predicted_triples_are_those_of_the_loss_with_their_margins():
    scores = torch.tensor([[0.0, 2.0, -1.0], [1.0, 0.5, 0.25], [-1.0, 0.0, 3.0]])
    pairs = {
        "document": torch.tensor([0, 0, 4], dtype=torch.int32),
        "entities": torch.tensor([[0, 1], [1, 0], [2, 5]], dtype=torch.int32),
        "scores": scores,
    }
    triples, margins = predicted_triples(pairs, get_loss("atl"), 4)
    assert triples == [(0, 0, 1, 1), (4, 2, 5, 1), (4, 2, 5, 2)] and margins.tolist() == [2.0, 1.0, 4.0]
    shifted, margins = predicted_triples(pairs, dataclasses.replace(get_loss("atl"), shift=1.5), 4)
    assert shifted == [(0, 0, 1, 1), (4, 2, 5, 2)] and margins.tolist() == [0.5, 2.5]


def test_types_are_those_of_labelled_pairs_and_unknown_ones_are_kept():
    types = learned_types([{**CITY, "labels": [{"h": 0, "t": 1, "r": "P19"}]}])
    assert types == {"P19": {("PER", "LOC"), ("PER", "ORG")}}
    assert joins_learned_types(types, CITY, {"h_idx": 0, "t_idx": 1, "r": "P19"})
    assert not joins_learned_types(types, CITY, {"h_idx": 1, "t_idx": 0, "r": "P19"})
    odd = copy.deepcopy(CITY)
    for entity, kind in zip(odd["vertexSet"], (None, ["LOC"]), strict=False):
        entity[0]["type"] = kind
    assert learned_types([{**odd, "labels": [{"h": 0, "t": 1, "r": "P19"}]}]) == {"P19": set()}
    assert not joins_learned_types(types, CITY, {"h_idx": 0, "t_idx": 1, "r": "P20"})
    assert joins_learned_types(types, CITY, {"h_idx": 0, "t_idx": 2, "r": "P20"})  # nobody knows the second's type
    other = {"vertexSet": [[{"type": "person"}], [{"type": "LOC"}]]}  # another corpus's names
    assert joins_learned_types(types, other, {"h_idx": 0, "t_idx": 1, "r": "P20"})


def test_a_training_writes_both_and_the_confidence_is_that_of_its_dev_predictions(trained, sample):
    found = json.loads((trained / CONFIDENCE).read_text())
    predictions = json.loads((trained / "result_dev.json").read_text())
    gold = gold_triples(json.loads((sample / "dev.json").read_text()), load_rel2id())
    of_title = {own["title"]: number for number, own in enumerate(json.loads((sample / "dev.json").read_text()))}
    names = load_rel2id()
    right = [(of_title[e["title"]], e["h_idx"], e["t_idx"], names[e["r"]]) in gold for e in predictions]
    assert found["predictions"] == len(predictions) and found["right"] == sum(right) > 0
    types = read_types(trained)
    assert types == learned_types(json.loads((sample / "train.json").read_text()))


def test_the_error_on_test_the_table_and_the_card_are_those_of_its_test_predictions(trained, sample, capsys, tmp_path):
    predictor, documents = (
        Predictor.from_run(trained, "cpu", types="any"),
        json.loads((sample / "test.json").read_text()),
    )
    unlabelled = [{name: own[name] for name in ("title", "sents", "vertexSet")} for own in documents]
    gold, of_title = gold_triples(documents, load_rel2id()), {own["title"]: n for n, own in enumerate(documents)}
    names, entries = load_rel2id(), predictor.predict(unlabelled).entries
    right = np.array([(of_title[e["title"]], e["h_idx"], e["t_idx"], names[e["r"]]) in gold for e in entries])
    expected = calibration_error(np.array([entry["confidence"] for entry in entries]), right)
    stored = json.loads((trained / CONFIDENCE).read_text())
    assert stored["test_ece"] == pytest.approx(expected, abs=1e-6) and 0 < expected < 1

    report.main(["--table", "shift", "--format", "json", str(trained)])
    [row] = json.loads(capsys.readouterr().out)["rows"]
    kept = right[[entry["margin"] > stored["best_shift"] for entry in entries]]
    assert row["f1_shifted"]["mean"] == pytest.approx(200 * kept.sum() / (len(kept) + len(gold)))
    assert row["precision_shifted"]["mean"] == pytest.approx(100 * kept.sum() / len(kept))
    assert row["recall_shifted"]["mean"] == pytest.approx(100 * kept.sum() / len(gold))
    assert row["ece"]["mean"] == pytest.approx(expected, abs=1e-6)
    publish.main([str(trained), "--folder", str(tmp_path / "out"), "--compress", "--scored", str(trained)])
    assert f"error on test, 10 bins: {expected:.3f}." in (tmp_path / "out/README.md").read_text()

    report.main(["--record", str(tmp_path / "records"), str(trained)])
    report.main(["--figure", "reliability", "--output", str(tmp_path), str(tmp_path / "records")])
    [record] = (tmp_path / "records").rglob("seed_*.json")
    bins = json.loads(record.read_text())["calibration"]["bins"]
    assert sum(count for count, _, _ in bins) == len(right) and sum(good for _, _, good in bins) == right.sum()
    assert (tmp_path / "figure_reliability.png").exists()


def test_min_confidence_keeps_those_that_have_it_and_no_others(trained, documents):
    everything = Predictor.from_run(trained, "cpu", types="any").predict(documents).entries
    least = sorted(entry["confidence"] for entry in everything)[len(everything) // 2]
    kept = Predictor.from_run(trained, "cpu", types="any", min_confidence=least).predict(documents).entries
    assert kept == [entry for entry in everything if entry["confidence"] >= least] and len(kept) < len(everything)
    curve = read_confidence(trained)
    assert all(entry["confidence"] == curve.of(entry["margin"]) for entry in everything)


def test_learned_types_drop_only_predictions_of_types_never_seen(trained, documents):
    everything = Predictor.from_run(trained, "cpu", types="any").predict(documents).entries
    kept = Predictor.from_run(trained, "cpu", types="learned").predict(documents).entries
    types, of_title = read_types(trained), {document["title"]: document for document in documents}
    assert kept == [entry for entry in everything if joins_learned_types(types, of_title[entry["title"]], entry)]


def test_a_shift_moves_the_threshold_and_leaves_the_confidence(trained, documents):
    everything = Predictor.from_run(trained, "cpu", types="any").predict(documents).entries
    shift = sorted(entry["margin"] for entry in everything)[len(everything) // 2]
    kept = Predictor.from_run(trained, "cpu", types="any", shift=shift).predict(documents).entries
    same = [entry for entry in everything if entry["margin"] > shift]
    assert 0 < len(kept) == len(same) < len(everything)
    for entry, old in zip(kept, same, strict=True):
        assert entry["margin"] == pytest.approx(old["margin"] - shift, abs=1e-5)
        assert entry["confidence"] == pytest.approx(old["confidence"], abs=1e-5)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"min_confidence": 1.5}, "min_confidence 1.5: must be from 0 to 1"),
        ({"types": "some"}, "types 'some': is neither 'learned' nor 'any'"),
        ({"shift": math.nan}, "shift nan: must be a finite number"),
    ],
)
def test_choices_that_are_none_are_refused(trained, choices, message):
    with pytest.raises(UserError, match=message):
        Predictor.from_run(trained, "cpu", **choices)


def test_broken_and_missing_files_are_told(trained, tmp_path):
    run = tmp_path / "seed_1"
    run.mkdir()
    for path in trained.iterdir():
        if path.name not in (CONFIDENCE, TYPES):
            (run / path.name).symlink_to(path)
    assert Predictor.from_run(run, "cpu").confidence is None
    for choices, name in (({"min_confidence": 0.5}, CONFIDENCE), ({"types": "learned"}, TYPES)):
        with pytest.raises(UserError, match=f"has no {name}"):
            Predictor.from_run(run, "cpu", **choices)
    (run / CONFIDENCE).write_text('{"slope": "steep"}')
    with pytest.raises(UserError, match=f"{CONFIDENCE}: holds no slope and intercept"):
        Predictor.from_run(run, "cpu")
    (run / CONFIDENCE).unlink()
    (run / TYPES).write_text('{"types": {"P17": [["LOC"]]}}')
    assert not types_help(run)
    with pytest.raises(UserError, match=f"{TYPES}: holds no types of relations"):
        Predictor.from_run(run, "cpu")


@pytest.mark.parametrize("name", ["atl", "balanced_softmax"])
def test_a_published_shift_moves_every_margin_by_as_much_and_predicts_what_the_option_does(name):
    weights = {"bilinear.bias": torch.zeros(9)}
    shift_threshold(weights, get_loss(name), 0.5)
    loss, scores = get_loss(name), 2 * torch.randn(500, 9, generator=torch.Generator().manual_seed(1))
    before = scores[:, 1:] - loss.threshold(scores)[:, None]
    after = scores + weights["bilinear.bias"]
    assert (after[:, 1:] - loss.threshold(after)[:, None]).allclose(before - 0.5, atol=1e-5)
    for count in (1, 4):
        with_option = dataclasses.replace(loss, shift=0.5).predict(scores, count)
        assert loss.predict(after, count).equal(with_option) and not loss.predict(scores, count).equal(with_option)


def test_a_shift_is_refused_where_there_are_several_thresholds_and_the_best_one_is_found():
    with pytest.raises(UserError, match="--shift: the loss amtl has no threshold for all relations"):
        shift_threshold({"bilinear.bias": torch.zeros(5)}, get_loss("amtl", priors=[0.1] * 4), 1.0)
    shift, f1 = best_shift(np.array([5.0, 0.5, 3.0, 1.0]), np.array([True, False, True, False]), 2)
    assert (shift, f1) == (2.0, 1.0)
    assert best_shift(np.array([1.0, 2.0]), np.array([True, True]), 3) == (0.0, pytest.approx(0.8))
    assert best_shift(np.array([3.0, 1.0, 1.0]), np.array([True, True, False]), 2) == (0.0, pytest.approx(0.8))


def test_predict_py_and_its_page_leave_out_what_is_not_wanted(trained, sample, tmp_path):
    output, page = tmp_path / "found.json", tmp_path / "page.html"
    arguments = ["--load_path", str(trained), "--input", str(sample / "test.json"), "--output", str(output)]
    main([*arguments, "--min_confidence", "1", "--html", str(page)])
    assert json.loads(output.read_text()) == [] and page.exists()
