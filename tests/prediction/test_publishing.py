"""A run published to a folder: it scores as before and tells nothing of the machine, and the card is its record."""

import errno
import json
import re
import shutil
import statistics
from pathlib import Path

import publish
import pytest
import torch
import yaml
from conftest import ROOT
from model_scores import CPU

import train
from hingeabl.compressed import compress, expand
from hingeabl.errors import UserError
from hingeabl.files import read_json, write_json
from hingeabl.prediction.predictor import Predictor
from hingeabl.readers.documents import load_documents
from hingeabl.reporting import publishing
from hingeabl.reporting.publishing import files_of, write_folder
from hingeabl.training import inference
from hingeabl.training.fitted import CONFIDENCE
from hingeabl.training.saved_run import open_run
from prepro import read_docred

FILES = {
    "README.md",
    "confidence.json",
    "types.json",
    "config.json",
    "model.json",
    "model.safetensors",
    "rel2id.json",
    "scores.json",
}
ENCODER = {"encoder/config.json", "encoder/tokenizer.json", "encoder/tokenizer_config.json"}
NOT_MEASURED = {"rel2id", "rel2id.json", "SHA-256", "F1", "2023", "wang2023"}  # files, headings, the paper's year
KEPT = {"kept_path": "v", "sep_token": "/s"}  # of an encoder's files: a path within, and no path


@pytest.fixture(scope="module")
def published(trained, tmp_path_factory):
    """The folder of a published run."""
    folder = tmp_path_factory.mktemp("hub") / "made" / "here"
    publish.main([str(trained), "--folder", str(folder)])
    return folder


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of both seeds, to change."""
    return shutil.copytree(finished, tmp_path / "runs") / "seed_7"


def change(folder, **settings):
    """Set settings of a run's config.json."""
    config = read_json(folder / "config.json")
    config["settings"].update(settings)
    write_json(folder / "config.json", config)


def files_below(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def all_scores(folder, file):
    """A run's scores of all pairs of a file's documents."""
    run = open_run(folder, CPU)
    features = read_docred(file, run.tokenizer, run.rel2id)
    return torch.cat([scores for _, scores, *_ in inference.score(run.model, features, CPU, "fp32", 4096)])


def test_a_published_run_gives_bit_equal_scores(trained, published, sample):
    expected = all_scores(trained, sample / "test.json")
    assert len(expected) > 100 and torch.equal(all_scores(published, sample / "test.json"), expected)


def test_a_predictor_of_a_published_run_predicts_what_the_run_does(trained, published, sample):
    documents = load_documents(sample / "test.json")
    found, expected = (Predictor.from_run(str(folder)).predict(documents).entries for folder in (published, trained))
    assert len(expected) > 10 and found == expected


def test_train_scores_a_published_run_as_the_run_was_scored(trained, published, sample, tmp_path):
    train.main([f"--load_path={published}", f"--data_dir={sample}", f"--output_dir={tmp_path / 'again'}"])
    expected = read_json(trained / "scores.json")
    assert read_json(tmp_path / "again" / "scores.json") == {split: expected[split] for split in ("dev", "test")}


def test_what_loads_the_run_is_published_and_nothing_else(published):
    assert files_below(published) == FILES | ENCODER
    assert [path.name for path in published.parent.iterdir()] == ["here"]


def test_no_file_names_a_path_of_this_machine(copied, tmp_path):
    change(copied, data_dir="../of/me", init_from="~/weights", teacher_scores="/mnt/of/me/scores")
    for name in ("config", "tokenizer_config"):
        path = copied / "encoder" / f"{name}.json"
        write_json(path, read_json(path) | {"_name_or_path": "/mnt/of/me/bert", "vocab_file": "~/v.txt"} | KEPT)
    write_folder(copied, tmp_path / "out", None)
    settings = read_json(tmp_path / "out" / "config.json")["settings"]
    assert [settings[name] for name in ("data_dir", "init_from", "teacher_scores")] == ["me", "weights", "scores"]
    assert not {"output_dir", "cache_dir", "load_path", "rel2id", "device", "wandb_project"} & settings.keys()
    for name in ENCODER - {"encoder/tokenizer.json"}:
        assert KEPT.items() <= read_json(tmp_path / "out" / name).items()
    for name in FILES | ENCODER:
        content = (tmp_path / "out" / name).read_bytes()
        assert not any(str(path).encode() in content for path in (ROOT, tmp_path.parent.parent, "/mnt/of")), name
        if name.endswith(("config.json", ".md")):
            assert b"../" not in content and b"~/" not in content, name


def test_paths_within_the_working_folder_and_hub_names_stay(copied, tmp_path):
    for seed in (copied, copied.parent / "seed_8"):
        change(seed, data_dir="dataset/redocred", model_name_or_path="google-bert/bert-base-cased")
    write_folder(copied, tmp_path / "out", None)
    settings = read_json(tmp_path / "out" / "config.json")["settings"]
    assert settings["data_dir"] == "dataset/redocred"
    assert settings["model_name_or_path"] == "google-bert/bert-base-cased"


def numbers_in(text):
    """Every word of a text that holds a digit."""
    return {word.strip(".") for word in re.findall(r"[\w.+-]*\d[\w.+-]*", text)}


def numbers_of(value):
    """The same of all that a record holds, at any depth, as a card may write it."""
    if isinstance(value, dict):
        return numbers_in(" ".join(value)).union(*map(numbers_of, value.values()))
    if isinstance(value, list):
        return set().union(*map(numbers_of, value))
    percent = {f"{100 * value:.2f}"} if isinstance(value, float) else set()
    return numbers_in(str(value)) | percent


def test_every_number_of_the_card_is_in_the_runs_record(finished, published):
    files = ("seed_7/config.json", "seed_7/scores.json", "summary.json")  # the last has means and deviations
    known = set().union(*(numbers_of(read_json(finished / file)) for file in files)) | NOT_MEASURED
    confidence = read_json(finished / "seed_7" / CONFIDENCE)
    known |= {f"{confidence[name]:.4f}" for name in ("slope", "intercept")} | {f"{confidence['test_ece']:.3f}", "10"}
    card = (published / "README.md").read_text()
    assert len(numbers_in(card)) > 40 and not numbers_in(card) - known
    assert numbers_in(card.replace("word pieces", "512 word pieces")) - known == {"512"}


def test_the_cards_scores_are_this_seeds_with_mean_and_deviation_over_all(finished, published):
    card, summary = (published / "README.md").read_text(), read_json(finished / "summary.json")
    rows = re.findall(r"^\| (dev|test) \| ([\w ]+) \| ([\d.]+) \| ([\d.]+ ± [\d.]+) \|$", card, re.M)
    assert len(rows) == 12
    for split, title, own, spread in rows:
        values = [run[split][title.lower().replace(" ", "_")] for run in summary["runs"]]
        assert own == f"{100 * values[0]:.2f}"
        assert spread == f"{100 * statistics.mean(values):.2f} ± {100 * statistics.stdev(values):.2f}"
    assert "over the seeds 7, 8." in card and f"(epoch {summary['runs'][0]['best_epoch']})" in card


def test_the_card_names_data_settings_use_limits_and_the_paper(trained, published):
    card, config = (published / "README.md").read_text(), read_json(trained / "config.json")
    assert re.findall(r"^#+ (.*)$", card, re.M) == [
        *("owner/name", "Data", "Decision rule", "Scores", "Confidence"),
        *("Settings", "How to use", "Limits", "Citation"),
    ]
    for use, checksum in config["data"].items():
        assert re.search(rf"^\| {use} \| .*`{checksum}` \|$", card, re.M)
    for row in ("| `emb_size` | 64 |", "| `seeds` | 7 8 |", "| `margin` | not set |", "| processes | 1 |"):
        assert row in card
    assert f"| git commit | {config['environment']['git_commit'] or 'not set'} |" in card
    assert "predict.py --load_path owner/name" in card and 'Predictor.from_run("owner/name")' in card
    title = "Adaptive Hinge Balance Loss for Document-Level Relation Extraction"
    authors = "Wang, Jize and Le, Xinyi and Peng, Xiaodi and Chen, Cailian"
    assert f"title = {{{title}}}" in card and f"author = {{{authors}}}" in card and "year = {2023}" in card


def test_a_seed_alone_has_no_spread(copied, tmp_path):
    shutil.rmtree(copied.parent / "seed_8")
    write_folder(copied, tmp_path / "out", None)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "±" not in card and "one seed alone" in card
    assert f"| test | F1 | {100 * read_json(copied / 'scores.json')['test']['f1']:.2f} |" in card


def test_a_test_file_without_labels_has_no_row(copied, tmp_path):
    for seed in (copied, copied.parent / "seed_8"):
        write_json(seed / "scores.json", read_json(seed / "scores.json") | {"test": {}})
    write_folder(copied, tmp_path / "out", None)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| dev | F1 |" in card and "| test | F1 |" not in card


@pytest.mark.parametrize(
    ("loss", "threshold"), [("atl", "the score of the class Na"), ("balanced_softmax", "zero"), ("aml", "the score of")]
)
def test_the_decision_rule_is_the_losss(copied, tmp_path, loss, threshold):
    for seed in (copied, copied.parent / "seed_8"):
        config = read_json(seed / "config.json")
        config["loss"] = {"name": loss}
        config["settings"] |= {"loss_type": loss, "num_labels": 3}
        write_json(seed / "config.json", config)
    write_folder(copied, tmp_path / "out", None)
    decision = read_json(tmp_path / "out" / "config.json")["decision"]
    assert decision["threshold"].startswith(threshold) and decision["num_labels"] == 3
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"exceeds {decision['threshold']} and is among the pair's 3 highest" in card


def front_matter(files):
    return yaml.safe_load(files["README.md"].decode().split("---\n")[1])


def test_the_cards_head_is_what_the_hub_reads(copied, tmp_path):
    head = front_matter(files_of(copied, "me/model", None))
    assert head["tags"][-2:] == ["atlop", "hingeabl_released"] and "base_model" not in head
    assert (head["license"], head["license_name"]) == ("other", "unspecified")
    for seed in (copied, copied.parent / "seed_8"):
        change(seed, model_name_or_path="bert-base-cased")
    files = files_of(copied, "me/model", "mit")
    assert front_matter(files)["license"] == "mit" and "license_name" not in front_matter(files)
    assert front_matter(files)["base_model"] == "bert-base-cased"
    assert "# me/model" in files["README.md"].decode()


def refused(message, *arguments):
    with pytest.raises(UserError, match=message):
        publish.main([str(argument) for argument in arguments])


def test_what_cannot_be_published_is_told_and_nothing_is_written(copied, finished, tmp_path):
    out = ("--folder", tmp_path / "made" / "out")
    refused(r"absent: is no folder; pass the folder of a finished", tmp_path / "absent", *out)
    refused(r"model\.json: is no folder", copied / "model.json", *out)
    refused(r"pass the folder of a seed, such as .*seed_7", finished, *out)
    refused(r"--license GPL 3: is no license of the hub", copied, *out, "--license", "GPL 3")
    refused(r"--private: is of the hub", copied, *out, "--private")
    refused(r"--repo model: is no name on the hub; pass owner/name", copied, "--repo", "model")
    (copied / "model.json").rename(copied / "other.json")
    refused(r"model\.json: no such file", copied, *out)
    (copied / "scores.json").unlink()
    refused(r"seed_7: is not finished \(2 of 2 epochs are done; .*\); run its training again", copied, *out)
    assert not (tmp_path / "made").exists()


def test_a_folder_that_is_taken_is_left_as_it_is_and_an_empty_one_is_filled(copied, tmp_path, monkeypatch):
    for taken in (copied, copied / "config.json"):
        before = files_below(copied)
        refused(r"is there already; name a new folder", copied, "--folder", taken)
        assert files_below(copied) == before
    (tmp_path / "empty").mkdir()
    publish.main([str(copied), "--folder", str(tmp_path / "empty")])
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    publish.main([str(copied), "--folder", "."])
    assert files_below(tmp_path / "here") == files_below(tmp_path / "empty") == FILES | ENCODER


def test_a_full_disk_leaves_nothing_half_written(copied, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(publishing.shutil, "copyfile", full)
    refused(
        r"out: cannot be written \(No space left on device\); free some", copied, "--folder", tmp_path / "a" / "out"
    )
    assert not (tmp_path / "a").exists()


def test_other_seeds_must_be_of_the_same_experiment(copied, tmp_path):
    other = copied.parent / "seed_8"
    change(
        other,
        model_name_or_path="/elsewhere/"
        + Path(read_json(copied / "config.json")["settings"]["model_name_or_path"]).name,
    )
    assert "seeds 7, 8" in files_of(copied, "me/model", None)["README.md"].decode()  # trained on another machine
    config = read_json(other / "config.json")
    half = config["settings"] | {"train_batch_size": config["settings"]["train_batch_size"] // 2}
    own = {"settings": half, "processes": 2, "data": config["data"] | {"initial weights": "1" * 64}}
    write_json(other / "config.json", config | own)
    assert "seeds 7, 8" in files_of(copied, "me/model", None)["README.md"].decode()
    write_json(other / "config.json", config | {"processes": 2})
    refused(r"seed_8: lies beside .*seed_7 and is no other seed of it", copied, "--folder", tmp_path / "out")
    write_json(other / "config.json", config)
    change(other, num_train_epochs=3)
    refused(r"seed_8: lies beside .*seed_7 and is no other seed of it", copied, "--folder", tmp_path / "out")
    change(other, num_train_epochs=2, output_dir="elsewhere")
    config = read_json(other / "config.json")
    write_json(other / "config.json", config | {"data": config["data"] | {"train": "0" * 64}})
    refused(r"settings or data differ", copied, "--folder", tmp_path / "out")
    del config["settings"]["keep_last_batch"]  # a run of before there was this setting had its default
    write_json(other / "config.json", config)
    assert "seeds 7, 8" in files_of(copied, "me/model", None)["README.md"].decode()
    write_json(other / "config.json", read_json(other / "config.json") | {"seed": 7})
    refused(r"or the seed is the same", copied, "--folder", tmp_path / "out")
    (other / "scores.json").unlink()  # it is still trained
    publish.main([str(copied), "--folder", str(tmp_path / "out")])
    assert "one seed alone" in (tmp_path / "out" / "README.md").read_text()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["seed"] == 7
    assert Path(tmp_path / "out" / "model.safetensors").read_bytes() == (copied / "model.safetensors").read_bytes()


def test_a_compressed_run_is_a_quarter_as_large_and_scores_almost_the_same(trained, sample, tmp_path):
    publish.main([str(trained), "--folder", str(tmp_path / "small"), "--compress"])
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (trained, tmp_path / "small")]
    assert sizes[1] < 0.3 * sizes[0]
    expected, found = (all_scores(folder, sample / "test.json") for folder in (trained, tmp_path / "small"))
    assert (found - expected).abs().max() < 0.05 * expected.std()
    assert not torch.equal(found, expected)
    for folder in (trained, tmp_path / "small"):
        assert open_run(folder, CPU).model.bilinear.weight.dtype == torch.float32


def test_a_compressed_run_has_scores_and_confidence_only_if_these_weights_were_scored(
    trained, sample, tmp_path, monkeypatch
):
    shift = read_json(trained / "confidence.json")["best_shift"] + 0.5
    options = ["--compress", "--shift", str(shift)]
    small, scored, whole = (tmp_path / name for name in ("small", "scored", "whole"))
    publish.main([str(trained), "--folder", str(small), *options])
    assert not (small / "confidence.json").exists() and "test" not in read_json(small / "scores.json")
    assert "The compressed weights were not scored." in (small / "README.md").read_text()
    with pytest.raises(UserError, match=r"--compress: changes the scores; .* pass --scored"):
        publish.main([str(trained), "--repo", "a/b", *options])
    train.main(["--load_path", str(small), "--data_dir", str(sample), "--output_dir", str(scored)])
    publish.main([str(trained), "--folder", str(whole), *options, "--scored", str(scored)])
    card, scores = (whole / "README.md").read_text(), read_json(scored / "scores.json")
    assert {split: read_json(whole / "scores.json")[split] for split in scores} == scores
    assert read_json(whole / "confidence.json") == read_json(scored / "confidence.json")
    assert f"{100 * scores['test']['f1']:.2f}" in card and "of one seed alone" in card
    assert "was added to the threshold." in card and "the highest F1 on dev" not in card


def test_compressed_numbers_are_at_most_half_a_step_off():
    torch.manual_seed(0)
    weights = {
        "matrix": torch.randn(7, 33) * torch.logspace(-3, 3, 7)[:, None],
        "zero": torch.zeros(2, 5),
        "vector": torch.randn(5),
        "whole": torch.arange(6).view(2, 3),
    }
    packed = compress(weights)
    assert packed["matrix"].dtype == packed["zero"].dtype == torch.int8
    found = expand(packed)
    assert found.keys() == weights.keys()
    for name in ("zero", "vector", "whole"):
        assert torch.equal(found[name], weights[name])
    step = weights["matrix"].abs().amax(dim=1, keepdim=True) / 127
    assert ((found["matrix"] - weights["matrix"]).abs() <= 0.501 * step).all()
    assert expand(weights) == weights  # what was never compressed stays
