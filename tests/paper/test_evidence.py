"""Evidence (DREEAM): attention over sentences, its loss, what is trained and predicted with it."""

import json
import math
import re
from collections import Counter

import numpy as np
import pytest
import torch
from make_sample import make_sample
from model_scores import loss_with_priors, score
from safetensors.torch import load_file
from trainings import arguments

import predict
import report
import train
from evaluation import prepare_gold, score_predictions
from hingeabl.errors import UserError
from hingeabl.modeling import evidence
from hingeabl.modeling.evidence import evidence_loss, evidence_sentences, sentence_attention
from hingeabl.training import parallel
from hingeabl.training.inference import Predictions, gather
from losses import get_loss
from model import DocREModel
from prepro import evidence_of, featurize, read_docred
from utils import collate_fn

LONGEST = 60  # word pieces, to which one document is cut


@pytest.fixture(scope="module")
def documents():
    return make_sample()["train"][:3]  # of different lengths


@pytest.fixture(scope="module")
def features(documents, minilm_tokenizer, rel2id):
    return featurize(documents, minilm_tokenizer, rel2id, with_evidence=True)


def with_attention(model, features):
    batch = collate_fn(features)
    batch.pop("labels"), batch.pop("evidence")
    with torch.no_grad():
        return model.eval()(**batch)


def test_sentences_end_where_their_tokens_do(documents, features, minilm_tokenizer):
    for document, feature in zip(documents, features, strict=True):
        assert len(feature["sentence_ends"]) == len(document["sents"])
        start = 0
        for sentence, end in zip(document["sents"], feature["sentence_ends"], strict=True):
            pieces = minilm_tokenizer.decode(feature["input_ids"][1 + start : 1 + end]).replace("*", "")
            assert pieces.replace(" ", "") == "".join(sentence).lower().replace("*", "")
            start = end
        assert start == len(feature["input_ids"]) - 2


def test_a_pairs_evidence_is_that_of_all_its_relations():
    document = {
        "title": "A",
        "sents": [["a"], ["b"], ["c"], ["d"]],
        "vertexSet": [[{}], [{}], [{}]],
        "labels": [
            {"h": 0, "t": 2, "r": "P1", "evidence": [2, 0]},
            {"h": 0, "t": 2, "r": "P2", "evidence": [3, 0]},
            {"h": 2, "t": 1, "r": "P1"},
            {"h": 1, "t": 0, "r": "P1", "evidence": [1]},
        ],
    }
    assert evidence_of(document).T.tolist() == [[1, 0], [1, 0], [1, 2], [1, 3], [2, 1]]  # 0: by two
    listed = document | {"pairs": [[1, 0], [2, 1], [0, 2]]}
    assert evidence_of(listed).T.tolist() == [[0, 1], [2, 0], [2, 0], [2, 2], [2, 3]]
    assert evidence_of(document | {"labels": []}).shape == (2, 0)


def test_a_batchs_evidence_counts_a_sentence_once_for_each_relation_that_names_it(documents, features):
    batch = collate_fn(features)
    assert batch["evidence"].shape == (len(batch["labels"]), max(len(found["sents"]) for found in documents))
    uneven = 0
    for row, sentences in enumerate(batch["evidence"].split([len(feature["hts"]) for feature in features])):
        gold = {}
        for label in documents[row]["labels"]:
            gold.setdefault((label["h"], label["t"]), Counter()).update(set(label["evidence"]))
        for pair, found in zip(features[row]["hts"], sentences, strict=True):
            counts = gold.get(tuple(pair), Counter())
            uneven += len(set(counts.values())) > 1
            expected = [counts[number] / max(counts.total(), 1) for number in range(len(found))]
            assert found.tolist() == pytest.approx(expected)
    assert uneven  # the documents hold such a pair


@pytest.mark.parametrize("length", [1024, LONGEST])
def test_word_pieces_from_the_cache_have_the_same_sentences(sample, minilm_tokenizer, rel2id, tmp_path, length):
    first, again = (
        read_docred(sample / "train.json", minilm_tokenizer, rel2id, length, tmp_path, with_evidence=True)
        for _ in range(2)
    )
    assert len(list(tmp_path.iterdir())) == 1
    assert [f["sentence_ends"] for f in first] == [f["sentence_ends"] for f in again]
    assert "sentence_ends" not in read_docred(sample / "train.json", minilm_tokenizer, rel2id, length, tmp_path)[0]


def by_hand(attention, in_sentence, head, tail):
    """A pair's distribution, one number after the other, from attention [entities, heads, length]."""
    heads, length = attention.shape[1:]
    weights = [
        sum(float(attention[head, h, token]) * float(attention[tail, h, token]) for h in range(heads)) / heads
        for token in range(length)
    ]
    total = sum(weights) + 1e-30
    return [
        sum(weight * float(in_sentence[token, sentence]) for token, weight in enumerate(weights)) / total
        for sentence in range(in_sentence.shape[1])
    ]


def test_attention_over_sentences_is_the_pooled_product_summed_by_sentence():
    torch.manual_seed(0)
    attention = torch.rand(2, 3, 4, 7, dtype=torch.float64).softmax(-1)
    attention[0, 1] = 0  # an entity without mention
    in_sentence = torch.zeros(2, 7, 3, dtype=torch.float64)
    in_sentence[0, 1:3, 0] = in_sentence[0, 3:6, 1] = in_sentence[1, 1:6, 0] = 1
    found = sentence_attention(attention, in_sentence)
    for document in range(2):
        for head in range(3):
            for tail in range(3):
                expected = by_hand(attention[document], in_sentence[document], head, tail)
                assert found[document, head, tail].tolist() == pytest.approx(expected, abs=1e-12)
    assert not found[0, 1].any()
    assert (found.sum(-1)[1] < 1).all()  # [CLS] and [SEP] have the rest


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("backbone", DocREModel.backbones)
def test_evidence_changes_no_score_and_each_pair_has_its_documents_sentences(backbone, features, tiny_bert):
    model = DocREModel(str(tiny_bert), emb_size=64, backbone=backbone, unet_channels=16, axial_layers=1)
    plain = [{name: value for name, value in f.items() if name not in ("sentence_ends", "evidence")} for f in features]
    scores, attention = with_attention(model, features)
    assert torch.equal(scores, score(model, plain))
    for feature, found in zip(features, attention.split([len(f["hts"]) for f in features]), strict=True):
        sentences = len(feature["sentence_ends"])
        _, alone = with_attention(model, [feature])
        torch.testing.assert_close(found[:, :sentences], alone, rtol=0, atol=1e-6)
        assert not found[:, sentences:].any()
        assert (alone.sum(1) < 1 + 1e-5).all() and alone.any()


def test_a_sentence_that_was_cut_away_has_no_attention(documents, minilm_tokenizer, rel2id, tiny_bert):
    model = DocREModel(str(tiny_bert), emb_size=64)
    [feature] = featurize(documents[:1], minilm_tokenizer, rel2id, LONGEST, with_evidence=True)
    kept = sum(end <= LONGEST - 2 for end in feature["sentence_ends"])
    _, attention = with_attention(model, [feature])
    assert kept < len(feature["sentence_ends"]) - 1
    assert attention[:, :kept].any() and not attention[:, kept + 1 :].any()


def test_the_loss_is_the_divergence_from_the_gold_sentences():
    attention = torch.tensor([[0.5, 0.25, 0.125], [0.2, 0.2, 0.2], [0.0, 0.5, 0.1], [0.3, 0.3, 0.3]])
    evidence = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    labels = torch.tensor([[0, 1, 0], [0, 0, 1], [0, 1, 1], [1, 0, 0]]).float()
    first = 0.5 * math.log(0.5 / 0.5) + 0.5 * math.log(0.5 / 0.25)
    third = math.log(1 / 1e-30)
    assert evidence_loss(attention, evidence, labels).item() == pytest.approx((first + third) / 3)
    assert evidence_loss(attention, evidence, labels * torch.tensor([1, 0, 0])).item() == 0


def test_the_losss_gradient_is_right_and_stays_finite():
    torch.manual_seed(0)
    attention = torch.rand(6, 4, dtype=torch.float64).requires_grad_()
    evidence = torch.zeros(6, 4, dtype=torch.float64)
    evidence[range(6), [0, 1, 2, 3, 0, 1]] = 0.5
    evidence[range(6), [1, 2, 3, 0, 2, 3]] = 0.5
    labels = torch.eye(3).repeat(2, 1).double()
    assert torch.autograd.gradcheck(lambda a: evidence_loss(a, evidence, labels), attention)
    nothing = torch.zeros(6, 4, requires_grad=True)
    evidence_loss(nothing, evidence.float(), labels.float()).backward()
    assert nothing.grad.isfinite().all()


def test_evidence_are_the_sentences_with_more_than_a_fifth():
    assert evidence_sentences(torch.tensor([[0.2, 0.3, 0.5], [0.1, 0.1, 0.1]])) == [[1, 2], []]


@pytest.mark.parametrize(
    "name", ["hingeabl_released", *(pytest.param(name, marks=pytest.mark.slow) for name in ("atl", "amtl", "pn_risk"))]
)
def test_weight_0_trains_what_no_evidence_trains_and_predicts_evidence_beside(sample, tiny_bert, tmp_path, name):
    loss = ("--loss_type", name, "--num_train_epochs", "1")
    train.main(arguments(sample, tiny_bert, tmp_path / "plain", *loss))
    train.main(arguments(sample, tiny_bert, tmp_path / "zero", *loss, "--evidence_weight", "0"))
    train.main(arguments(sample, tiny_bert, tmp_path / "some", *loss, "--evidence_weight", "0.1"))
    plain, zero, some = (tmp_path / folder / "seed_7" for folder in ("plain", "zero", "some"))
    weights = [load_file(folder / "model.safetensors") for folder in (plain, zero, some)]
    assert all(torch.equal(tensor, weights[1][key]) for key, tensor in weights[0].items())
    assert not all(torch.equal(tensor, weights[2][key]) for key, tensor in weights[0].items())
    expected, found = (json.loads((folder / "result_dev.json").read_text()) for folder in (plain, zero))
    assert all(isinstance(entry.pop("evidence"), list) for entry in found)
    assert found == expected and (len(found) > 10 or name != "hingeabl_released")


def test_training_evidence_without_any_is_refused(sample, tiny_bert, tmp_path):
    documents = json.loads((sample / "train.json").read_text())
    for document in documents:
        document["labels"] = [{**label, "evidence": []} for label in document["labels"]]
    (tmp_path / "train.json").write_text(json.dumps(documents))
    more = ("--train_file", str(tmp_path / "train.json"), "--evidence_weight")
    with pytest.raises(UserError, match=r"no label of .*train.json names evidence"):
        train.main(arguments(sample, tiny_bert, tmp_path / "run", *more, "0.1"))
    assert not (tmp_path / "run").exists()


def chance(documents, predictions):
    """Evidence F1 of as many sentences for each prediction, drawn by lot; the best of twenty draws."""
    generator = np.random.default_rng(0)
    sentences = {document["title"]: len(document["sents"]) for document in documents}
    found = []
    for _ in range(20):
        drawn = [
            entry | {"evidence": generator.permutation(sentences[entry["title"]])[: len(entry["evidence"])].tolist()}
            for entry in predictions
        ]
        found.append(score_predictions(drawn, prepare_gold(documents, set()))["evidence_f1"])
    return max(found)


@pytest.mark.slow
def test_trained_evidence_is_better_than_chance_and_than_weight_0(minilm, tmp_path):
    corpus = make_sample()
    corpus["dev"] = corpus["dev"][:5]  # enough to choose an epoch
    for split, documents in corpus.items():
        (tmp_path / f"{split}.json").write_text(json.dumps(documents))
    more = "--emb_size 128 --learning_rate 5e-5 --classifier_lr 1e-3 --train_batch_size 1 --num_train_epochs 2"
    evidence_f1 = {}
    for weight in ("0", "0.1"):
        output = tmp_path / f"weight_{weight}"
        given = (*more.split(), "--loss_type", "hingeabl_released", "--evidence_weight", weight)
        train.main(arguments(tmp_path, minilm, output, *given))
        evidence_f1[weight] = json.loads((output / "seed_7" / "scores.json").read_text())["test"]["evidence_f1"]
    predictions = json.loads((output / "seed_7" / "result.json").read_text())
    assert evidence_f1["0.1"] > evidence_f1["0"] + 0.1
    assert evidence_f1["0.1"] > chance(corpus["test"], predictions) + 0.1


def test_every_loss_trains_with_evidence(features, tiny_bert):
    batch = collate_fn(features)
    labels, evidence = batch.pop("labels"), batch.pop("evidence")
    for name in ("atl", "amtl", "pn_risk"):
        loss = get_loss(name) if name == "atl" else loss_with_priors(name)
        model = DocREModel(str(tiny_bert), loss.outputs(97), emb_size=64)
        scores, attention = model(**batch)
        (loss(scores, labels) + evidence_loss(attention, evidence, labels)).backward()
        gradients = [parameter.grad for parameter in model.model.encoder.layer[-1].attention.parameters()]
        assert all(gradient.isfinite().all() for gradient in gradients)


def rows_of_page(path):
    blocks = re.findall(r"<script[^>]*data-run=[^>]*>(.*?)</script>", path.read_text(), re.DOTALL)
    return [row for block in blocks for row in json.loads(block)]


def test_pages_and_predictions_hold_the_evidence_of_the_run(sample, tiny_bert, tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "THRESHOLD", 0.12)  # the tiny encoder looks everywhere
    train.main(arguments(sample, tiny_bert, tmp_path / "run", "--loss_type", "atl", "--evidence_weight", "0.1"))
    run = tmp_path / "run" / "seed_7"
    report.main(["--html", str(tmp_path / "report.html"), "--split", "test", str(run)])
    wanted = ["--input", str(sample / "test.json"), "--output", str(tmp_path / "found.json")]
    predict.main(["--load_path", str(run), *wanted, "--html", str(tmp_path / "predict.html")])
    titles = [document["title"] for document in json.loads((sample / "test.json").read_text())]
    expected = {
        (titles.index(entry["title"]), entry["h_idx"], entry["t_idx"]): entry["evidence"]
        for entry in json.loads((run / "result.json").read_text())
    }
    assert len({tuple(sentences) for sentences in expected.values()}) > 2
    found = json.loads((tmp_path / "found.json").read_text())
    assert {(titles.index(e["title"]), e["h_idx"], e["t_idx"]): e["evidence"] for e in found} == expected
    for name in ("report.html", "predict.html"):
        rows = rows_of_page(tmp_path / name)
        assert {tuple(row[:3]): row[7] for row in rows if row[5]} == expected


@pytest.mark.slow
def test_a_page_of_a_run_without_evidence_has_none(trained, tmp_path):
    report.main(["--html", str(tmp_path / "report.html"), str(trained)])
    rows = rows_of_page(tmp_path / "report.html")
    assert rows and all(len(row) == 7 for row in rows)


def test_evidence_travels_between_processes(features, rel2id, monkeypatch):
    for name, stand_in in (
        ("world_size", lambda: 2),
        ("gather_rows", lambda rows, device: [rows]),
        ("sum_over_processes", lambda values: values),
    ):
        monkeypatch.setattr(parallel, name, stand_in)
    titles = [feature["title"] for feature in features]
    entries = [
        {"title": titles[0], "h_idx": 0, "t_idx": 1, "r": "P17", "evidence": [3, 1]},
        {"title": titles[0], "h_idx": 0, "t_idx": 1, "r": "P19", "evidence": [3, 1]},
        {"title": titles[2], "h_idx": 1, "t_idx": 0, "r": "P17", "evidence": []},
    ]
    mine = Predictions(entries, {}, {}, (2, 1))
    assert gather(mine, features, rel2id, get_loss("atl"), torch.device("cpu")).entries == entries
    plain = [{name: value for name, value in entry.items() if name != "evidence"} for entry in entries]
    without = [{name: value for name, value in feature.items() if name != "sentence_ends"} for feature in features]
    found = gather(Predictions(plain, {}, {}, (2, 1)), without, rel2id, get_loss("atl"), torch.device("cpu"))
    assert found.entries == plain
