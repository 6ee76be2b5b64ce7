"""The second pass over predicted evidence, and the attention of a teacher for a student to match."""

import json
import math
import shutil
from types import SimpleNamespace

import distill
import fuse_evidence
import numpy as np
import pytest
import torch
from model_scores import score as score_plainly
from trainings import arguments

import train
from evaluation import prepare_gold, score_predictions
from hingeabl.data.pairs import AllPairs
from hingeabl.data.schema import check_document
from hingeabl.errors import UserError
from hingeabl.modeling import evidence
from hingeabl.modeling.evidence import attention_loss
from hingeabl.training import distillation, fusion
from hingeabl.training.experiment import prepare
from hingeabl.training.fusion import Candidates, are_predicted, best_threshold, pseudo_documents
from hingeabl.training.inference import Predictions
from hingeabl.training.saved_run import load_run
from hingeabl.training.settings import parse_args
from losses import get_loss
from model import DocREModel
from prepro import featurize, read_docred
from utils import collate_fn

DOCUMENT = {
    "title": "A",
    "sents": [["Ada", "Byron"], ["wrote"], ["She", "met", "Babbage"], ["in", "London"]],
    "vertexSet": [
        [
            {"name": "Ada Byron", "sent_id": 0, "pos": [0, 2], "type": "PER"},
            {"name": "She", "sent_id": 2, "pos": [0, 1], "type": "PER"},
        ],
        [{"name": "Babbage", "sent_id": 2, "pos": [2, 3], "type": "PER"}],
        [{"name": "London", "sent_id": 3, "pos": [1, 2], "type": "LOC"}],
    ],
}


def test_pairs_of_the_same_evidence_share_a_pseudo_document():
    chosen = {(0, 0, 1): [2, 0], (0, 1, 0): [0, 2], (0, 1, 2): [2, 3], (0, 2, 0): [], (0, 2, 1): [0]}
    found, pairs = pseudo_documents([DOCUMENT], chosen)
    assert pairs == [[(0, 0, 1), (0, 1, 0)], [(0, 1, 2)]]  # of the last two, no entity or one alone is there
    assert [document["sents"] for document in found] == [
        [["Ada", "Byron"], ["She", "met", "Babbage"]],
        [["She", "met", "Babbage"], ["in", "London"]],
    ]
    assert [document["pairs"] for document in found] == [[[0, 1], [1, 0]], [[1, 2]]]
    for document in found:
        check_document(document, "pseudo", labels=False)
        for mention in (mention for entity in document["vertexSet"] for mention in entity):
            start, end = mention["pos"]
            assert " ".join(document["sents"][mention["sent_id"]][start:end]) == mention["name"]


def candidates(margin, twice=None):
    count = len(margin)
    twice = np.ones(count, bool) if twice is None else np.array(twice)
    return Candidates(np.zeros((count, 3), int), np.arange(count), np.array(margin, float), twice, {})


def f1_at(found, correct, gold, threshold):
    chosen = are_predicted(found, threshold)
    return 2 * correct[chosen].sum() / (chosen.sum() + gold)


@pytest.mark.parametrize("seed", range(20))
def test_the_threshold_makes_the_best_f1(seed):
    generator = np.random.default_rng(seed)
    margin = generator.integers(-5, 6, 30) / 2  # with equal ones
    found = candidates(margin, generator.random(30) < 0.7)
    correct = generator.random(30) < 0.4
    threshold = best_threshold(found, correct, 15)
    best = max(f1_at(found, correct, 15, value) for value in np.arange(-4, 4, 0.25) + 0.125)
    assert f1_at(found, correct, 15, threshold) == pytest.approx(best)


def test_without_a_second_pass_the_first_one_decides():
    found = candidates([0.5, -0.5, 3, -3], [False, False, True, True])
    assert are_predicted(found, 100).tolist() == [True, False, False, False]
    assert are_predicted(found, -100).tolist() == [True, False, True, True]
    assert best_threshold(candidates([0.5], [False]), np.array([True]), 1) == 0


def judged(loss, columns, num_labels=4):
    """An experiment of a loss, a document, and what its first pass finds of one pair with these scores, by column."""
    relations = {f"P{number}": number for number in range(1, 97)}
    scores = torch.full((1, loss.outputs(97)), -5.0)
    for column, score in columns.items():
        scores[0, column] = score
    chosen = loss.predict(scores, num_labels)[0, 1:].nonzero().flatten().tolist()
    entry = {"title": "A", "h_idx": 0, "t_idx": 1, "evidence": [0]}
    pairs = {"document": torch.tensor([0]), "entities": torch.tensor([[0, 1]]), "scores": scores}
    first = Predictions([entry | {"r": f"P{number + 1}"} for number in chosen], {}, pairs)
    args = SimpleNamespace(num_labels=num_labels)
    split = SimpleNamespace(features=[{"title": "A"}], documents=[DOCUMENT])
    return SimpleNamespace(loss=loss, rel2id=relations, args=args), split, first


FIVE = {0: 0.0, 1: 5.0, 2: 4.0, 3: 3.0, 4: 2.0, 5: 1.0}
PRIORS = [1 / number for number in range(2, 98)]


@pytest.mark.parametrize(
    ("loss", "columns", "expected"),
    [
        (get_loss("atl"), FIVE, 4),
        (get_loss("balanced_softmax"), FIVE | {0: 4.5}, 3),  # class 0 is among the four highest
        (get_loss("pn_risk", priors=PRIORS), FIVE, 5),  # without a limit
        (get_loss("amtl", priors=PRIORS), FIVE | {11: 5.0, 12: 4.0}, 6),  # a limit in each group
    ],
    ids=["atl", "balanced_softmax", "pn_risk", "amtl"],
)
def test_pairs_without_a_second_pass_keep_what_the_losss_rule_predicts(monkeypatch, loss, columns, expected):
    experiment, split, first = judged(loss, columns)
    monkeypatch.setattr(fusion, "second_pass", lambda *_: {})
    found = fusion.fuse(experiment, None, split, first)
    assert fusion.entries_of(found, 100.0, split, experiment.rel2id) == first.entries
    assert len(first.entries) == expected and not found.twice.any()


def test_relations_of_either_pass_have_the_sum_of_both_margins(monkeypatch):
    experiment, split, first = judged(get_loss("atl"), {0: 0.0, 1: 2.0, 2: 1.0})
    again = torch.full((1, 97), -5.0)
    again[0, :4] = torch.tensor([1.0, 0.5, 3.0, 4.0])  # above the threshold: classes 2 and 3
    monkeypatch.setattr(fusion, "second_pass", lambda *_: {(0, 0, 1): next(fusion.pair_margins(experiment, again))})
    found = fusion.fuse(experiment, None, split, first)
    assert found.relation.tolist() == [1, 2, 3] and found.twice.all()
    assert found.margin.tolist() == [2 - 0.5, 1 + 2, -5 + 3]


def test_a_pairs_second_margins_are_those_of_its_own_pseudo_document(teacher, corpus):
    """Documents are scored the longest first."""
    experiment = prepare(parse_args([f"--load_path={teacher}"]))
    documents = json.loads((corpus / "dev.json").read_text())
    evidence = {
        (number, head, tail): [(number + head) % len(document["sents"]), (number + tail + 1) % len(document["sents"])]
        for number, document in enumerate(documents)
        for head, tail in AllPairs(len(document["vertexSet"]))
    }
    evidence = {pair: sorted(set(sentences)) for pair, sentences in evidence.items()}
    model = load_run(teacher)
    found = fusion.second_pass(experiment, model, documents, evidence)
    pseudo, pairs_of_each = pseudo_documents(documents, evidence)
    lengths = []
    for document, pairs in zip(pseudo, pairs_of_each, strict=True):
        [feature] = featurize([document], experiment.tokenizer, experiment.rel2id)
        lengths.append(len(feature["input_ids"]))
        for pair, row in zip(pairs, score_plainly(model.eval(), [feature]), strict=True):
            torch.testing.assert_close(found[pair][0], (row[1:] - row[0]).double(), atol=1e-5, rtol=0)
    assert len(found) > 20 and lengths != sorted(lengths, reverse=True)


EVIDENCE = ("--loss_type", "atl", "--evidence_weight", "0.1")


@pytest.fixture(scope="module")
def teacher(corpus, tiny_bert, tmp_path_factory):
    """A finished teacher's folder."""
    output = tmp_path_factory.mktemp("teacher") / "runs"
    train.main(arguments(corpus, tiny_bert, output, *EVIDENCE))
    return output / "seed_7"


def test_a_run_is_fused_and_its_predictions_have_the_scores_that_are_told(teacher, corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "THRESHOLD", 0.12)  # the tiny encoder looks everywhere
    fuse_evidence.main(["--load_path", str(teacher), "--output_dir", str(tmp_path)])
    scores = json.loads((tmp_path / "seed_7" / "scores.json").read_text())
    for split, name in (("dev", "result_dev.json"), ("test", "result.json")):
        documents = json.loads((corpus / f"{split}.json").read_text())
        found = json.loads((tmp_path / "seed_7" / name).read_text())
        assert found and any(entry["evidence"] for entry in found)
        gold = prepare_gold(documents, set())
        assert score_predictions(found, gold)["f1"] == scores[split]["f1"]
    first = json.loads((teacher / "result_dev.json").read_text())
    documents = json.loads((corpus / "dev.json").read_text())
    assert scores["dev"]["f1"] >= score_predictions(first, prepare_gold(documents, set()))["f1"]


def test_triples_that_dev_states_twice_count_once_for_the_threshold(teacher, corpus, tmp_path, monkeypatch):
    documents = json.loads((corpus / "dev.json").read_text())
    for document in documents:
        document["labels"] += document["labels"][:2]
    data = shutil.copytree(corpus, tmp_path / "data")
    (data / "dev.json").write_text(json.dumps(documents))
    counted = []
    monkeypatch.setattr(fusion, "best_threshold", lambda *given: counted.append(given[2]) or 0.0)
    fuse_evidence.main(["--load_path", str(teacher), "--output_dir", str(tmp_path / "out"), "--data_dir", str(data)])
    triples = {(d["title"], each["h"], each["t"], each["r"]) for d in documents for each in d["labels"]}
    assert counted == [len(triples)]


def test_runs_that_would_replace_each_others_files_or_are_not_finished_are_refused_before_any_is_fused(
    teacher, tmp_path
):
    one = shutil.copytree(teacher, tmp_path / "a" / "seed_7")
    two = shutil.copytree(teacher, tmp_path / "b" / "seed_7")
    for runs, output, expected in (
        ((one, two), "out", "b/seed_7: is the second run of seed 7"),
        ((one,), "a", "a: holds a run in seed_7; choose another folder"),
    ):
        with pytest.raises(UserError, match=expected):
            fuse_evidence.main(["--load_path", *map(str, runs), "--output_dir", str(tmp_path / output)])
    config = json.loads((two / "config.json").read_text())
    (two / "config.json").write_text(json.dumps(config | {"seed": 8, "loss": {"name": "afl"}}))
    with pytest.raises(UserError, match=r"b/seed_7: differs from .*a/seed_7 in loss, not only in its seed"):
        fuse_evidence.main(["--load_path", str(one), str(two), "--output_dir", str(tmp_path / "out")])
    (two / "scores.json").unlink()
    with pytest.raises(UserError, match="b/seed_7: is not finished"):
        fuse_evidence.main(["--load_path", str(two), "--output_dir", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()
    assert json.loads((one / "scores.json").read_text()) == json.loads((teacher / "scores.json").read_text())


def test_a_run_without_evidence_is_not_fused(trained, tmp_path):
    with pytest.raises(UserError, match="predicts no evidence"):
        fuse_evidence.main(["--load_path", str(trained), "--output_dir", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.fixture
def attention(teacher, corpus, tmp_path, monkeypatch):
    """The folder of the teacher's attention."""
    monkeypatch.setattr(distillation, "SHARD", 5)
    files = ["--load_path", str(teacher), "--data_file", str(corpus / "train_distant.json")]
    distill.main([*files, "--output_dir", str(tmp_path / "attention"), "--precision", "fp32", "--attention"])
    return tmp_path / "attention"


def test_the_files_hold_the_teachers_attention_over_all_tokens(teacher, corpus, attention, minilm_tokenizer, rel2id):
    path = corpus / "train_distant.json"
    features = read_docred(path, minilm_tokenizer, rel2id, with_evidence=True)
    stored = distillation.WithTeacher(features, attention, path, rel2id, get_loss("atl"), "attention")
    assert len(stored) == 12 and len(list(attention.glob("attention_*.safetensors"))) == 3
    model = load_run(teacher).eval()
    for number in (0, 4, 5, 11):
        batch = collate_fn([stored[number]])
        wanted = batch.pop("teacher_attention")
        batch.pop("labels")
        with torch.no_grad():
            _, found = model(**batch)
        assert found.shape == (len(features[number]["hts"]), len(features[number]["input_ids"]))
        torch.testing.assert_close(found.sum(dim=1), torch.ones(len(found)))  # [CLS] and [SEP] are among them
        torch.testing.assert_close(wanted, found, rtol=1e-3, atol=1e-5)
    both = collate_fn([stored[0], stored[5]])
    assert both["teacher_attention"].shape == (len(both["labels"]), both["sentences"])


def test_the_attentions_loss_is_the_mean_divergence_of_all_pairs():
    given = torch.tensor([[0.5, 0.25], [0.25, 0.25]])
    wanted = torch.tensor([[0.25, 0.5], [0.25, 0.25]])
    divergence = 0.25 * np.log(0.25 / 0.5) + 0.5 * np.log(0.5 / 0.25)
    assert attention_loss(given, wanted).item() == pytest.approx(divergence / 2)
    assert attention_loss(given[:0], wanted[:0]).item() == 0


@pytest.mark.usefixtures("way")
def test_a_student_that_equals_its_teacher_is_not_moved(corpus, still_bert, minilm_tokenizer, rel2id):
    """The divergence's gradient is 0 there. Over word pieces alone, without [CLS] and [SEP], it was not."""
    documents = json.loads((corpus / "train_distant.json").read_text())[:3]
    features = featurize(documents, minilm_tokenizer, rel2id)
    model = DocREModel(str(still_bert), len(rel2id), emb_size=64)
    batch = collate_fn([distillation.by_token(feature) for feature in features])
    batch.pop("labels")
    _, own = model(**batch)
    norms = []
    for wanted in (own.detach(), own.detach().roll(1, dims=0)):  # its own attention, and that of other pairs
        loss = attention_loss(model(**batch)[1], wanted)
        gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        norms.append(math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients if gradient is not None)))
    assert norms[0] < 1e-5 * norms[1]


def test_attention_of_an_older_version_is_refused(teacher, corpus, attention, tiny_bert, tmp_path):
    about = json.loads((attention / "teacher.json").read_text())
    del about["over"]
    (attention / "teacher.json").write_text(json.dumps(about))
    given = ("--train_file", "train_distant.json", "--teacher_attention", str(attention), "--evidence_weight", "0.1")
    with pytest.raises(UserError, match=r"leaves out \[CLS\] and \[SEP\].*remove the folder and run distill.py"):
        train.main(arguments(corpus, tiny_bert, tmp_path / "run", "--loss_type", "atl", *given))
    assert not (tmp_path / "run").exists()


def test_a_student_comes_closer_to_its_teachers_attention(teacher, corpus, attention, tiny_bert, tmp_path):
    def student(name, weight, *more):
        given = ("--loss_type", "atl", "--evidence_weight", weight, "--train_file", "train_distant.json", *more)
        train.main(arguments(corpus, tiny_bert, tmp_path / name, *given, "--num_train_epochs", "4"))
        lines = map(json.loads, (tmp_path / name / "seed_7" / "metrics.jsonl").read_text().splitlines())
        return [line["loss"] for line in lines if "loss" in line]

    losses = student("student", "100", "--teacher_attention", str(attention))
    assert losses[-1] < 0.8 * losses[0]
    config = json.loads((tmp_path / "student" / "seed_7" / "config.json").read_text())
    assert "teacher attention" in config["data"]


def test_attention_and_scores_are_told_apart(teacher, corpus, attention, tiny_bert, tmp_path):
    given = ("--train_file", "train_distant.json", "--loss_type", "atl")
    for more, expected in (
        (("--teacher_scores", str(attention)), "holds a teacher's attention"),
        (("--teacher_attention", str(attention)), "needs an --evidence_weight"),
        (
            ("--teacher_attention", str(attention), "--teacher_scores", str(attention), "--evidence_weight", "1"),
            "goes without --teacher_scores",
        ),
    ):
        with pytest.raises(UserError, match=expected):
            train.main(arguments(corpus, tiny_bert, tmp_path / "run", *given, *more))
    assert not (tmp_path / "run").exists()


def test_seeds_are_of_one_experiment_as_a_resume_takes_them(teacher):
    """Settings that an older version lacks have their defaults, and batches of several processes add up."""
    config = json.loads((teacher / "config.json").read_text())
    config["settings"] |= {"train_batch_size": 4, "backbone": "atlop"}
    older = json.loads(json.dumps(config))
    del older["settings"]["backbone"]
    parallel = config | {"processes": 2, "settings": config["settings"] | {"train_batch_size": 2}}
    student = config | {"data": config["data"] | {"initial weights": "of each seed"}}
    expected = fusion.experiment_of(config)
    for other in (older, parallel, student):
        assert fusion.experiment_of(other) == expected
    assert fusion.experiment_of(config | {"loss": {"name": "afl"}}) != expected
