"""The evaluator against stored figures, and the figures that no released program has."""

import itertools
import json
import re
import statistics

import pytest
import torch
from baseline import plain_scores
from conftest import ROOT
from mistaken_files import run_program
from model_scores import DATA

import evaluation
from evaluation import (
    PERCENTILES,
    check_predictions,
    official_evaluate,
    prediction_patterns,
    threshold_diagnostics,
    train_facts,
)
from hingeabl.errors import UserError
from hingeabl.readers.documents import load_documents


@pytest.fixture(scope="module")
def stored():
    """(predictions, gold, training documents, stored figures) of the documents of tests/data."""
    content = json.loads((DATA / "evaluation.json").read_text())
    gold = load_documents(DATA / "sample_documents.json")
    train = [document for document in gold if document["title"] in content["train"]]
    return content["predictions"], gold, train, content["expected"]


def as_predictions(gold):
    """The gold triples with their evidence."""
    return [
        {"title": d["title"], "h_idx": x["h"], "t_idx": x["t"], "r": x["r"], "evidence": x["evidence"]}
        for d in gold
        for x in d["labels"]
    ]


def test_every_figure_equals_the_stored_one(stored):
    predictions, gold, train, expected = stored
    scores = official_evaluate(predictions, gold, train)
    assert {name: scores[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    assert len(expected) == 10 and all(0.1 < value < 0.9 for value in expected.values())


def test_ign_f1_ignores_a_file_of_facts_as_it_does_a_training_file(stored, tmp_path, monkeypatch):
    predictions, gold, train, expected = stored
    contents = {"p": predictions, "gold": gold, "train": train, "facts": sorted(map(list, train_facts(train)))}
    contents |= {"one": contents["facts"][:1], "no": {}, "two": [["a", "b"]]}
    paths = {name: tmp_path / f"{name}.json" for name in contents}
    for name, content in contents.items():
        paths[name].write_text(json.dumps(content))

    def ign_f1(*options):
        files = ["--predictions", paths["p"], "--gold", paths["gold"], "--json", tmp_path / "out.json"]
        run_program(monkeypatch, evaluation, *files, *options)
        return json.loads((tmp_path / "out.json").read_text())["ign_f1"]

    of_train = ign_f1("--train", paths["train"])
    assert of_train == pytest.approx(expected["ign_f1"]) and ign_f1("--train_facts", paths["facts"]) == of_train
    assert ign_f1("--train_facts", paths["one"]) > of_train
    assert ign_f1("--train", paths["train"], "--train_facts", paths["one"]) == of_train
    for name, told in (("no", "is no list of facts"), ("two", "fact 0: is not")):
        with pytest.raises(UserError, match=told):
            ign_f1("--train_facts", paths[name])


def test_gold_as_predictions_scores_one(stored):
    _, gold, train, _ = stored
    scores = official_evaluate(as_predictions(gold), gold, train)
    for name in ("precision", "recall", "f1", "macro_f1", "f1_freq", "f1_long_tail", "f1_intra", "f1_inter"):
        assert scores[name] == 1, name
    assert scores["ign_f1"] == pytest.approx(1) and scores["macro_ign_f1"] < 1  # some relations are all in train
    assert 0.99 < scores["evidence_f1"] < 1  # the official total of gold sentences starts at 1


def test_the_frequent_relations_are_the_ten_of_the_official_evaluator():
    page = (ROOT / "docs/metrics.md").read_text().split("- **freq**: ")[1].split(" (P")[0]
    assert set(re.findall(r"P\d+", page)) == evaluation.FREQUENT and len(evaluation.FREQUENT) == 10
    triples = [{"title": "A", "h_idx": 0, "t_idx": 1, "r": relation} for relation in ("P150", "P19")]
    labels = [{"h": 0, "t": 1, "r": "P150", "evidence": []}]
    documents = [{"title": "A", "sents": [["x"]], "vertexSet": [entity("a", 0), entity("b", 0)], "labels": labels}]
    scores = official_evaluate(triples, documents, [])
    assert scores["f1_freq"] == 1 and scores["f1_long_tail"] == 0


def test_no_predictions_score_zero(stored):
    _, gold, train, _ = stored
    assert set(official_evaluate([], gold, train).values()) == {0}


def entity(name, *sentences):
    return [{"name": name, "sent_id": sentence, "pos": [0, 1]} for sentence in sentences]


GOLD = [
    {
        "title": "A",
        "sents": [["x"], ["y"], ["z"]],
        "vertexSet": [entity("Anna", 0, 1), entity("Kirona", 1), entity("Kenya", 2)],
        "labels": [
            {"h": 0, "t": 1, "r": "P19", "evidence": [0, 1]},
            {"h": 1, "t": 2, "r": "P17", "evidence": [2]},
            {"h": 0, "t": 2, "r": "P27", "evidence": []},
        ],
    }
]
TRAIN = [{**GOLD[0], "title": "T", "labels": [{"h": 1, "t": 2, "r": "P17", "evidence": []}]}]


def prediction(h, t, r, title="A", **more):
    return {"title": title, "h_idx": h, "t_idx": t, "r": r, **more}


def test_scores_of_a_worked_example():
    """The example of docs/metrics.md: two of four predictions right, one of them known from the training file."""
    predictions = [
        prediction(0, 1, "P19", evidence=[0, 2]),
        prediction(1, 2, "P17", evidence=[2]),
        prediction(0, 1, "P20"),
        prediction(0, 1, "P19", title="Z"),
        prediction(1, 2, "P17"),  # again: counts once
    ]
    scores = official_evaluate(predictions, GOLD, TRAIN)
    assert scores["precision"] == 2 / 4 and scores["recall"] == 2 / 3
    assert scores["f1"] == pytest.approx(4 / 7)
    ign_precision = 1 / (3 + 1e-5)
    assert scores["ign_f1"] == pytest.approx(2 * ign_precision * (2 / 3) / (ign_precision + 2 / 3))
    assert scores["evidence_f1"] == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))
    # frequent: P17 right, P27 missed; long tail: P19 right, P20 wrong; the unknown title is in neither
    assert (scores["precision_freq"], scores["recall_freq"]) == (1, 1 / 2)
    assert (scores["precision_long_tail"], scores["recall_long_tail"]) == (1 / 2, 1)
    # Anna and Kirona share sentence 1
    assert (scores["precision_intra"], scores["recall_intra"]) == (1 / 2, 1)
    assert (scores["precision_inter"], scores["recall_inter"]) == (1, 1 / 2)
    # P19: 1 of 2 predicted, 1 of 1 found; P17: 1 of 1, but known from training; P27: nothing
    p19_ign = 1 / (2 + 1e-5)
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert scores["macro_ign_f1"] == pytest.approx((2 * p19_ign / (p19_ign + 1) + 0 + 0) / 3)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        (prediction(0, "1", "P19"), r"entry 0 \('A'\): t_idx: '1' is not an entity's number"),
        (prediction(-1, 1, "P19", title="Z"), "h_idx: -1 is not an entity's number"),
        ({"title": "A", "h_idx": 0, "t_idx": 1}, "entry 0: needs title and r"),
        (prediction(0, 1, "P19", evidence="0"), "evidence: must list sentence numbers"),
    ],
)
def test_a_bad_prediction_is_named(entry, expected):
    with pytest.raises(UserError, match=expected):
        check_predictions([entry], "result.json")


def count_patterns(scores, labels, threshold):
    """The definition of the patterns, pair by pair."""
    counts = {"correct": 0, "FP": 0, "FN_CRK": 0, "FN_IRK": 0}
    for row, gold_row, limit in zip(scores.tolist(), labels.tolist(), threshold.tolist(), strict=True):
        relations = range(1, len(row))
        gold = {r for r in relations if gold_row[r]}
        predicted = {r for r in relations if row[r] > limit}
        if predicted == gold:
            counts["correct"] += 1
        elif gold and not predicted:
            ranked = all(row[g] > row[o] for g, o in itertools.product(gold, set(relations) - gold))
            counts["FN_CRK" if ranked else "FN_IRK"] += 1
        else:
            counts["FP"] += 1
    return counts


@pytest.mark.parametrize("rule", ["threshold class", "zero"])
def test_patterns_equal_a_count_by_definition(rule):
    generator = torch.Generator().manual_seed(1)
    scores = torch.randint(-3, 2, (4000, 8), generator=generator).float()  # whole numbers: many ties
    labels = (torch.rand(4000, 8, generator=generator) < 0.2).float()
    labels[::3, 1:] = 0
    threshold = scores[:, 0] if rule == "threshold class" else torch.zeros(4000)
    found = prediction_patterns(scores, labels, threshold if rule == "threshold class" else 0.0)
    assert found == count_patterns(scores, labels, threshold)
    assert min(found.values()) > 0 and sum(found.values()) == 4000


def test_four_gold_relations_in_the_right_ranks_are_crk():
    scores = torch.tensor([[9.0, 5, 6, 7, 8, 1]])
    assert prediction_patterns(scores, torch.tensor([[0, 1, 1, 1, 1, 0]]), scores[:, 0])["FN_CRK"] == 1
    assert prediction_patterns(scores, torch.tensor([[0, 1, 1, 1, 0, 1]]), scores[:, 0])["FN_IRK"] == 1


def threshold_by_definition(scores, labels, threshold):
    """(relative offsets, violations, pairs left out), pair by pair."""
    offsets, violations, left_out = [], 0, 0
    for row, gold_row, limit in zip(scores.tolist(), labels.tolist(), threshold.tolist(), strict=True):
        gold = [row[r] for r in range(1, len(row)) if gold_row[r]]
        others = [row[r] for r in range(1, len(row)) if not gold_row[r]]
        if not gold:
            continue
        if not others or statistics.fmean(gold) == statistics.fmean(others):
            left_out += 1
            continue
        p, n = statistics.fmean(gold), statistics.fmean(others)
        offsets.append((limit - n) / (p - n))
        violations += p < limit or n > limit
    return sorted(offsets), violations, left_out


@pytest.mark.parametrize("rule", ["threshold class", "zero"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_threshold_diagnostics_equal_a_count_by_definition(rule, dtype):
    generator = torch.Generator().manual_seed(2)
    scores = torch.randint(-3, 4, (3000, 6), generator=generator).to(dtype)  # whole numbers: many equal means
    scores[1000:] = torch.randn(2000, 6, generator=generator).to(dtype)
    labels = (torch.rand(3000, 6, generator=generator) < 0.3).float()
    labels[::5, 1:] = 0
    labels[:, 0] = (labels[:, 1:].sum(dim=1) == 0).float()
    labels[1::50, 1:] = 1  # no negatives
    threshold = scores[:, 0] if rule == "threshold class" else torch.zeros(3000)
    found = threshold_diagnostics(scores, labels, threshold)
    offsets, violations, left_out = threshold_by_definition(scores, labels, threshold)
    assert (found["ro_pairs"], found["ro_left_out"]) == (len(offsets), left_out)
    assert left_out > 60 and 0 < violations < len(offsets)
    assert found["ovr"] == pytest.approx(violations / len(offsets), abs=1e-12)
    assert found["ro_mean"] == pytest.approx(statistics.fmean(offsets), rel=1e-9)
    assert found["ro_std"] == pytest.approx(statistics.pstdev(offsets), rel=1e-9)
    for percent in PERCENTILES:  # between the two pairs at the place, in proportion
        place = percent / 100 * (len(offsets) - 1)
        low = offsets[int(place)]
        expected = low + (place - int(place)) * (offsets[int(place) + 1] - low)
        assert found[f"ro_p{percent}"] == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_threshold_diagnostics_of_a_worked_example():
    """Three pairs that count, one of them violated (that of docs/metrics.md), two left out, one unrelated."""
    scores = torch.tensor(
        [[2.0, 5, 1, 0], [3, 2, 0, -1], [1, 4, 2, -3], [0, 1, 2, 3], [0, 2, 2, 2], [0, 9, 1, 1]], dtype=torch.float64
    )
    labels = torch.tensor(
        [[0, 1, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 0], [1, 0, 0, 0]], dtype=torch.float64
    )
    found = threshold_diagnostics(scores, labels, scores[:, 0])
    assert (found["ro_pairs"], found["ro_left_out"]) == (3, 2)
    assert found["ro_p50"] == pytest.approx(2 / 3) and found["ovr"] == pytest.approx(1 / 3)
    assert found["ro_mean"] == pytest.approx((1 / 3 + 1.4 + 2 / 3) / 3)
    assert found["ro_std"] == pytest.approx(statistics.pstdev([1 / 3, 1.4, 2 / 3]))


def test_a_threshold_without_a_place_is_refused():
    labels = torch.tensor([[1.0, 0, 0], [0, 1, 1]])
    with pytest.raises(UserError, match="the threshold has no place"):
        threshold_diagnostics(torch.randn(2, 3), labels, torch.zeros(2))


@pytest.mark.parametrize("unlabelled", ["gold", "train"])
def test_a_file_without_labels_is_not_scored_against(tmp_path, unlabelled, monkeypatch):
    files = {"gold": GOLD, "train": TRAIN, "predictions": [prediction(0, 1, "P19")]}
    files[unlabelled] = [{**files[unlabelled][0], "labels": []}]
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    monkeypatch.setattr("sys.argv", ["evaluation.py", *(f"--{n}={tmp_path}/{n}.json" for n in files)])
    with pytest.raises(UserError, match=rf"{unlabelled}\.json: has no labels"):
        evaluation.main()


def test_scores_equal_the_plain_transcription(sample):
    gold = load_documents(sample / "test.json")
    labels = [{"title": d["title"], "h_idx": x["h"], "t_idx": x["t"], "r": x["r"]} for d in gold for x in d["labels"]]
    predictions = labels[::2] + labels[::4]  # some twice
    predictions += [{**entry, "h_idx": entry["t_idx"], "t_idx": entry["h_idx"]} for entry in labels[::3]]
    predictions += [{**entry, "title": "unknown"} for entry in labels[:5] + labels[:2]]
    predictions += [{**entry, "r": "P0", "evidence": [0, 1]} for entry in labels[:4]]
    predictions += [{**entry, "evidence": [0, 1]} for entry in labels[1:30:2]]
    scores = official_evaluate(predictions, gold, load_documents(sample / "train.json"))
    plain = plain_scores(predictions, sample / "test.json", sample / "train.json")
    assert {name: scores[name] for name in plain} == pytest.approx(plain, abs=1e-12)
    assert 0 < scores["ign_f1"] < scores["f1"] < 1 and scores["evidence_f1"] > 0
