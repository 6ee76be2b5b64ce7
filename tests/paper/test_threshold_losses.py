"""Losses that know each relation's rate in training, and have several threshold outputs: AMTL and pn_risk."""

import dataclasses
import itertools
import json
import os
import shutil
from pathlib import Path

import distill
import pytest
import torch
from model_scores import loss_with_priors, with_thresholds
from reports import printed
from safetensors.torch import load_file
from trainings import arguments

import losses
import predict
import report
import train
from evaluation import PATTERNS, pattern_of_each, threshold_diagnostics
from hingeabl.data.relations import load_rel2id
from hingeabl.data.statistics import relation_rates
from hingeabl.errors import UserError
from hingeabl.prediction.predictor import Predictor
from hingeabl.readers.documents import load_documents
from hingeabl.reporting.names import loss_title
from hingeabl.training.inference import margins
from losses import amtl, atl, frequency_groups, get_loss, pn_risk

FIXTURES = Path(os.environ.get("FIXTURES_DIR", "?"))
real = pytest.mark.skipif(not FIXTURES.is_dir(), reason="FIXTURES_DIR names no folder")
LOSSES = ("amtl", "pn_risk")


@pytest.fixture(scope="module")
def formulas():
    """The authors' formulas on random scores: tensors, and values."""
    return load_file(FIXTURES / "threshold_losses.safetensors"), json.loads(
        (FIXTURES / "threshold_losses.json").read_text()
    )


def case(relations=96, pairs=40, seed=3):
    """Scores with four thresholds, labels, and rates in training, float64."""
    chance = torch.Generator().manual_seed(seed)
    scores = 4 * torch.randn(pairs, relations + 4, generator=chance, dtype=torch.float64)
    labels = (torch.rand(pairs, relations + 1, generator=chance) < 0.05).double()
    labels[:, 0] = (labels[:, 1:].sum(1) == 0).double()
    return scores, labels, torch.rand(relations, generator=chance, dtype=torch.float64) / 20


@real
def test_amtl_equals_its_authors_formula_and_decisions(formulas):
    """There the relations are ordered by group, a threshold before each."""
    tensors, values = formulas
    thresholds = [start for start, _ in values["amtl_groups"]]
    relations = [column for column in range(100) if column not in thresholds]
    order = [0, *relations, *thresholds[1:]]
    loss = get_loss("amtl", priors=torch.linspace(0.9, 0.1, 96).tolist())
    assert loss.parameters["scale"] == values["amtl_lambda"]
    scores = tensors["amtl_scores"][:, order].clone().requires_grad_()
    value = loss(scores, tensors["amtl_labels"][:, [0, *relations]])
    value.backward()
    assert value.item() == pytest.approx(values["amtl"], rel=1e-9)
    torch.testing.assert_close(scores.grad, tensors["amtl_grad"][:, order], rtol=1e-9, atol=1e-12)
    assert torch.equal(loss.predict(scores.detach())[:, 1:], tensors["amtl_predicted"][:, relations])


@real
def test_pn_risk_equals_its_authors_formula(formulas):
    tensors, values = formulas
    scores = tensors["pn_scores"].clone().requires_grad_()
    loss = get_loss("pn_risk", priors=tensors["pn_priors"].tolist())
    value = loss(scores, tensors["pn_labels"])
    value.backward()
    assert loss.parameters["margin"] == values["pn_margin"]
    assert value.item() == pytest.approx(values["pn"], rel=1e-9)
    torch.testing.assert_close(scores.grad, tensors["pn_grad"], rtol=1e-9, atol=1e-12)


def test_pn_risk_equals_its_definition_relation_by_relation():
    scores, labels, priors = case()
    labels[:, 5], labels[:, 6] = 0, 1  # no positive, no negative
    expected = 0.0
    for r in range(1, 97):
        pi = priors[r - 1].item()
        a = (scores[:, r] - scores[:, 0]).tolist()
        positive = [x for x, y in zip(a, labels[:, r].tolist(), strict=True) if y]
        negative = [x for x, y in zip(a, labels[:, r].tolist(), strict=True) if not y]
        if negative:
            expected += (1 - pi) * sum((0.25 + x) ** 2 / 4 for x in negative) / len(negative)
        if positive:
            weight = pi * ((1 - pi) / pi) ** 0.5
            expected += weight * sum((x - 0.25) ** 2 / 4 for x in positive) / len(positive)
    assert pn_risk(scores[:, :97], labels, priors).item() == pytest.approx(expected, rel=1e-9)


def test_pn_risk_decides_without_a_cap_and_a_relation_that_training_lacks_has_a_finite_gradient():
    scores = torch.tensor([[0.0, 5, 4, 3, 2, 1, -1]], requires_grad=True)
    loss = get_loss("pn_risk", priors=[0.0, 0.5, 0.5, 0.5, 0.5, 0.5])
    loss(scores, torch.tensor([[0.0, 1, 1, 0, 0, 0, 0]])).backward()
    assert scores.grad.isfinite().all()
    assert loss.predict(scores.detach(), 4).tolist() == [[0, 1, 1, 1, 1, 1, 0]]
    assert get_loss("atl").predict(scores.detach(), 4).tolist() == [[0, 1, 1, 1, 1, 0, 0]]


@pytest.mark.parametrize(("relations", "sizes"), [(96, (10, 20, 46, 20)), (48, (5, 10, 23, 10)), (1, (0, 0, 1, 0))])
def test_relations_fall_into_groups_by_their_frequency(relations, sizes):
    priors = torch.rand(relations, dtype=torch.float64)
    groups = frequency_groups(priors)
    assert tuple(map(len, groups)) == sizes
    assert sorted(torch.cat(groups).tolist()) == list(range(1, relations + 1))
    for group, next_one in itertools.pairwise(groups):
        if len(group) and len(next_one):
            assert priors[group - 1].min() >= priors[next_one - 1].max()


def test_equally_frequent_relations_are_grouped_by_class():
    assert [group.tolist()[:2] for group in frequency_groups(torch.full((96,), 0.1))] == [
        [1, 2],
        [11, 12],
        [31, 32],
        [77, 78],
    ]


def test_amtls_thresholds_get_one_gradient_so_they_differ_by_their_start_alone():
    scores, labels, priors = case()
    scores.requires_grad_()
    amtl(scores, labels, priors).sum().backward()
    gradient = scores.grad[:, [0, 97, 98, 99]]
    assert gradient.abs().min() > 0
    torch.testing.assert_close(gradient, gradient[:, :1].expand(-1, 4))


def test_amtl_trains_one_threshold_and_decides_against_others():
    """T is the sum of the four divided by 3.5: equal outputs t give T = 4 t / 3.5, yet decisions are against t."""
    priors = [0.1] * 96
    scores = torch.full((1, 100), -9.0)
    scores[:, [0, 97, 98, 99]] = 7.0
    scores[0, 5] = 7.5  # between t = 7 and T = 8
    loss = get_loss("amtl", priors=priors)
    assert loss.predict(scores)[0].nonzero().flatten().tolist() == [5]
    one = torch.cat([torch.full((1, 1), 8.0), scores[:, 1:97]], dim=1)
    assert get_loss("atl").predict(one)[0].nonzero().flatten().tolist() == [0]
    labels = torch.eye(97)[[5]]
    groups = frequency_groups(torch.tensor(priors))
    expected = [
        atl(torch.cat([one[:, :1], one[:, g]], 1), torch.cat([0 * one[:, :1], labels[:, g]], 1)) for g in groups
    ]
    torch.testing.assert_close(loss(scores, labels), torch.cat(expected).mean())


def test_each_group_has_its_own_cap():
    loss = get_loss("amtl", priors=torch.linspace(0.9, 0.1, 96).tolist())
    scores = torch.zeros(1, 100)
    scores[0, 1:8] = torch.arange(7.0, 0.0, -1)  # of the first group
    scores[0, 40:43] = 1.0  # of the third
    assert loss.predict(scores, 4)[0].nonzero().flatten().tolist() == [1, 2, 3, 4, 40, 41, 42]


@pytest.mark.parametrize("shift", [0.0, 1.0, -1.0])
def test_a_shift_moves_amtls_thresholds_and_what_it_predicts(shift):
    scores, _, priors = case()
    loss = dataclasses.replace(get_loss("amtl", priors=priors.tolist()), shift=shift)
    predicted = loss.predict(scores, 200)[:, 1:] > 0  # without a cap: all above t_k + shift
    own = torch.empty_like(predicted, dtype=torch.double)
    for column, group in zip((0, 97, 98, 99), frequency_groups(priors), strict=True):
        own[:, group - 1] = scores[:, [column]]
    assert torch.equal(predicted, scores[:, 1:97] > own + shift) and predicted.any()
    assert (loss.predict(scores)[:, 1:] > 0).sum() < predicted.sum()


def test_patterns_and_offsets_ask_for_each_relations_own_threshold():
    scores, labels, priors = case()
    loss = get_loss("amtl", priors=priors.tolist())
    threshold = loss.threshold(scores)
    own = {r: column for column, g in zip((0, 97, 98, 99), frequency_groups(priors), strict=True) for r in g.tolist()}
    found, limit = loss.with_one_threshold(scores)
    patterns = pattern_of_each(found, labels, limit)
    offsets = []
    for s, t, y, pattern in zip(scores, threshold, labels, patterns.tolist(), strict=True):
        margins = {r: (s[r] - s[own[r]]).item() for r in range(1, 97)}
        assert t.tolist() == [s[own[r]].item() for r in range(1, 97)]
        gold, predicted = {r for r in margins if y[r]}, {r for r in margins if margins[r] > 0}
        others = [margins[r] for r in margins if r not in gold]
        if predicted == gold:
            expected = "correct"
        elif gold and not predicted:
            expected = "FN_CRK" if min(margins[r] for r in gold) > max(others) else "FN_IRK"
        else:
            expected = "FP"
        assert PATTERNS[pattern] == expected
        if gold:
            p, n = sum(margins[r] for r in gold) / len(gold), sum(others) / len(others)
            offsets.append(-n / (p - n))
    found = threshold_diagnostics(found, labels, limit)
    assert found["ro_pairs"] == len(offsets) and found["ro_mean"] == pytest.approx(sum(offsets) / len(offsets))


def test_a_predictions_threshold_is_that_of_its_relations_group():
    scores, _, priors = case()
    loss = get_loss("amtl", priors=priors.tolist())
    chosen = loss.predict(scores)[:, 1:].nonzero()
    own = {r: column for column, g in zip((0, 97, 98, 99), frequency_groups(priors), strict=True) for r in g.tolist()}
    found = margins(scores, loss.threshold(scores), chosen)
    assert len({own[column + 1] for column in chosen[:, 1].tolist()}) == 4
    for (row, column), entry in zip(chosen.tolist(), found, strict=True):
        assert entry["threshold"] == scores[row, own[column + 1]] < entry["score"] == scores[row, column + 1]


def test_one_threshold_is_taken_as_it_is():
    scores, *_ = case()
    for name in ("atl", "balanced_softmax", "pn_risk"):
        loss = loss_with_priors(name)
        found, threshold = loss.with_one_threshold(scores[:, :97])
        assert torch.equal(found, scores[:, :97]) and threshold.equal(loss.threshold(scores[:, :97]))


def test_a_loss_may_have_several_thresholds_without_rates_and_the_common_rules(monkeypatch):
    """Two thresholds, for odd and even classes; the default rule takes the highest of all margins."""

    def of_parity(scores):
        classes = scores.shape[1] - 1
        return torch.stack([scores[:, 0], scores[:, -1]], dim=1).repeat(1, classes)[:, : classes - 1]

    for decide, expected in ((losses.among_highest, [1, 3]), (losses.above_threshold, [1, 2, 3])):
        kind = losses.LossDefinition(lambda scores, labels: scores.sum(dim=1), of_parity, decide, 2)
        loss = losses.Loss("two", kind)
        scores = torch.tensor([[0.0, 3, 9, 4, -1, 8]])  # margins 3, 1, 4, -9
        assert loss.outputs(5) == 6 and loss.threshold(scores).tolist() == [[0, 8, 0, 8]]
        found = loss.predict(scores, 2)
        assert found.shape == (1, 5) and found[0].nonzero().flatten().tolist() == expected


def test_a_loss_without_the_rates_that_it_needs_says_so():
    scores = with_thresholds(torch.zeros(2, 97), get_loss("amtl"))
    with pytest.raises(UserError, match="the loss amtl needs each relation's rate in training"):
        get_loss("amtl")(scores, torch.zeros(2, 97))


@pytest.fixture(scope="module", params=LOSSES)
def run(request, sample, tiny_bert, tmp_path_factory):
    """A finished seed's folder, trained with one of the losses."""
    output = tmp_path_factory.mktemp("runs") / f"bert_{request.param}"
    train.main(arguments(sample, tiny_bert, output, "--seeds", "7", "--loss_type", request.param))
    return output / "seed_7"


def test_a_run_keeps_the_rates_of_its_training_file(run, sample):
    rel2id = load_rel2id()
    documents = load_documents(sample / "train.json")
    rates = json.loads((run / "config.json").read_text())["priors"]
    assert rates == relation_rates(documents, rel2id) and sum(rate > 0 for rate in rates) > 3
    pairs = sum(len(document["vertexSet"]) * (len(document["vertexSet"]) - 1) for document in documents)
    stated = {
        (n, d["h"], d["t"]) for n, document in enumerate(documents) for d in document["labels"] if d["r"] == "P17"
    }
    assert rates[rel2id["P17"] - 1] == pytest.approx(len(stated) / pairs)


def test_predictions_are_those_of_the_training_and_margins_are_to_the_relations_own_threshold(run, sample, tmp_path):
    found = Predictor.from_run(str(run), "cpu")
    documents = [document | {} for document in load_documents(sample / "test.json")]
    for document in documents:
        document.pop("labels")
    entries = found.predict(documents).entries
    kept = json.loads((run / "result.json").read_text())
    assert [[e["title"], e["h_idx"], e["t_idx"], e["r"]] for e in entries] == [list(e.values())[:4] for e in kept]
    assert all(e["margin"] > 0 and e["margin"] == pytest.approx(e["score"] - e["threshold"]) for e in entries)


def test_a_saved_run_is_scored_as_it_was(run, sample, capsys):
    train.main(["--load_path", str(run), "--data_dir", str(sample)])
    printed = capsys.readouterr().out
    scores = json.loads((run / "scores.json").read_text())
    for split in ("dev", "test"):
        assert f"f1{100 * scores[split]['f1']:>28.2f}" in printed


def test_tables_the_page_and_a_record_take_the_run(run, tmp_path, capsys):
    report.main(["--record", str(tmp_path / "records"), str(run)])
    [record] = (tmp_path / "records").rglob("seed_7.json")
    loss = json.loads(record.read_text())["config"]["loss"]["name"]
    for table in ("3_later", "precision", "thresholds"):
        assert loss_title(loss) in printed(capsys, "--table", table, record)
    report.main(["--html", str(tmp_path / "page.html"), str(run)])
    assert loss_title(loss) in (tmp_path / "page.html").read_text()
    assert "not of the paper, left out" in printed(capsys, "--table", "7", record, *other_records(tmp_path, record))


def other_records(folder, record):
    """The record as one of ATL."""
    found = json.loads(record.read_text())
    found["config"]["loss"] = {"name": "atl"}
    (folder / "seed_7.json").write_text(json.dumps(found))
    return [folder / "seed_7.json"]


@pytest.mark.parametrize("wrong", [None, [0.5], "0.5", [2.0] * 96, [0.1] * 95 + ["x"]])
def test_a_run_without_its_rates_is_refused(wrong, run, sample, tmp_path):
    copy = tmp_path / "seed_7"
    shutil.copytree(run, copy)
    config = json.loads((copy / "config.json").read_text()) | {"priors": wrong}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config\.json: priors: must be 96 rates; copy the run again"):
        predict.main(
            ["--load_path", str(copy), "--input", str(sample / "test.json"), "--output", str(tmp_path / "p.json")]
        )
    assert not (tmp_path / "p.json").exists()


def test_a_teacher_with_other_outputs_than_the_student_is_refused(run, sample, tiny_bert, tmp_path):
    if "pn_risk" in str(run):
        pytest.skip("pn_risk has the outputs of ATL")
    train_file = str(sample / "train.json")
    distill.main(["--load_path", str(run), "--data_file", train_file, "--output_dir", str(tmp_path / "scores")])
    more = ("--teacher_scores", str(tmp_path / "scores"), "--seeds", "7")
    train.main(arguments(sample, tiny_bert, tmp_path / "student", *more, "--loss_type", "amtl"))
    assert (tmp_path / "student" / "seed_7" / "scores.json").exists()
    with pytest.raises(UserError, match="holds 100 scores a pair, but the loss atl has 97; pass scores of a teacher"):
        train.main(arguments(sample, tiny_bert, tmp_path / "other", *more, "--loss_type", "atl"))
