"""Training and scoring from end to end, on the sample corpus and tiny encoders."""

import json
import math
import shutil
import statistics
from types import SimpleNamespace

import pytest
import torch
from model_scores import loss_with_priors
from programs import ended
from safetensors.torch import load_file
from trainings import arguments, first_loss
from transformers import AutoTokenizer

import evaluation
import train
from hingeabl.errors import UserError
from hingeabl.training import inference, session
from hingeabl.training.resume import TrainingProgress
from hingeabl.training.session import SinceLastLog, StepClock, mean_loss
from hingeabl.training.settings import build_parser
from hingeabl.training.steps import build_optimizer
from losses import loss_names
from model import DocREModel
from prepro import read_docred
from utils import collate_fn


def test_a_run_folder_holds_settings_metrics_weights_predictions_and_scores(finished, sample):
    folder = finished / "seed_7"
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("confidence.json", "types.json"),
        *("config.json", "metrics.jsonl", "model.json", "model.safetensors", "encoder", "rel2id.json"),
        *("result.json", "result_dev.json", "scores.json", "timing.json", "tensorboard"),
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


def test_the_summary_is_of_all_finished_seeds_however_many_commands_trained_them(finished, sample, tiny_bert, tmp_path):
    output = shutil.copytree(finished, tmp_path / "run")
    shutil.copytree(output / "seed_8", output / "seed_9")
    config = json.loads((output / "seed_9/config.json").read_text())
    config["settings"]["num_train_epochs"] = 3  # another training's
    (output / "seed_9/config.json").write_text(json.dumps(config))
    (output / "summary.json").unlink()
    train.main(arguments(sample, tiny_bert, output, "--seeds", "8"))
    summary, before = (json.loads((folder / "summary.json").read_text()) for folder in (output, finished))
    assert summary["seeds"] == [8, 7] and summary["dev"]["f1"] == pytest.approx(before["dev"]["f1"])


def test_a_saved_run_scores_the_same_and_writes_the_same_predictions(finished, tmp_path, capsys):
    train.main(["--load_path", str(finished / "seed_7"), "--output_dir", str(tmp_path / "again")])
    expected = json.loads((finished / "seed_7" / "scores.json").read_text())
    found = json.loads((tmp_path / "again" / "scores.json").read_text())
    assert found == {"dev": expected["dev"], "test": expected["test"]}
    for name in ("result.json", "result_dev.json"):
        assert (tmp_path / "again" / name).read_text() == (finished / "seed_7" / name).read_text()
    assert "macro_ign_f1" in capsys.readouterr().out


def test_the_evaluator_gives_the_scores_of_the_run(finished, sample, tmp_path, monkeypatch):
    files = ["--predictions", finished / "seed_7/result.json", "--gold", sample / "test.json"]
    files += ["--train", sample / "train.json", "--json", tmp_path / "scores.json"]
    monkeypatch.setattr("sys.argv", ["evaluation.py", *map(str, files)])
    evaluation.main()
    scores = json.loads((finished / "seed_7" / "scores.json").read_text())["test"]
    again = json.loads((tmp_path / "scores.json").read_text())
    assert again == {name: scores[name] for name in again}


def test_the_same_seed_gives_the_same_run(finished, sample, tiny_bert, tmp_path):
    train.main(arguments(sample, tiny_bert, tmp_path / "again", "--loss_type", "hingeabl_released"))
    for name in ("metrics.jsonl", "scores.json", "result.json", "model.safetensors"):
        assert (tmp_path / "again" / "seed_7" / name).read_bytes() == (finished / "seed_7" / name).read_bytes(), name
    other = (finished / "seed_8" / "model.safetensors").read_bytes()
    assert (tmp_path / "again" / "seed_7" / "model.safetensors").read_bytes() != other


def test_a_finished_run_is_not_repeated_and_other_settings_are_refused(finished, sample, tiny_bert, tmp_path, capsys):
    finished = shutil.copytree(finished, tmp_path / "run")
    before = (finished / "seed_7" / "model.safetensors").stat().st_mtime_ns
    train.main(arguments(sample, tiny_bert, finished, "--loss_type", "hingeabl_released"))
    assert "finished before" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"loss .*5\.0.* there, .*3\.0.* here"):
        train.main(arguments(sample, tiny_bert, finished, "--loss_type", "hingeabl_released", "--margin", "3"))
    assert (finished / "seed_7" / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp16", marks=pytest.mark.slow)])
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


KINDS = ("atl", "hingeabl_released", "amtl", "pn_risk")  # with a class as threshold, several, and of a whole batch
EVERY_LOSS = [
    pytest.param(loss, backbone, marks=[] if backbone == "atlop" or loss in KINDS else pytest.mark.slow)
    for backbone in DocREModel.backbones
    for loss in loss_names()
]


@pytest.mark.parametrize(("loss", "backbone"), EVERY_LOSS)
@pytest.mark.parametrize("encoder", [pytest.param("minilm", marks=pytest.mark.slow), "tiny_roberta"])
def test_every_loss_falls_on_a_fixed_batch_under_every_backbone(loss, encoder, backbone, request, sample, rel2id):
    path = str(request.getfixturevalue(encoder))
    features = read_docred(sample / "train.json", AutoTokenizer.from_pretrained(path), rel2id)[2:4]
    torch.manual_seed(0)
    function = loss_with_priors(loss)
    model = DocREModel(path, function.outputs(97), 64, backbone=backbone, unet_channels=16, axial_layers=2)
    rate = "1e-3" if encoder == "tiny_roberta" else "1e-4"
    if (loss, backbone) == ("pn_risk", "kd_docre"):  # its squares rise steeply where a step goes too far
        rate = "1e-5"
    classifier_rate = "1e-5" if rate == "1e-5" else "1e-3"
    args = build_parser().parse_args(["--learning_rate", rate, "--classifier_lr", classifier_rate])
    optimizer = build_optimizer(model, args)
    batch = collate_fn(features)
    labels = batch.pop("labels")
    values = []
    for _ in range(5):
        value = function(model(**batch), labels)
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


def test_gradient_accumulation_takes_a_step_for_an_incomplete_group_and_the_rate_ends_at_0(sample, tiny_bert, tmp_path):
    more = ("--train_batch_size", "4", "--gradient_accumulation_steps", "2", "--num_train_epochs", "2")
    train.main(arguments(sample, tiny_bert, tmp_path, *more))  # 12 documents, 3 batches, a step of 2 and one of 1
    records = [json.loads(line) for line in (tmp_path / "seed_7" / "metrics.jsonl").read_text().splitlines()]
    logged = [record for record in records if "loss" in record]
    assert [record["step"] for record in logged] == [2, 4]
    rates = [record["learning_rate"] for record in logged]
    assert rates[0] > 0 and rates[1] == 0


class FirstStep(Exception):
    """Ends a training at its first step."""


@pytest.mark.parametrize(
    ("backbone", "evidence"),
    [
        ("atlop", ("--evidence_weight", "10")),
        ("kd_docre", ()),
        pytest.param("atlop", (), marks=pytest.mark.slow),
        pytest.param("kd_docre", ("--evidence_weight", "10"), marks=pytest.mark.slow),
    ],
)
def test_accumulated_batches_have_the_gradient_of_one_batch(
    backbone, evidence, sample, still_bert, tmp_path, monkeypatch
):
    """Four documents of 2, 12, 20 and more than 100 pairs, of which other shares have a relation."""
    documents = json.loads((sample / "train.json").read_text())[:4]
    for document, entities in zip(documents, (2, 4, 5), strict=False):
        document["vertexSet"] = document["vertexSet"][:entities]
        document["labels"] = [x for x in document["labels"] if max(x["h"], x["t"]) < entities]
    assert len(documents[3]["vertexSet"]) > 10
    path = tmp_path / "train.json"
    path.write_text(json.dumps(documents))
    found = []

    def keep_gradients(model, *_):
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        raise FirstStep

    monkeypatch.setattr(train, "optimizer_step", keep_gradients)
    for batch, accumulated in ((4, 1), (1, 4), (2, 2), (3, 2)):
        sizes = ("--train_batch_size", str(batch), "--gradient_accumulation_steps", str(accumulated))
        more = (*sizes, *evidence, "--backbone", backbone, "--loss_type", "atl", "--train_file", str(path))
        with pytest.raises(FirstStep):
            train.main(arguments(sample, still_bert, tmp_path / f"run_{batch}", *more, "--keep_last_batch"))
    whole, *others = found
    largest = max(gradient.abs().max() for gradient in whole.values())
    for other in others:
        assert other.keys() == whole.keys() and len(whole) > 20
        for name, gradient in whole.items():  # that of a key's bias is 0 but for rounding
            allowed = 1e-5 * gradient.abs().max() + 1e-8 * largest
            assert (gradient - other[name]).abs().max() <= allowed, name


def test_a_loss_that_is_not_finite_names_step_and_documents():
    losses = [(3, ["A", "B"], torch.tensor(1.0)), (4, ["C"], torch.tensor(math.nan))]
    with pytest.raises(UserError, match=r"step 4: the loss is nan, on documents \['C'\]"):
        mean_loss(SinceLastLog(losses), [])


def test_a_broken_training_stops_with_exit_code_and_one_line(sample, tiny_bert, tmp_path, capsys):
    more = ["--learning_rate", "1e30", "--num_train_epochs", "4"]
    status, _, told = ended(capsys, train.main, *arguments(sample, tiny_bert, tmp_path / "run", *more))
    last = told.splitlines()[-1]
    assert status == 2 and "error: step " in last and "Sample train" in last


def test_an_unlabelled_test_file_is_predicted(sample, tiny_bert, tmp_path):
    data = shutil.copytree(sample, tmp_path / "data")
    documents = json.loads((data / "test.json").read_text())
    (data / "test.json").write_text(json.dumps([{k: v for k, v in d.items() if k != "labels"} for d in documents]))
    train.main(arguments(data, tiny_bert, tmp_path / "run", "--num_train_epochs", "1"))
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["test"] == {}
    assert isinstance(json.loads((tmp_path / "run" / "seed_7" / "result.json").read_text()), list)


def test_balanced_softmax_decides_against_zero_from_end_to_end(sample, tiny_bert, tmp_path, monkeypatch):
    thresholds = []
    patterns = inference.prediction_patterns
    monkeypatch.setattr(inference, "prediction_patterns", lambda s, y, t: thresholds.append(t) or patterns(s, y, t))
    train.main(arguments(sample, tiny_bert, tmp_path, "--loss_type", "balance_softmax", "--num_train_epochs", "6"))
    assert thresholds and not any(threshold.any() for threshold in thresholds)
    pairs = load_file(tmp_path / "seed_7" / "pair_scores_test.safetensors")
    titles = [document["title"] for document in json.loads((sample / "test.json").read_text())]
    rel2id = json.loads((tmp_path / "seed_7" / "rel2id.json").read_text())
    entries = json.loads((tmp_path / "seed_7" / "result.json").read_text())
    found = {(entry["title"], entry["h_idx"], entry["t_idx"], entry["r"]) for entry in entries}
    places = [
        (titles[d], *ends) for d, ends in zip(pairs["document"].tolist(), pairs["entities"].tolist(), strict=True)
    ]
    ranks = pairs["scores"].argsort(dim=1, descending=True)[:, :4]
    expected = {
        (*place, relation)
        for place, row, highest in zip(places, pairs["scores"], ranks.tolist(), strict=True)
        for relation, number in rel2id.items()
        if number and number in highest and row[number] > 0
    }
    assert found == expected and len(found) > 10


@pytest.mark.parametrize(("device", "after"), [("cpu", [5, 50]), ("cuda", [50])])
def test_the_end_is_estimated_early_on_a_cpu_and_once_more_after_fifty_steps(device, after, capsys, monkeypatch):
    """Steps take a second, but the first, which takes a minute, and does not count."""
    args = SimpleNamespace(num_train_epochs=10, train_batch_size=4, gradient_accumulation_steps=1)
    splits = {name: SimpleNamespace(documents=[]) for name in ("dev", "test")}
    monkeypatch.setattr(session, "describe_device", str)
    seconds = iter([0, *range(60, 200)])
    monkeypatch.setattr(session.time, "perf_counter", lambda: next(seconds))
    clock = StepClock(SimpleNamespace(args=args, splits=splits, device=torch.device(device)))
    clock.start()
    told = []
    for step in range(1, 121):
        clock.tick(TrainingProgress(epoch=1, step=step), total_steps=1000)
        if shown := capsys.readouterr().out:
            told.append(step)
            assert shown.startswith(f"1.00 s a step: all seeds done in about 0:{(1000 - step) // 60}:")
    assert told == after


def test_gradient_checkpointing_changes_no_score(sample, tiny_bert, finished, tmp_path):
    more = ("--loss_type", "hingeabl_released", "--gradient_checkpointing")
    train.main(arguments(sample, tiny_bert, tmp_path / "run", *more))
    scores = [json.loads((f / "seed_7" / "scores.json").read_text()) for f in (finished, tmp_path / "run")]
    assert scores[0] == scores[1]
