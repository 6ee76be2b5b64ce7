"""Knowledge distillation: the teacher's scores on disk, and a student that matches them."""

import json
from types import SimpleNamespace

import distill
import pytest
import torch
from model_scores import score
from safetensors.torch import load_file
from trainings import arguments

import train
from hingeabl.errors import UserError
from hingeabl.training import distillation
from hingeabl.training.saved_run import load_run
from losses import get_loss
from prepro import read_docred

KD_DOCRE = ("--backbone", "kd_docre", "--loss_type", "afl", "--num_train_epochs", "1")


@pytest.fixture(scope="module")
def teacher(corpus, tiny_bert, tmp_path_factory):
    """A finished teacher's folder."""
    output = tmp_path_factory.mktemp("teacher") / "runs"
    train.main(arguments(corpus, tiny_bert, output, *KD_DOCRE))
    return output / "seed_7"


def write_scores(teacher, corpus, folder, monkeypatch, shard=5):
    monkeypatch.setattr(distillation, "SHARD", shard)
    files = ["--load_path", str(teacher), "--data_file", str(corpus / "train_distant.json")]
    distill.main([*files, "--output_dir", str(folder), "--precision", "fp32"])


def student(corpus, encoder, output, scores, *more):
    return arguments(
        corpus, encoder, output, *KD_DOCRE, "--train_file", "train_distant.json", "--teacher_scores", str(scores), *more
    )


def first_loss(folder):
    lines = (folder / "seed_7" / "metrics.jsonl").read_text().splitlines()
    return next(record["loss"] for record in map(json.loads, lines) if "loss" in record)


def test_the_files_hold_the_teachers_scores_in_order(teacher, corpus, tmp_path, minilm_tokenizer, rel2id, monkeypatch):
    write_scores(teacher, corpus, tmp_path / "scores", monkeypatch)
    features = read_docred(corpus / "train_distant.json", minilm_tokenizer, rel2id)
    stored = distillation.WithTeacher(
        features, tmp_path / "scores", corpus / "train_distant.json", rel2id, get_loss("atl")
    )
    assert len(stored) == 12 and len(list((tmp_path / "scores").glob("*.safetensors"))) == 3
    model = load_run(teacher).eval()
    for number in (0, 4, 5, 11):
        expected = score(model, [features[number]])
        torch.testing.assert_close(stored[number]["teacher_scores"].float(), expected, rtol=1e-3, atol=1e-3)
        assert stored[number]["title"] == features[number]["title"]


def test_a_stopped_program_goes_on_with_the_first_missing_file(teacher, corpus, tmp_path, monkeypatch):
    write_scores(teacher, corpus, tmp_path, monkeypatch)
    before = {path.name: load_file(path)["scores"] for path in tmp_path.glob("*.safetensors")}
    (tmp_path / "scores_00001.safetensors").unlink()
    scored = []
    teacher_outputs = distillation.teacher_outputs

    def spy(model, features, *rest):
        scored.append(len(features))
        return teacher_outputs(model, features, *rest)

    monkeypatch.setattr(distillation, "teacher_outputs", spy)
    write_scores(teacher, corpus, tmp_path, monkeypatch)
    assert scored == [5]
    described = json.loads((tmp_path / "teacher.json").read_text())
    older = {name: value for name, value in described.items() if name != "threshold"}  # of a version without it
    (tmp_path / "teacher.json").write_text(json.dumps(older))
    write_scores(teacher, corpus, tmp_path, monkeypatch)
    assert json.loads((tmp_path / "teacher.json").read_text()) == older  # a student's run has its checksum
    assert all(torch.equal(load_file(tmp_path / name)["scores"], scores) for name, scores in before.items())


def test_a_student_learns_from_the_teacher_and_goes_on_with_annotated_data(
    teacher, corpus, tiny_bert, tmp_path, monkeypatch, capsys
):
    scores = tmp_path / "scores"
    write_scores(teacher, corpus, scores, monkeypatch)
    train.main(student(corpus, tiny_bert, tmp_path / "student", scores))
    alone = [argument for argument in student(corpus, tiny_bert, tmp_path / "alone", scores) if argument != str(scores)]
    alone.remove("--teacher_scores")
    train.main(alone)
    assert first_loss(tmp_path / "student") > 1.01 * first_loss(tmp_path / "alone")
    start = str(tmp_path / "student" / "seed_7")
    still = ("--init_from", start, "--learning_rate", "0", "--classifier_lr", "0")
    train.main(arguments(corpus, tiny_bert, tmp_path / "finetuned", *KD_DOCRE, *still))
    first, second = (load_file(f"{folder}/model.safetensors") for folder in (start, tmp_path / "finetuned" / "seed_7"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    capsys.readouterr()
    train.main(student(corpus, tiny_bert, tmp_path / "student", scores))
    assert "finished before: seeds 7" in capsys.readouterr().out
    with pytest.raises(UserError, match="another initial weights file"):
        train.main(arguments(corpus, tiny_bert, tmp_path / "finetuned", *KD_DOCRE, *still[2:]))


def test_the_distillation_loss_is_the_mean_squared_difference_and_zero_without_pairs():
    scores = torch.tensor([[1.0, 2.0], [3.0, 5.0]], requires_grad=True)
    assert train.distillation_loss(scores, torch.tensor([[1.0, 0.0], [3.0, 1.0]])).item() == (4 + 16) / 4
    assert train.distillation_loss(scores[:0], torch.zeros(0, 2)).item() == 0


def test_the_gradient_of_a_students_loss_is_that_of_labels_and_teacher_together():
    torch.manual_seed(0)
    scores, teacher, labels = torch.randn(3, 97, requires_grad=True), torch.randn(3, 97), torch.eye(97)[:3]
    args = SimpleNamespace(evidence_weight=None)
    experiment = SimpleNamespace(device=torch.device("cpu"), precision="fp32", loss=get_loss("atl"), args=args)
    train.batch_loss(experiment, lambda: scores, {"labels": labels, "teacher_scores": teacher}).backward()
    again = scores.detach().requires_grad_()
    (get_loss("atl")(again, labels) + ((again - teacher) ** 2).mean()).backward()
    torch.testing.assert_close(scores.grad, again.grad)


def test_scores_of_a_teacher_that_decides_by_another_rule_are_refused(corpus, tiny_bert, tmp_path, monkeypatch):
    other = ("--backbone", "kd_docre", "--loss_type", "balanced_softmax", "--num_train_epochs", "1")
    train.main(arguments(corpus, tiny_bert, tmp_path / "teacher", *other))
    write_scores(tmp_path / "teacher" / "seed_7", corpus, tmp_path / "scores", monkeypatch)
    with pytest.raises(
        UserError, match=r"decided by zero_threshold, but the loss afl decides by threshold_class; pass"
    ):
        train.main(student(corpus, tiny_bert, tmp_path / "student", tmp_path / "scores"))
    assert not (tmp_path / "student").exists()


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (lambda folder: (folder / "scores_00001.safetensors").unlink(), r"scores_00001.* is missing; run distill\.py"),
        (lambda folder: (folder / "scores_00001.safetensors").write_bytes(b"short"), r"scores_00001.* is broken"),
        (lambda folder: (folder / "teacher.json").unlink(), r"teacher\.json: no such file"),
        (lambda folder: (folder / "teacher.json").write_text("{}"), "holds scores of another file than"),
    ],
)
def test_missing_and_broken_scores_are_named(teacher, corpus, tiny_bert, tmp_path, monkeypatch, harm, expected):
    write_scores(teacher, corpus, tmp_path / "scores", monkeypatch)
    harm(tmp_path / "scores")
    with pytest.raises(UserError, match=expected):
        train.main(student(corpus, tiny_bert, tmp_path / "student", tmp_path / "scores"))
    assert not (tmp_path / "student").exists()


def test_scores_of_another_teacher_are_not_mixed_in(teacher, corpus, tiny_bert, tmp_path, monkeypatch):
    write_scores(teacher, corpus, tmp_path / "scores", monkeypatch)
    train.main(arguments(corpus, tiny_bert, tmp_path / "other", "--num_train_epochs", "1"))
    with pytest.raises(UserError, match=r"scores_00000.* holds other scores"):
        write_scores(tmp_path / "other" / "seed_7", corpus, tmp_path / "scores", monkeypatch)


def test_a_folder_that_is_no_run_is_no_teacher(corpus, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"config\.json: no such file"):
        write_scores(tmp_path, corpus, tmp_path / "scores", monkeypatch)
