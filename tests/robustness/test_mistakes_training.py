"""Mistakes in what a training is given: its files, its encoder, its output folder, its options."""

import errno
import json
import re
import shutil
from argparse import Namespace

import pytest
import torch
from test_mistakes import PAGE, POINTER, content_of
from trainings import arguments

import train
from hingeabl.errors import UserError
from hingeabl.modeling.checkpoints import read_weights
from hingeabl.modeling.encoder import load_encoder
from hingeabl.reporting.pairs import read_pair_scores
from hingeabl.training.distillation import distill
from hingeabl.training.runs import RunLog
from hingeabl.training.saved_run import open_run, save_run
from hingeabl.training.settings import parse_args

FOREIGN = [(POINTER, "is a git-lfs pointer.*run git lfs pull"), (PAGE, "is a web page.*download the raw file")]


@pytest.fixture
def data(sample, tmp_path):
    """A copy of the sample's files."""
    return shutil.copytree(sample, tmp_path / "data")


# --- data files


@pytest.mark.parametrize("split", ["dev", "test"])
def test_no_training_is_scored_on_its_training_file(data, tiny_bert, tmp_path, split):
    (data / "link.json").symlink_to(data / f"{split}.json")
    for name in (f"{split}.json", f"../data/{split}.json", str(data / f"{split}.json"), "link.json"):
        with pytest.raises(UserError, match=f"--train_file {re.escape(name)}: is the --{split}_file too.*another file"):
            train.main(arguments(data, tiny_bert, tmp_path / "run", "--train_file", name))
    assert not (tmp_path / "run").exists()


def test_dev_and_test_may_be_one_file(data, tiny_bert, tmp_path):
    experiment = train.prepare(parse_args(arguments(data, tiny_bert, tmp_path / "run", "--test_file", "dev.json")))
    assert experiment.splits["test"].documents == experiment.splits["dev"].documents


def test_a_saved_run_may_be_scored_on_its_training_file_with_a_warning(trained, tmp_path, capsys):
    train.main(["--load_path", str(trained), "--dev_file", "train.json", "--output_dir", str(tmp_path / "scores")])
    assert "WARNING: --train_file train.json: is the --dev_file too: Ign F1 ignores" in capsys.readouterr().err
    assert json.loads((tmp_path / "scores/scores.json").read_text())["dev"]["ign_f1"] == 0


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_a_missing_file_is_told_with_its_option_and_the_files_that_are_there(data, tiny_bert, tmp_path, split):
    others = [name for name in ("dev.json", "test.json", "train.json") if name != f"{split}.json"]
    expected = f"no such file; pass --{split}_file NAME; there are {', '.join([f'{split}.json', *others])}"
    for name in (f"{split}_revised.json", "x" * 300):
        with pytest.raises(UserError, match=re.escape(f"{data}/{name}: {expected}") + "$"):
            train.main(arguments(data, tiny_bert, tmp_path / "run", f"--{split}_file", name))


def test_a_missing_file_in_another_folder_is_told_as_the_option_takes_it(data, tiny_bert, tmp_path):
    (data / "old").mkdir()
    shutil.copy(data / "train.json", data / "old/train.json.gz")
    for above in ("old", str(data / "old")):
        with pytest.raises(UserError, match=f"--train_file NAME; there are {re.escape(above)}/train.json.gz$"):
            train.main(arguments(data, tiny_bert, tmp_path / "run", "--train_file", f"{above}/none.json"))


def test_a_data_folder_that_is_none_or_empty_is_told(data, tiny_bert, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    for folder, told in (
        (tmp_path / "none", "none is not a folder: check --data_dir and --train_file"),
        (data / "dev.json", "dev.json is not a folder: check --data_dir and --train_file"),
        (tmp_path / "empty", "empty has no data file: check --data_dir and --train_file"),
    ):
        with pytest.raises(UserError, match=f"train.json: no such file; .*{told}$"):
            train.main(arguments(folder, tiny_bert, tmp_path / "run"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"download Re-DocRED with python scripts/tools/fetch\.py redocred"):
        train.main(["--output_dir", "run"])


# --- output folders


def test_no_training_writes_to_its_data_its_encoder_or_its_first_weights(data, tiny_bert, trained, tmp_path):
    encoder = shutil.copytree(tiny_bert, tmp_path / "encoder")
    first = tmp_path / "first"
    (first / "seed_7").mkdir(parents=True)
    shutil.copy(trained / "model.safetensors", first / "seed_7")
    before = content_of(tmp_path)
    for output, given in ((data, "data_dir"), (encoder / ".", "model_name_or_path"), (first, "init_from")):
        more = ("--init_from", str(first / "seed_7/model.safetensors")) if given == "init_from" else ()
        with pytest.raises(UserError, match=f"--output_dir .*, which --{given} names too; name another folder"):
            train.main(arguments(data, encoder, output, *more))
    for output in (data, f"{data}/../data"):
        with pytest.raises(UserError, match="which --data_dir names too"):
            train.main(["--load_path", str(trained), "--data_dir", str(data), "--output_dir", str(output)])
    assert content_of(tmp_path) == before


def no_place(*_):
    raise PermissionError(errno.EACCES, "Permission denied")


def test_what_cannot_be_written_is_told_with_the_remedy_of_its_cause(trained, tmp_path):
    run = open_run(trained, torch.device("cpu"))
    (tmp_path / "encoder").write_text("a file")
    with pytest.raises(UserError, match=r"encoder: cannot be written .*; choose another place$"):
        save_run(tmp_path, run.model, run.tokenizer)
    log = RunLog(tmp_path, "x", None, 0, 0)
    log.file = type("File", (), {"write": no_place, "name": "metrics.jsonl"})()
    with pytest.raises(
        UserError, match=r"metrics\.jsonl: cannot be written .*; change its permissions or choose another"
    ):
        log.write(1, {"loss": 1.0})


# --- weights and encoders


@pytest.mark.parametrize(("text", "told"), FOREIGN)
def test_a_pointer_or_a_web_page_in_place_of_weights_is_called_so(tmp_path, text, told):
    for name, read in (
        ("model.safetensors", read_weights),
        ("model.pt", read_weights),
        ("pair_scores_dev.safetensors", lambda path: read_pair_scores(path, 97)),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(UserError, match=f"{name}: {told}"):
            read(tmp_path / name)


@pytest.mark.parametrize(("text", "told"), FOREIGN)
@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "pytorch_model.bin", "tokenizer.json", "vocab.txt"]
)
def test_a_pointer_or_a_web_page_in_an_encoders_folder_is_named(sample, tiny_bert, tmp_path, name, text, told):
    encoder = shutil.copytree(tiny_bert, tmp_path / "encoder")
    instead = {"pytorch_model.bin": "model.safetensors", "vocab.txt": "tokenizer.json"}
    (encoder / instead.get(name, name)).unlink()
    (encoder / name).write_text(text)
    with pytest.raises(UserError, match=f"{name}: {told}"):
        train.main(arguments(sample, encoder, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_pointer_that_is_not_needed_does_no_harm(tiny_bert, tmp_path):
    encoder = shutil.copytree(tiny_bert, tmp_path / "encoder")
    (encoder / "pytorch_model.bin").write_text(POINTER)
    assert load_encoder(str(encoder)).config.hidden_size == 32


def test_what_is_no_encoders_folder_is_called_what_it_is(sample, tiny_bert, tmp_path):
    broken = shutil.copytree(tiny_bert, tmp_path / "broken")
    (broken / "model.safetensors").unlink()
    (broken / "pytorch_model.bin").write_text("garbage")
    for encoder, told in (
        (tiny_bert / "config.json", "it is a file, not a folder"),
        (sample, "there is no config.json in it"),
        (broken, "its weights are broken, or hold something else than tensors"),
    ):
        with pytest.raises(UserError, match=re.escape(f"cannot be loaded ({told}); pass")):
            train.main(arguments(sample, encoder, tmp_path / "run"))


# --- options


@pytest.mark.parametrize("given", [["1,5"], ["1,", "5"], ["1 5"], ["1;5"]])
def test_seeds_in_one_word_are_told_to_be_apart(given, capsys):
    with pytest.raises(SystemExit):
        parse_args(["--output_dir", "x", "--seeds", *given])
    error = capsys.readouterr().err
    assert f"got {given[0]}; separate several with spaces, without commas and quotes: --seeds 1 5" in error
    with pytest.raises(SystemExit):
        parse_args(["--output_dir", "x", "--seeds", "x"])
    assert "separate" not in capsys.readouterr().err


def test_a_file_as_the_teacher_is_told_with_its_folder(trained, sample, tmp_path):
    files = {"load_path": str(trained / "model.safetensors"), "data_file": str(sample / "train.json")}
    options = {**files, "precision": None, "attention": False}
    with pytest.raises(UserError, match=re.escape(f"model.safetensors: is a file; pass the seed's folder, {trained}")):
        distill(Namespace(**options, output_dir=str(tmp_path / "scores"), device="cpu"))
    assert not (tmp_path / "scores").exists()
