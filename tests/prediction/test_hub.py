"""Runs to and from the model hub: a small one on loopback, and the one line that tells what is wrong."""

import functools
import os
import shutil
import socket
import subprocess
import sys

import distill
import huggingface_hub
import publish as publish_run
import pytest
import torch
from conftest import ROOT
from hub_stand_in import TOKEN, Model

import predict
import train
from hingeabl.errors import UserError
from hingeabl.files import read_json, sha256_of_file
from hingeabl.prediction.predictor import Predictor
from hingeabl.reporting.publishing import publish
from hingeabl.training.hub import NEEDED, resolve_run

PREDICT = ["predict.py", "--load_path", "me/model", "--input"]


def run(hub, home, *command, **environment):
    """A program as a process of its own, with the hub and a home for the hub's cache."""
    hub_at = {"HF_ENDPOINT": hub.address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN}
    inherited = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment = inherited | hub_at | {"OMP_NUM_THREADS": str(torch.get_num_threads())} | environment
    command = [sys.executable, *map(str, command)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_a_run_goes_to_the_hub_and_comes_back_with_equal_scores(near, trained, published, sample, tmp_path, capsys):
    """Published and downloaded in this process; then a process without a network finds it in the cache."""
    documents = sample / "test.json"
    publish_run.main([str(trained), "--repo", "me/model", "--private"])
    assert capsys.readouterr().out == f"published: {near.address}/me/model\n"
    model = near.models["me/model"]
    files = model.commits[model.revisions["main"]]
    assert model.private and b'Predictor.from_run("me/model")' in files["README.md"]
    for path in published.rglob("*.*"):
        name = path.relative_to(published).as_posix()
        assert name == "README.md" or files[name] == path.read_bytes(), name

    expected = ["--load_path", str(trained), "--input", str(documents), "--output", str(tmp_path / "expected.json")]
    predict.main(expected)
    predict.main([*PREDICT[1:], str(documents), "--output", str(tmp_path / "online.json")])
    assert near.requests
    near.requests.clear()
    cache = {"HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    done = run(near, tmp_path, *PREDICT, documents, "--output", tmp_path / "offline.json", **cache)
    assert done.returncode == 0 and not near.requests, done.stderr
    for name in ("online.json", "offline.json"):
        assert (tmp_path / name).read_text() == (tmp_path / "expected.json").read_text()


def test_without_a_network_a_run_that_is_not_in_the_cache_is_told_in_one_line(hub, tmp_path):
    (tmp_path / "docs.json").write_text("[]")
    command = [*PREDICT, tmp_path / "docs.json", "--output", tmp_path / "o.json"]
    done = run(hub, tmp_path, *command, HF_HUB_OFFLINE="1")
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert "--load_path me/model: no such file or folder, and not to be had from the hub (Cannot reach" in done.stderr
    assert "HF_HUB_OFFLINE=1" in done.stderr and not (tmp_path / "o.json").exists() and not hub.requests


def test_train_scores_a_run_of_the_hub(near, trained, published, sample, tmp_path):
    near.add("me/model", published)
    train.main(["--load_path=me/model", f"--data_dir={sample}", f"--output_dir={tmp_path / 'again'}"])
    expected = read_json(trained / "scores.json")
    assert read_json(tmp_path / "again" / "scores.json") == {split: expected[split] for split in ("dev", "test")}


def test_a_run_of_the_hub_teaches(near, published, sample, tmp_path):
    near.add("me/model", published)
    scores = tmp_path / "scores"
    distill.main(["--load_path", "me/model", "--data_file", str(sample / "dev.json"), "--output_dir", str(scores)])
    assert read_json(scores / "teacher.json")["teacher"] == sha256_of_file(published / "model.safetensors")


def test_a_page_names_the_run_as_on_the_hub(near, published, sample, tmp_path):
    near.add("me/model", published)
    files = ["--input", str(sample / "test.json"), "--output", str(tmp_path / "o.json"), "--html"]
    predict.main(["--load_path", "me/model", *files, str(tmp_path / "page.html")])
    assert "me/model" in (tmp_path / "page.html").read_text()


def test_a_revision_is_a_branch_a_tag_or_a_commit(near, published, tmp_path):
    first = near.add("me/model", published)
    near.models["me/model"].revisions |= {"v1": first, "refs/pr/1": first}
    last = near.models["me/model"].commit({"model.json": b"{}"})
    for revision, commit in (("", last), ("@v1", first), ("@main", last), (f"@{first}", first)):
        assert resolve_run(f"me/model{revision}").name == commit
    for name in ("me/model@v1", "me/model@refs/pr/1"):
        predictor = Predictor.from_run(name, "cpu")
        assert predictor.run.folder.name == first and predictor.run.name == name
    with pytest.raises(UserError, match=r"me/model@v2: .*\(404\): the hub has no such model or revision"):
        resolve_run("me/model@v2")


def test_weights_are_of_the_same_commit_as_the_rest(near, published, monkeypatch):
    first = near.add("me/model", published)
    download = huggingface_hub.snapshot_download

    @functools.wraps(download)
    def and_then_someone_publishes(*args, **options):
        found = download(*args, **options)
        near.models["me/model"].commit({"model.safetensors": b"others", "new": b""})
        return found

    monkeypatch.setattr(huggingface_hub, "snapshot_download", and_then_someone_publishes)
    folder = resolve_run("me/model")
    assert folder.name == first
    assert (folder / "model.safetensors").read_bytes() == (published / "model.safetensors").read_bytes()


@pytest.mark.parametrize("missing", [*NEEDED, "model.safetensors"])
def test_a_file_that_the_hubs_model_lacks_is_named(near, published, tmp_path, missing):
    folder = shutil.copytree(published, tmp_path / "lacking")
    (folder / missing).unlink()
    near.add("me/model", folder)
    with pytest.raises(UserError, match=rf"--load_path me/model: the hub's model lacks {missing}; name a run that"):
        resolve_run("me/model")


def test_of_a_model_that_is_no_run_no_weights_are_downloaded(near, tiny_bert):
    near.add("google-bert/tiny", tiny_bert)
    with pytest.raises(UserError, match=r"google-bert/tiny: the hub's model lacks model\.json, rel2id\.json, encoder/"):
        resolve_run("google-bert/tiny")
    assert not any("safetensors" in path for _, path in near.requests)


def test_foreign_files_and_pickles_stay_on_the_hub(near, published, tmp_path):
    folder = shutil.copytree(published, tmp_path / "more")
    foreign = ["pytorch_model.bin", "model.pt", "encoder/pytorch_model.bin", "encoder/code.py", "code.py"]
    for name in foreign:
        (folder / name).write_bytes(b"foreign")
    near.add("me/model", folder)
    found = resolve_run("me/model")
    assert {path.relative_to(found).as_posix() for path in found.rglob("*.*")} == {
        path.relative_to(published).as_posix() for path in published.rglob("*.*")
    } - {"README.md"}


@pytest.mark.parametrize(
    "name",
    [
        *("absent.pt", "absent", "runs/quickstart/seed_9", "./me/model", "/me/model", "~/model", "../model"),
        *("tests/model", "me/model@", "me/mo del", "https://hub/me/model", "me/model@../x"),
    ],
)
def test_what_is_no_name_on_the_hub_is_a_path_and_nothing_is_asked(near, monkeypatch, name):
    monkeypatch.chdir(ROOT)
    for load in (Predictor.from_run, lambda name: train.main(["--load_path", name])):
        with pytest.raises(UserError, match=r"--load_path .*: no such file or folder; check the path$"):
            load(name)
    assert not near.requests


def test_a_folder_here_is_meant_before_a_model_on_the_hub(near, trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path / "me" / "model")
    monkeypatch.chdir(tmp_path)
    assert str(resolve_run("me/model")) == "me/model" and Predictor.from_run("me/model", "cpu").run.name == "me/model"
    assert not near.requests


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (401, r"\(401\): the hub has no such model, or asks for a token: check the name, run hf auth login"),
        (403, r"\(403\): this token may not do that"),
        (404, r"\(404\): the hub has no such model or revision, or hides it: check the name"),
        (429, r"\(429\): the hub asks to wait"),
        (500, r"\(500\): the hub says: .*as the test wants it.*; mend that, or try later"),
    ],
)
def test_what_the_hubs_refusal_means_is_told(near, status, told, capsys):
    near.fail = status
    with pytest.raises(UserError, match=rf"--load_path me/model: no such file or folder, and .*{told}") as found:
        resolve_run("me/model")
    assert "developer.mozilla" not in str(found.value) and f"HF_ENDPOINT={near.address}" in str(found.value)


def test_a_private_model_is_not_there_without_its_token(near, published, monkeypatch):
    near.add("me/model", published, private=True)
    monkeypatch.setenv("HF_TOKEN", "hf_of_someone")
    with pytest.raises(UserError, match=r"me/model: .*\(401\): the hub has no such model, or asks for a token"):
        resolve_run("me/model")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert (resolve_run("me/model") / "model.safetensors").exists()


def test_a_hub_that_does_not_answer_is_told_with_what_is_set(near, trained, monkeypatch):
    with socket.socket() as closed:  # the port is taken, but nobody listens
        closed.bind(("127.0.0.1", 0))
        address = f"http://me:secret@127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        for call in (lambda: resolve_run("me/model"), lambda: publish(trained, "me/model", False, None)):
            with pytest.raises(UserError, match=r"me/model: .*refused\); check name and network; set here: ") as found:
                call()
            assert "secret" not in str(found.value)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"\(Cannot reach http://\*\*\*@127") as found:
        resolve_run("me/model")
    assert "secret" not in str(found.value)


def test_what_was_downloaded_is_used_where_the_hub_is_away(near, published, monkeypatch):
    commit = near.add("me/model", published)
    assert resolve_run("me/model").name == commit
    near.fail = 500
    assert resolve_run("me/model").name == commit


def test_a_public_model_is_not_published_to_where_a_private_one_is_wanted(near, trained):
    near.models["me/model"] = Model(private=False)
    commit = near.models["me/model"].commit({"README.md": b"mine"})
    with pytest.raises(UserError, match=r"--repo me/model: is there and public; pass another name, or make it private"):
        publish(trained, "me/model", True, None)
    assert near.models["me/model"].revisions["main"] == commit
    publish(trained, "me/model", False, None)
    assert near.models["me/model"].revisions["main"] != commit and not near.models["me/model"].private
    publish(trained, "me/other", False, "mit")
    assert not near.models["me/other"].private


def test_a_published_run_is_published_again_as_a_new_commit(near, trained):
    publish(trained, "me/model", True, None)
    publish(trained, "me/model", False, "mit")
    model = near.models["me/model"]
    assert model.private and b'license: "mit"' in model.commits[model.revisions["main"]]["README.md"]


@pytest.mark.parametrize(
    ("repo", "license", "told"),
    [
        ("others/model", None, r"--repo others/model: cannot be published \(403\): this token may not do that"),
        ("me/model", "gpl", r"--repo me/model: cannot be published \(400\): the hub says: .*license.* must be one of"),
    ],
)
def test_what_the_hub_does_not_take_is_told(near, trained, repo, license, told):
    with pytest.raises(UserError, match=told):
        publish(trained, repo, False, license)
    assert all(set(files) == {".gitattributes"} for model in near.models.values() for files in model.commits.values())


def test_without_a_token_nothing_is_published(near, trained, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_someone")
    with pytest.raises(UserError, match=r"--repo me/model: cannot be published \(401\): .*set HF_TOKEN"):
        publish(trained, "me/model", False, None)
    assert not near.models
