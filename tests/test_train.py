"""Training and scoring from end to end, on the sample corpus and tiny encoders."""

import json
import math
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file
from transformers import AutoTokenizer

import train
from hingeabl.data.documents import DEFAULT_REL2ID
from hingeabl.errors import UserError
from hingeabl.training import inference
from hingeabl.training.settings import build_parser, parse_args
from hingeabl.training.steps import build_optimizer
from losses import get_loss, loss_names
from model import DocREModel
from prepro import read_docred
from utils import collate_fn

EMPTY = {"title": "A", "sents": [], "vertexSet": []}


def arguments(sample, encoder, output, *more):
    """A one-seed training of two epochs on the tiny encoder."""
    return [
        *(
            "--data_dir",
            str(sample),
            "--train_file",
            "train.json",
            "--dev_file",
            "dev.json",
            "--test_file",
            "test.json",
        ),
        *("--model_name_or_path", str(encoder), "--emb_size", "64", "--num_train_epochs", "2", "--seeds", "7"),
        *(
            "--learning_rate",
            "1e-3",
            "--classifier_lr",
            "1e-2",
            "--output_dir",
            str(output),
            "--cache_dir",
            str(Path(output).parent / "cache"),
            "--precision",
            "fp32",
            *more,
        ),
    ]


@pytest.fixture(scope="module")
def finished(sample, tiny_bert, tmp_path_factory):
    """The output folder of a finished training of two seeds."""
    output = tmp_path_factory.mktemp("runs") / "hingeabl"
    train.main(arguments(sample, tiny_bert, output, "--seeds", "7", "8", "--loss_type", "hingeabl_released"))
    return output


def test_a_run_folder_holds_settings_metrics_weights_predictions_and_scores(finished, sample):
    folder = finished / "seed_7"
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("config.json", "metrics.jsonl", "model.json", "model.safetensors", "encoder", "rel2id.json"),
        *("result.json", "result_dev.json", "scores.json", "tensorboard"),
        *("pair_scores_dev.safetensors", "pair_scores_test.safetensors"),
    }
    config = json.loads((folder / "config.json").read_text())
    assert config["settings"]["num_train_epochs"] == 2 and config["loss"]["margin"] == 5
    assert torch.__version__.startswith(config["environment"]["packages"]["torch"])
    titles = {document["title"] for document in json.loads((sample / "test.json").read_text())}
    for entry in json.loads((folder / "result.json").read_text()):
        assert set(entry) == {"title", "h_idx", "t_idx", "r"} and entry["title"] in titles
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records if "dev" in record] == [1, 2]
    assert [record["step"] for record in records if "loss" in record] == [3, 6]


def test_the_best_dev_epoch_is_the_one_that_is_tested(finished):
    folder = finished / "seed_7"
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    by_epoch = {record["epoch"]: record["dev"] for record in records if "dev" in record}
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["dev"] == by_epoch[scores["best_epoch"]]
    assert scores["dev"]["f1"] == max(dev["f1"] for dev in by_epoch.values())


def test_the_summary_is_the_mean_and_standard_deviation_over_seeds(finished):
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["seeds"] == [7, 8]
    runs = [json.loads((finished / f"seed_{seed}" / "scores.json").read_text()) for seed in (7, 8)]
    for split in ("dev", "test"):
        values = [run[split]["f1"] for run in runs]
        assert summary[split]["f1"] == {"mean": statistics.mean(values), "std": statistics.stdev(values)}


def test_a_saved_run_scores_the_same_and_writes_the_same_predictions(finished, tmp_path, capsys):
    train.main(["--load_path", str(finished / "seed_7"), "--output_dir", str(tmp_path / "again")])
    expected = json.loads((finished / "seed_7" / "scores.json").read_text())
    found = json.loads((tmp_path / "again" / "scores.json").read_text())
    assert found == {"dev": expected["dev"], "test": expected["test"]}
    for name in ("result.json", "result_dev.json"):
        assert (tmp_path / "again" / name).read_text() == (finished / "seed_7" / name).read_text()
    assert "macro_ign_f1" in capsys.readouterr().out


def test_the_evaluator_gives_the_scores_of_the_run(finished, sample, tmp_path):
    command = [sys.executable, "evaluation.py", "--predictions", finished / "seed_7" / "result.json"]
    command += ["--gold", sample / "test.json", "--train", sample / "train.json", "--json", tmp_path / "scores.json"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    scores = json.loads((finished / "seed_7" / "scores.json").read_text())["test"]
    again = json.loads((tmp_path / "scores.json").read_text())
    assert again == {name: scores[name] for name in again}


def test_the_same_seed_gives_the_same_run(finished, sample, tiny_bert, tmp_path):
    train.main(arguments(sample, tiny_bert, tmp_path / "again", "--loss_type", "hingeabl_released"))
    for name in ("metrics.jsonl", "scores.json", "result.json", "model.safetensors"):
        assert (tmp_path / "again" / "seed_7" / name).read_bytes() == (finished / "seed_7" / name).read_bytes(), name
    other = (finished / "seed_8" / "model.safetensors").read_bytes()
    assert (tmp_path / "again" / "seed_7" / "model.safetensors").read_bytes() != other


def test_a_finished_run_is_not_repeated_and_other_settings_are_refused(finished, sample, tiny_bert, capsys):
    before = (finished / "seed_7" / "model.safetensors").stat().st_mtime_ns
    train.main(arguments(sample, tiny_bert, finished, "--loss_type", "hingeabl_released"))
    assert "finished before" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"loss .*5\.0.* there, .*3\.0.* here"):
        train.main(arguments(sample, tiny_bert, finished, "--loss_type", "hingeabl_released", "--margin", "3"))
    assert (finished / "seed_7" / "model.safetensors").stat().st_mtime_ns == before


def first_loss(folder):
    return json.loads((folder / "seed_7" / "metrics.jsonl").read_text().splitlines()[0])["loss"]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_trains_to_finite_weights(finished, sample, tiny_bert, tmp_path, precision, monkeypatch):
    scalers = []

    class Scaler(torch.amp.GradScaler):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            scalers.append(self)

    monkeypatch.setattr(torch.amp, "GradScaler", Scaler)
    more = ("--precision", precision, "--loss_type", "hingeabl_released")
    train.main(arguments(sample, tiny_bert, tmp_path, *more))
    weights = load_file(tmp_path / "seed_7" / "model.safetensors")
    assert all(tensor.isfinite().all() and tensor.dtype == torch.float32 for tensor in weights.values())
    assert [scaler.is_enabled() for scaler in scalers] == [precision == "fp16"]
    assert first_loss(tmp_path) != first_loss(finished)
    assert first_loss(tmp_path) == pytest.approx(first_loss(finished), rel=0.05)


@pytest.mark.parametrize("loss", loss_names())
@pytest.mark.parametrize("encoder", ["minilm", "tiny_roberta"])
@pytest.mark.parametrize("backbone", DocREModel.backbones)
def test_every_loss_falls_on_a_fixed_batch_under_every_backbone(loss, encoder, backbone, request, sample, rel2id):
    path = str(request.getfixturevalue(encoder))
    features = read_docred(sample / "train.json", AutoTokenizer.from_pretrained(path), rel2id)[2:4]
    torch.manual_seed(0)
    model = DocREModel(path, emb_size=64, backbone=backbone, unet_channels=16, axial_layers=2)
    rate = "1e-3" if encoder == "tiny_roberta" else "1e-4"
    args = build_parser().parse_args(["--learning_rate", rate, "--classifier_lr", "1e-3"])
    optimizer = build_optimizer(model, args)
    batch = collate_fn(features)
    labels = batch.pop("labels")
    values = []
    for _ in range(5):
        value = get_loss(loss)(model(**batch), labels)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        values.append(value.item())
    assert values[-1] < 0.95 * values[0]


@pytest.mark.parametrize(
    ("backbone", "own"), [("docunet", {"liner", "segmentation_net"}), ("kd_docre", {"axial_transformer"})]
)
def test_a_modules_own_layers_train_at_their_own_rate(tiny_bert, backbone, own):
    model = DocREModel(str(tiny_bert), emb_size=64, backbone=backbone, unet_channels=16, axial_layers=1)
    names = {id(parameter): name.split(".")[0] for name, parameter in model.named_parameters()}
    optimizer = build_optimizer(model, build_parser().parse_args(["--module_lr", "4e-4"]))
    encoder, new, module = optimizer.param_groups
    assert (encoder["lr"], new["lr"], module["lr"]) == (5e-5, 1e-4, 4e-4)
    assert {names[id(p)] for p in encoder["params"]} == {"model"}
    assert {names[id(p)] for p in module["params"]} == own
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)
    same_rate = build_optimizer(model, build_parser().parse_args([]))
    assert [group["lr"] for group in same_rate.param_groups] == [5e-5, 1e-4, 1e-4]


@pytest.mark.parametrize("flag", [[], ["--keep_last_batch"]])
def test_the_last_smaller_batch_is_kept_if_asked_for(sample, tiny_bert, tmp_path, flag):
    train.main(arguments(sample, tiny_bert, tmp_path / "runs", "--train_batch_size", "5", *flag))
    records = [json.loads(line) for line in (tmp_path / "runs/seed_7/metrics.jsonl").read_text().splitlines()]
    assert max(record["step"] for record in records) == 2 * (3 if flag else 2)  # twelve documents, two epochs


def test_new_layers_have_their_own_rate_and_nothing_decays(tiny_bert):
    model = DocREModel(str(tiny_bert), emb_size=64)
    optimizer = build_optimizer(model, build_parser().parse_args([]))
    encoder, new = optimizer.param_groups
    assert (encoder["lr"], new["lr"], encoder["eps"]) == (5e-5, 1e-4, 1e-6)
    assert encoder["weight_decay"] == new["weight_decay"] == 0
    assert sum(p.numel() for g in optimizer.param_groups for p in g["params"]) == sum(
        p.numel() for p in model.parameters()
    )


def test_defaults_are_the_papers():
    args = build_parser().parse_args([])
    assert (args.num_train_epochs, args.train_batch_size, args.test_batch_size) == (30, 4, 8)
    assert args.seeds == [1, 5, 42, 66, 233] and args.warmup_ratio == 0.06 and args.max_grad_norm == 1.0


def test_gradient_accumulation_takes_a_step_for_an_incomplete_group(sample, tiny_bert, tmp_path):
    more = ("--train_batch_size", "5", "--gradient_accumulation_steps", "2", "--num_train_epochs", "1")
    train.main(arguments(sample, tiny_bert, tmp_path, *more))  # 12 documents, 2 batches, 1 step
    records = [json.loads(line) for line in (tmp_path / "seed_7" / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 1]


def test_a_loss_that_is_not_finite_names_step_and_documents():
    losses = [(3, ["A", "B"], torch.tensor(1.0)), (4, ["C"], torch.tensor(math.nan))]
    with pytest.raises(UserError, match=r"step 4: the loss is nan, on documents \['C'\]"):
        train.mean_loss(losses)


def test_a_broken_training_stops_with_exit_code_and_one_line(sample, tiny_bert, tmp_path):
    more = ["--learning_rate", "1e30", "--num_train_epochs", "4"]
    command = [sys.executable, "train.py", *arguments(sample, tiny_bert, tmp_path / "run", *more)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "error: step " in done.stderr.splitlines()[-1] and "Sample train" in done.stderr.splitlines()[-1]


def test_an_unlabelled_test_file_is_predicted(sample, tiny_bert, tmp_path):
    data = shutil.copytree(sample, tmp_path / "data")
    documents = json.loads((data / "test.json").read_text())
    (data / "test.json").write_text(json.dumps([{k: v for k, v in d.items() if k != "labels"} for d in documents]))
    train.main(arguments(data, tiny_bert, tmp_path / "run", "--num_train_epochs", "1"))
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["test"] == {}
    assert isinstance(json.loads((tmp_path / "run" / "seed_7" / "result.json").read_text()), list)


def bad_data(sample, folder):
    """A copy of the sample whose dev file has two documents of one title."""
    data = shutil.copytree(sample, folder / "data")
    documents = json.loads((data / "dev.json").read_text())
    documents[1]["title"] = documents[0]["title"]
    (data / "dev.json").write_text(json.dumps(documents))
    return data


def test_bad_input_stops_before_anything_is_written(sample, tiny_bert, tmp_path):
    output = tmp_path / "run"
    command = [sys.executable, "train.py", *arguments(bad_data(sample, tmp_path), tiny_bert, output)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "dev.json: documents 0 and 1" in errors[0]
    assert "Traceback" not in done.stderr and not output.exists()


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--loss_type", "hinge"], "no such loss"),
        (["--train_file", "absent.json"], r"absent\.json: no such file"),
        (["--model_name_or_path", "/no/such/encoder"], "cannot be loaded"),
        (["--train_batch_size", "13"], "make no batch"),
        (["--seeds", "1", "1"], "each seed once"),
        (["--emb_size", "96"], "multiple of the block size"),
        (["--wandb_project", "x"], "wandb is not installed"),
        (["--device", "cuda:99"], "not usable here"),
        (["--rel2id", "/no/such/rel2id.json"], "no such file"),
        (["--backbone", "other"], "choose from atlop, docunet, kd_docre"),
        (["--init_from", "/no/such/model.safetensors"], "cannot be read"),
        (["--teacher_scores", "/no/such/scores"], "no such file"),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(sample, tiny_bert, tmp_path, more, expected):
    output = tmp_path / "run"
    with pytest.raises(UserError, match=expected):
        train.main([*arguments(sample, tiny_bert, output), *more])
    assert not output.exists()


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--num_train_epochs", "0"), ("--seeds", "99999999999"), ("--learning_rate", "nan"), ("--warmup_ratio", "6")],
)
def test_numbers_out_of_range_are_refused(flag, value, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse_args(["--output_dir", "x", flag, value])
    assert stopped.value.code == 2 and f"argument {flag}" in capsys.readouterr().err


def test_a_conflict_in_a_later_seeds_folder_stops_before_the_first_is_trained(finished, sample, tiny_bert, tmp_path):
    shutil.copytree(finished / "seed_8", tmp_path / "seed_8")
    more = ("--seeds", "7", "8", "--loss_type", "hingeabl_released", "--num_train_epochs", "3")
    with pytest.raises(
        UserError, match=r"seed_8: holds a run with other settings \(num_train_epochs 2 there, 3 here\)"
    ):
        train.main(arguments(sample, tiny_bert, tmp_path, *more))
    assert not (tmp_path / "seed_7").exists()


def test_a_folder_of_something_else_is_refused(sample, tiny_bert, tmp_path):
    (tmp_path / "seed_7").mkdir()
    (tmp_path / "seed_7" / "config.json").write_text("[]")
    with pytest.raises(UserError, match="is no run's"):
        train.main(arguments(sample, tiny_bert, tmp_path))


def test_the_same_experiment_in_other_words_is_known_as_finished(finished, sample, tiny_bert, tmp_path, capsys):
    shutil.copy(DEFAULT_REL2ID, tmp_path / "copied.json")
    more = ("--loss_type", "HingeABL_released", "--margin", "5", "--rel2id", str(tmp_path / "copied.json"))
    train.main(arguments(sample, tiny_bert, finished, "--test_batch_size", "3", *more))
    assert "finished before: seeds 7" in capsys.readouterr().out


def test_a_run_from_before_a_setting_was_there_had_its_default(finished, sample, tiny_bert, tmp_path, capsys):
    output = shutil.copytree(finished, tmp_path / "runs")
    config = json.loads((output / "seed_7" / "config.json").read_text())
    del config["settings"]["backbone"]
    (output / "seed_7" / "config.json").write_text(json.dumps(config))
    train.main(arguments(sample, tiny_bert, output, "--loss_type", "hingeabl_released"))
    assert "finished before: seeds 7" in capsys.readouterr().out
    with pytest.raises(UserError, match="backbone atlop there, docunet here"):
        train.main(arguments(sample, tiny_bert, output, "--loss_type", "hingeabl_released", "--backbone", "docunet"))


def test_another_numbering_of_the_relations_is_another_experiment(finished, sample, tiny_bert, tmp_path):
    rel2id = json.loads(DEFAULT_REL2ID.read_text())
    rel2id["P17"], rel2id["P131"] = rel2id["P131"], rel2id["P17"]
    (tmp_path / "swapped.json").write_text(json.dumps(rel2id))
    more = ("--loss_type", "hingeabl_released", "--rel2id", str(tmp_path / "swapped.json"))
    with pytest.raises(UserError, match="another rel2id file"):
        train.main(arguments(sample, tiny_bert, finished, *more))


def test_a_runs_folder_is_not_scored_over(finished):
    before = (finished / "seed_8" / "scores.json").read_text()
    with pytest.raises(UserError, match="is a run's folder"):
        train.main(["--load_path", str(finished / "seed_7"), "--output_dir", str(finished / "seed_8")])
    assert (finished / "seed_8" / "scores.json").read_text() == before


def test_a_folder_that_holds_no_run_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match="holds no settings"):
        train.main(["--load_path", str(tmp_path)])


def test_an_output_folder_that_is_a_file_is_refused(sample, tiny_bert, tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match="cannot be written to"):
        train.main(arguments(sample, tiny_bert, tmp_path / "file" / "run"))
    assert (tmp_path / "file").read_text() == "kept"


def test_a_document_longer_than_two_windows_is_refused_before_anything_is_written(sample, tiny_bert, tmp_path):
    data = shutil.copytree(sample, tmp_path / "data")
    documents = json.loads((data / "test.json").read_text())
    documents[2]["sents"].append(["word"] * 1100)
    (data / "test.json").write_text(json.dumps(documents))
    with pytest.raises(UserError, match="--max_seq_length 1024 or less"):
        train.main(arguments(data, tiny_bert, tmp_path / "run", "--max_seq_length", "2000"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("documents", [[], [EMPTY], [{**EMPTY, "labels": []}]])
def test_a_dev_file_without_documents_or_labels_is_refused(sample, tiny_bert, tmp_path, documents):
    data = shutil.copytree(sample, tmp_path / "data")
    (data / "dev.json").write_text(json.dumps(documents))
    with pytest.raises(UserError, match=r"dev\.json: .*(no documents|labels: is missing|no labels)"):
        train.main(arguments(data, tiny_bert, tmp_path / "run"))


def test_balanced_softmax_decides_against_zero_from_end_to_end(sample, tiny_bert, tmp_path, monkeypatch):
    thresholds = []
    patterns = inference.prediction_patterns
    monkeypatch.setattr(inference, "prediction_patterns", lambda s, y, t: thresholds.append(t) or patterns(s, y, t))
    train.main(arguments(sample, tiny_bert, tmp_path, "--loss_type", "balance_softmax", "--num_train_epochs", "1"))
    assert thresholds and not any(threshold.any() for threshold in thresholds)


def test_the_end_is_announced_once_after_fifty_steps(capsys):
    clock = train.StepClock()
    clock.start()
    for step in range(120):
        clock.tick(4, torch.device("cpu"), 1000 - step, 100)
    assert capsys.readouterr().out.count("all seeds done in about") == 1


def test_missing_output_folder_is_refused(sample, tiny_bert):
    with pytest.raises(UserError, match="--output_dir is missing"):
        train.main(["--data_dir", str(sample)])


def test_original_docred_as_training_file_is_warned_of(sample, tiny_bert, tmp_path, capsys):
    data = shutil.copytree(sample, tmp_path / "data")
    documents = json.loads((data / "train.json").read_text())
    for document in documents:
        document["labels"] = document["labels"][::3]
    (data / "train.json").write_text(json.dumps(documents))
    train.prepare(parse_args(arguments(data, tiny_bert, tmp_path / "run")))
    assert "original DocRED" in capsys.readouterr().err
    train.prepare(parse_args(arguments(sample, tiny_bert, tmp_path / "run")))
    captured = capsys.readouterr()
    assert "original DocRED" not in captured.err
    assert captured.out.startswith(
        "loss           hingeabl_released (margin 5), decided against threshold class\ntrain "
    )


def test_gradient_checkpointing_changes_no_score(sample, tiny_bert, finished, tmp_path):
    more = ("--loss_type", "hingeabl_released", "--gradient_checkpointing")
    train.main(arguments(sample, tiny_bert, tmp_path / "run", *more))
    scores = [json.loads((f / "seed_7" / "scores.json").read_text()) for f in (finished, tmp_path / "run")]
    assert scores[0] == scores[1]
