"""Trainings of several processes, as torchrun starts them."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, tiny
from safetensors.torch import load_file
from trainings import arguments
from transformers import BertConfig, BertModel

import train


@pytest.fixture(scope="module")
def still_bert(minilm_tokenizer, tmp_path_factory):
    """A tiny encoder without dropout."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return tiny(BertConfig, BertModel, minilm_tokenizer, tmp_path_factory.mktemp("still"), **sizes, **off)


def torchrun(processes, *program):
    """Run a program in several processes on this machine; returns what it printed."""
    command = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", *program]
    found = subprocess.run(
        [sys.executable, *command],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


# What one process alone says, sums and gathers, in each of two.
TOGETHER = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from hingeabl.training import parallel
parallel.start()
rank, cpu = parallel.rank(), torch.device("cpu")
assert parallel.world_size() == 2
assert parallel.any_of_all(rank == 1, cpu) and not parallel.any_of_all(False, cpu)
assert parallel.add_over_all(torch.tensor([1.0, rank])).tolist() == [2, 1]
assert parallel.gather({"rank": rank}) == ([] if rank else [{"rank": 0}, {"rank": 1}])
parallel.finish()
"""


def test_processes_share_flags_sums_and_results(tmp_path):
    (tmp_path / "together.py").write_text(TOGETHER)
    torchrun(2, str(tmp_path / "together.py"), str(ROOT))


# Writes the gradients of the first batch, before they are clipped.
FIRST_GRADIENTS = """
import sys
sys.path.insert(0, sys.argv[1])
import train
from hingeabl.training import parallel
from pathlib import Path
from hingeabl.files import save_tensors
def write(model, *_):
    if parallel.rank() == 0:
        found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        save_tensors(Path(sys.argv[2]), found)
    raise SystemExit(0)
train.optimizer_step = write
train.main(sys.argv[3:])
"""


@pytest.mark.parametrize("backbone", ["atlop", pytest.param("kd_docre", marks=pytest.mark.slow)])
def test_two_processes_have_the_gradients_of_one_with_the_doubled_batch(backbone, sample, still_bert, tmp_path):
    """Six documents of 2, 3, 4, 6 and as many entities as they have, so of 2 to more than 100 pairs, are one batch."""
    data = tmp_path / "data"
    shutil.copytree(sample, data)
    documents = json.loads((data / "train.json").read_text())[:6]
    for document, entities in zip(documents, (2, 3, 4, 6), strict=False):
        document["vertexSet"] = document["vertexSet"][:entities]
        document["labels"] = [x for x in document["labels"] if max(x["h"], x["t"]) < entities]
    assert len(documents[5]["vertexSet"]) > 10
    (data / "train.json").write_text(json.dumps(documents))
    program = tmp_path / "first_gradients.py"
    program.write_text(FIRST_GRADIENTS)
    found = []
    for processes, batch in ((1, "6"), (2, "3")):
        path = tmp_path / f"gradients_{processes}.safetensors"
        more = ("--train_batch_size", batch, "--backbone", backbone, "--loss_type", "atl")
        torchrun(
            processes, str(program), str(ROOT), str(path), *arguments(sample, still_bert, tmp_path / path.stem, *more)
        )
        found.append(load_file(path))
    one, two = found
    assert one.keys() == two.keys() and len(one) > 20
    largest = max(gradient.abs().max() for gradient in one.values())
    for name in one:  # that of a key's bias is 0 but for rounding: softmax does not see it
        allowed = 1e-5 * one[name].abs().max() + 1e-9 * largest
        assert (one[name] - two[name]).abs().max() <= allowed, name


@pytest.mark.slow
def test_two_processes_end_with_the_scores_of_one_and_go_on_as_one(sample, still_bert, tmp_path, monkeypatch):
    shared = ("--loss_type", "atl", "--num_train_epochs", "3")

    def settings(name, batch):
        return arguments(sample, still_bert, tmp_path / name, *shared, "--train_batch_size", batch)

    train.main(settings("one", "2"))
    torchrun(2, str(ROOT / "train.py"), *settings("two", "1"))
    stopped = settings("stopped", "1")
    program = tmp_path / "two_epochs.py"
    program.write_text(TWO_EPOCHS)
    torchrun(2, str(program), str(ROOT), *stopped)
    train.main(settings("stopped", "2"))
    expected = json.loads((tmp_path / "one/seed_7/scores.json").read_text())
    losses = [loss_curve(tmp_path / name / "seed_7") for name in ("one", "two", "stopped")]
    for name, curve in zip(("two", "stopped"), losses[1:], strict=True):
        scores = json.loads((tmp_path / name / "seed_7/scores.json").read_text())
        assert scores["dev"] == pytest.approx(expected["dev"]) and scores["test"] == pytest.approx(expected["test"])
        assert curve == pytest.approx(losses[0], rel=1e-4)
        predictions = [json.loads((tmp_path / n / "seed_7/result.json").read_text()) for n in (name, "one")]
        assert predictions[0] == predictions[1]


# Stops behind the second epoch's checkpoint.
TWO_EPOCHS = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import train
from hingeabl.training import parallel, session
save = session.save
def stop(training, signal_name):
    save(training, signal_name)
    if training.place.epoch == 3:
        parallel.wait_for_all()
        parallel.finish()
        raise SystemExit(0)
session.save = stop
train.main(sys.argv[1:])
"""


def loss_curve(folder):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [record["loss"] for record in records if "loss" in record]
