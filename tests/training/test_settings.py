"""Settings and data that do not fit are refused before anything is written; a finished run is known again."""

import itertools
import json
import shutil

import pytest
from programs import ended
from trainings import EMPTY, arguments

import train
from hingeabl.data.relations import DEFAULT_REL2ID
from hingeabl.errors import UserError, print_warning
from hingeabl.training.settings import build_parser, parse_args


def test_defaults_are_the_papers():
    args = build_parser().parse_args([])
    assert (args.num_train_epochs, args.train_batch_size, args.test_batch_size) == (30, 4, 32)
    assert args.seeds == [1, 5, 42, 66, 233] and args.warmup_ratio == 0.06 and args.max_grad_norm == 1.0


def bad_data(sample, folder):
    """A copy of the sample whose dev file has two documents of one title."""
    data = shutil.copytree(sample, folder / "data")
    documents = json.loads((data / "dev.json").read_text())
    documents[1]["title"] = documents[0]["title"]
    (data / "dev.json").write_text(json.dumps(documents))
    return data


def test_bad_input_stops_before_anything_is_written(sample, tiny_bert, tmp_path, capsys):
    output = tmp_path / "run"
    status, _, told = ended(capsys, train.main, *arguments(bad_data(sample, tmp_path), tiny_bert, output))
    errors = [line for line in told.splitlines() if line.startswith("error: ")]
    assert status == 2 and len(errors) == 1 and "dev.json: documents 0 and 1" in errors[0]
    assert not output.exists()


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--loss_type", "hinge"], "no such loss"),
        (["--train_file", "absent.json"], r"absent\.json: no such file"),
        (["--model_name_or_path", "/no/such/encoder"], "cannot be loaded"),
        (["--train_batch_size", "13"], "are fewer than one batch"),
        (["--seeds", "1", "1"], "each seed once"),
        (["--emb_size", "96"], "multiple of the block size"),
        (["--wandb_project", "x"], "wandb is not installed"),
        (["--device", "cuda:99"], "not usable here"),
        (["--rel2id", "/no/such/rel2id.json"], "no such file"),
        (["--backbone", "other"], "choose from atlop, docunet, kd_docre"),
        (["--init_from", "/no/such/model.safetensors"], "no such file"),
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
    with pytest.raises(UserError, match="is not from a training run"):
        train.main(arguments(sample, tiny_bert, tmp_path))


def test_the_same_experiment_in_other_words_is_known_as_finished(finished, sample, tiny_bert, tmp_path, capsys):
    shutil.copy(DEFAULT_REL2ID, tmp_path / "copied.json")
    more = ("--loss_type", "HingeABL_released", "--margin", "5", "--rel2id", str(tmp_path / "copied.json"))
    output = shutil.copytree(finished, tmp_path / "run")
    train.main(arguments(sample, tiny_bert, output, "--test_batch_size", "3", *more))
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


@pytest.mark.parametrize("loaded", ["seed_7", "seed_7/model.safetensors"])
def test_a_runs_folder_is_not_scored_over(finished, sample, tiny_bert, loaded):
    before = (finished / "seed_8" / "scores.json").read_text()
    with pytest.raises(UserError, match="is a run's folder"):
        train.main(arguments(sample, tiny_bert, finished / "seed_8", "--load_path", str(finished / loaded)))
    assert (finished / "seed_8" / "scores.json").read_text() == before


def test_options_that_a_saved_run_does_not_take_are_told(finished, sample, tiny_bert, tmp_path, capsys):
    run = str(finished / "seed_7")
    train.main(["--load_path", run, "--data_dir", str(sample), "--test_batch_size", "2", "--num_labels", "3"])
    assert "without effect" not in capsys.readouterr().err
    train.main(["--load_path", run, "--backbone", "docunet", "--seeds", "1", "--model_name_or_path", "other"])
    told = "WARNING: --model_name_or_path, --backbone, --seeds: without effect, as --load_path takes the saved model"
    assert told in capsys.readouterr().err
    file = arguments(sample, tiny_bert, tmp_path, "--load_path", f"{run}/model.safetensors")
    assert parse_args(file).model_name_or_path == str(tiny_bert)
    assert "--model_name_or_path" not in capsys.readouterr().err


def test_a_saved_run_is_scored_while_the_run_that_it_began_with_is_trained_again(finished, sample, tmp_path, capsys):
    copied = shutil.copytree(finished / "seed_7", tmp_path / "seed_7")
    config = json.loads((copied / "config.json").read_text())
    other = shutil.copytree(finished / "seed_8", tmp_path / "seed_8")
    (other / "scores.json").unlink()
    config["settings"]["init_from"] = str(other)
    (copied / "config.json").write_text(json.dumps(config))
    train.main(["--load_path", str(copied), "--data_dir", str(sample), "--output_dir", str(tmp_path / "new")])
    assert json.loads((tmp_path / "new/scores.json").read_text())["test"]["f1"] > 0


def test_a_folder_that_is_scored_into_again_keeps_no_confidence_of_the_run_before(finished, sample, tmp_path):
    data = shutil.copytree(sample, tmp_path / "data")
    scored = ["--load_path", str(finished / "seed_7"), "--data_dir", str(data), "--output_dir", str(tmp_path / "new")]
    train.main(scored)
    assert (tmp_path / "new/confidence.json").exists() and (tmp_path / "new/types.json").exists()
    documents = json.loads((data / "dev.json").read_text())
    (data / "dev.json").write_text(json.dumps([document | {"labels": []} for document in documents]))
    train.main(scored)  # with no labels in dev, none can be fitted
    assert not (tmp_path / "new/confidence.json").exists() and not (tmp_path / "new/types.json").exists()


def test_a_folder_that_holds_no_run_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(UserError, match="holds no settings"):
        train.main(["--load_path", str(tmp_path)])


def test_a_folder_of_runs_in_place_of_a_seeds_names_a_seeds(finished):
    with pytest.raises(UserError, match=r"config\.json: no such file; pass the folder of a seed, such as .*seed_7"):
        train.main(["--load_path", str(finished)])


def test_an_output_folder_that_is_a_file_is_refused(sample, tiny_bert, tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match="cannot be written to"):
        train.main(arguments(sample, tiny_bert, tmp_path / "file" / "run"))
    assert (tmp_path / "file").read_text() == "kept"


def test_documents_of_any_length_are_trained_and_scored(sample, tiny_bert, tmp_path):
    data = shutil.copytree(sample, tmp_path / "data")
    for split in ("train", "dev", "test"):
        documents = json.loads((data / f"{split}.json").read_text())[:4]
        documents[2]["sents"].insert(0, ["word"] * 1500)
        for mention in itertools.chain.from_iterable(documents[2]["vertexSet"]):
            mention["sent_id"] += 1
        for label in documents[2]["labels"]:
            label["evidence"] = [number + 1 for number in label["evidence"]]
        (data / f"{split}.json").write_text(json.dumps(documents))
    length = ("--max_seq_length", "4096", "--evidence_weight", "0.1")
    train.main(arguments(data, tiny_bert, tmp_path / "run", "--seeds", "1", "--num_train_epochs", "3", *length))
    run = tmp_path / "run/seed_1"
    train.main(["--load_path", str(run), "--data_dir", str(data), "--output_dir", str(tmp_path / "again")])
    scores = json.loads((run / "scores.json").read_text())
    assert json.loads((tmp_path / "again/scores.json").read_text())["test"] == scores["test"]
    assert scores["test"]["n_predictions"] > 10


def test_a_saved_run_is_scored_whatever_has_become_of_the_run_that_it_started_from(trained, sample, tmp_path):
    run, first = (shutil.copytree(trained, tmp_path / name) for name in ("run", "first"))
    (first / "rel2id.json").write_text('{"Na": 0, "P1": 1}')
    config = json.loads((run / "config.json").read_text())
    config["settings"]["init_from"] = str(first)
    (run / "config.json").write_text(json.dumps(config))
    train.main(["--load_path", str(run), "--data_dir", str(sample), "--output_dir", str(tmp_path / "out")])
    assert json.loads((tmp_path / "out/scores.json").read_text())["test"]


@pytest.mark.parametrize(
    ("option", "file"), [("--load_path", ""), ("--init_from", ""), ("--init_from", "model.safetensors")]
)
def test_classes_in_another_order_than_the_runs_are_refused(trained, sample, tiny_bert, tmp_path, option, file):
    rel2id = json.loads((trained / "rel2id.json").read_text())
    renamed = dict(zip(rel2id, [0, *range(2, len(rel2id)), 1], strict=True))
    (tmp_path / "rel2id.json").write_text(json.dumps(renamed))
    more = (option, str(trained / file), "--rel2id", str(tmp_path / "rel2id.json"))
    with pytest.raises(UserError, match=r"rel2id\.json: has other classes than .*seed_7/rel2id\.json; pass the latter"):
        train.main(arguments(sample, tiny_bert, tmp_path / "run", *more))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("loss", "kept"), [("amtl", True), ("pn_risk", False)])
def test_a_training_goes_on_with_the_groups_of_the_run_that_it_begins_with(sample, tiny_bert, tmp_path, loss, kept):
    """Each of AMTL's further outputs is the threshold of a group of relations; SSR-PU's rates are of the new file."""
    start = ("--loss_type", loss, "--num_train_epochs", "1")
    train.main(arguments(sample, tiny_bert, tmp_path / "first", *start))
    documents = json.loads((sample / "train.json").read_text())
    for document in documents:
        document["labels"] = document["labels"][:2]
    data = shutil.copytree(sample, tmp_path / "data")
    (data / "train.json").write_text(json.dumps(documents))
    begun = ("--init_from", str(tmp_path / "first/seed_7"))
    train.main(arguments(data, tiny_bert, tmp_path / "second", *start, *begun))
    first, second = (json.loads((tmp_path / f"{run}/seed_7/config.json").read_text()) for run in ("first", "second"))
    assert (first["priors"] == second["priors"]) == kept


@pytest.mark.parametrize(("docreds", "asked"), [(True, True), (False, False)])
def test_only_data_with_docreds_relations_is_asked_whether_it_is_docred(
    sample, tiny_bert, tmp_path, capsys, docreds, asked
):
    data = shutil.copytree(sample, tmp_path / "data")
    rel2id = json.loads(DEFAULT_REL2ID.read_text())
    if not docreds:
        rel2id["mine"] = len(rel2id)
    (data / "rel2id.json").write_text(json.dumps(rel2id))
    documents = json.loads((data / "train.json").read_text())
    for document in documents:
        document["labels"] = document["labels"][:2]
    (data / "train.json").write_text(json.dumps(documents))
    more = ("--rel2id", str(data / "rel2id.json"), "--num_train_epochs", "1")
    train.main(arguments(data, tiny_bert, tmp_path / "run", *more))
    assert ("Is the training file the original DocRED?" in capsys.readouterr().err) == asked


def test_of_several_processes_the_first_alone_warns(monkeypatch, capsys):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("RANK", "3")  # set by somebody else than torchrun
    print_warning("x")
    assert capsys.readouterr().err == "WARNING: x\n"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    for rank, told in (("0", "WARNING: x\n"), ("3", "")):
        monkeypatch.setenv("RANK", rank)
        print_warning("x")
        assert capsys.readouterr().err == told


@pytest.mark.parametrize("documents", [[], [EMPTY], [{**EMPTY, "labels": []}]])
def test_a_dev_file_without_documents_or_labels_is_refused(sample, tiny_bert, tmp_path, documents):
    data = shutil.copytree(sample, tmp_path / "data")
    (data / "dev.json").write_text(json.dumps(documents))
    with pytest.raises(UserError, match=r"dev\.json: .*(no documents|labels: is missing|no labels)"):
        train.main(arguments(data, tiny_bert, tmp_path / "run"))


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
